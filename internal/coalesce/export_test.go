package coalesce

import "runtime"

// AwaitWaiting returns once n calls wait for a run.
func (g *Group[In, Out]) AwaitWaiting(n int) {
	for g.Waiting() < n {
		runtime.Gosched()
	}
}
