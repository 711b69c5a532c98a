package relayer

import "time"

// pace says when the receipt of a transaction is worth asking for before the next
// poll. Every question costs a round trip and, at many providers, money: so the
// first one comes when this chain's transactions tend to be mined, learned from
// those before, and each further one when the transaction has waited twice as
// long. Where that is longer than the poll's interval the poll takes over.
//
// The tracker alone uses it.
type pace struct {
	first time.Duration // from signing to the first question
	most  time.Duration // between two questions: the poll's interval
}

// leastPace is where learning begins and where it ends.
const leastPace = 3 * time.Millisecond

func newPace(poll time.Duration) pace { return pace{first: min(leastPace, poll), most: poll} }

// learn takes that a transaction signed at since was seen mined at seen, by the
// first question about it or by a later one. The first question should miss now
// and then: one that never does may come too late.
func (p *pace) learn(since, seen time.Time, byFirst bool) {
	if byFirst {
		p.first -= p.first / 32
	} else {
		p.first += (seen.Sub(since) - p.first) / 8
	}
	p.first = min(max(p.first, leastPace), p.most)
}

// next is when to ask about a transaction that waits since it was signed and was
// last asked about at asked, if at all; false where the poll is soon enough.
func (p *pace) next(since, asked time.Time) (time.Time, bool) {
	if !asked.After(since) {
		return since.Add(p.first), true
	}
	waited := asked.Sub(since)
	return asked.Add(waited), waited < p.most
}
