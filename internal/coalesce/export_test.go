package coalesce

import "runtime"

// AwaitWaiting returns once n calls wait for a run.
func (g *Group[In, Out]) AwaitWaiting(n int) {
	for {
		g.mu.Lock()
		have := len(g.waiting)
		g.mu.Unlock()
		if have >= n {
			return
		}
		runtime.Gosched()
	}
}
