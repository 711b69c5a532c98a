package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/chain/evm"
)

// examination of one network.
type examination struct {
	*Network
	record Record
	now    func() time.Time
	report *Report
	// node is the first that may be read from; nil if there is none.
	node Node
	// head is the newest that any node has.
	head chain.Head
}

func (e *examination) add(area, subject string, s Status, format string, args ...any) {
	e.report.Add(Check{Area: area, Network: string(e.Name), Subject: subject, Status: s, Detail: fmt.Sprintf(format, args...)})
}

func (e *examination) run(ctx context.Context) {
	e.examineNodes(ctx)
	e.examineFeed(ctx)
	e.examineSigners()
	if e.node == nil {
		e.add("network", "", Fail, "clock, contracts, tokens and lanes were not looked at: no node can be read from")
		return
	}
	e.examineClock()
	e.examineContracts(ctx)
	e.examineTokens(ctx)
	e.examineWallets(ctx)
}

// examineNodes looks at each by itself: one that works hides another that does
// not from everybody else.
func (e *examination) examineNodes(ctx context.Context) {
	heads := make([]*chain.Head, len(e.Nodes))
	for i, n := range e.Nodes {
		id, err := n.Node.ChainID(ctx)
		switch {
		case err != nil:
			e.add("node", n.Name, Fail, "%s", nodeProblem(err))
			continue
		case id != e.ChainID:
			e.add("node", n.Name, Fail, "it serves chain %d, not %d", id, e.ChainID)
			continue
		}
		head, err := n.Node.Head(ctx)
		if err != nil {
			e.add("node", n.Name, Fail, "its latest block: %s", nodeProblem(err))
			continue
		}
		heads[i] = &head
		if head.Number >= e.head.Number {
			e.head = head
		}
		if e.node == nil && !n.SendsOnly {
			e.node = n.Node
		}
	}
	for i, n := range e.Nodes {
		if heads[i] != nil {
			e.examineHead(n, *heads[i])
			e.examineFeatures(ctx, n)
		}
	}
}

func (e *examination) examineHead(n NamedNode, head chain.Head) {
	age := e.age(head)
	detail := fmt.Sprintf("chain %d, block %d, %s old", e.ChainID, head.Number, max(0, age))
	switch {
	case head.Number+e.MaxLag < e.head.Number:
		e.add("node", n.Name, Fail, "%s: %d blocks behind another node, max_lag is %d", detail, e.head.Number-head.Number, e.MaxLag)
	case age > max(e.StallAfter, e.MaxClockSkew):
		e.add("node", n.Name, Fail, "%s: the node or the chain stands still, or our clock is wrong", detail)
	default:
		e.add("node", n.Name, OK, "%s", detail)
	}
}

// age of a block by our clock, in whole seconds as blocks count them.
func (e *examination) age(head chain.Head) time.Duration {
	return e.now().Sub(time.Unix(int64(head.Time), 0)).Round(time.Second) //nolint:gosec // G115: seconds
}

func (e *examination) examineFeatures(ctx context.Context, n NamedNode) {
	const few = 25
	f := n.Node.Features(ctx)
	status, why := OK, ""
	warn := func(text string) {
		status = Warn
		why += "; " + text
	}
	if !n.SendsOnly {
		if f.Finalized != evm.Supported && e.FinalizedTag {
			warn("without the finalized tag nothing becomes final: set finality_depth")
		}
		if f.Safe != evm.Supported {
			warn("Settlement-Wait: safe can't be reached")
		}
	}
	if f.Batch < few {
		warn("batches are cut short, and questions fail under load")
	}
	e.add("features", n.Name, status, "tags safe %s, finalized %s, pending %s; eth_sendRawTransactionSync %s; batches of %d%s",
		f.Safe, f.Finalized, f.Pending, f.SyncSend, f.Batch, why)
}

func (e *examination) examineFeed(ctx context.Context) {
	if e.Feed == nil {
		return
	}
	id, head, err := e.Feed.Check(ctx)
	switch {
	case err != nil:
		e.add("node", "ws_url", Warn, "%s; blocks are asked for instead", nodeProblem(err))
	case id != e.ChainID:
		e.add("node", "ws_url", Fail, "it serves chain %d, not %d", id, e.ChainID)
	default:
		e.add("node", "ws_url", OK, "newHeads, block %d", head.Number)
	}
}

// nodeProblem is a node's error as the client words it, without what every one
// of them begins with.
func nodeProblem(err error) string {
	if revert, ok := evm.IsRevert(err); ok {
		return revert.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return err.Error()
}

func (e *examination) examineClock() {
	skew := e.age(e.head)
	switch {
	case skew < -e.MaxClockSkew:
		e.add("clock", "", Fail, "ours is %s behind the newest block", skew.Abs())
	case skew > e.MaxClockSkew:
		e.add("clock", "", Fail, "ours is %s ahead of the newest block, or the chain stands still", skew)
	default:
		e.add("clock", "", OK, "ours is within %s of the newest block", skew.Abs())
	}
}

func (e *examination) examineContracts(ctx context.Context) {
	code, err := e.node.Code(ctx, e.Multicall)
	subject := "Multicall3"
	switch {
	case err != nil:
		e.add("contract", subject, Fail, "%s", nodeProblem(err))
	case len(code) > 0:
		e.add("contract", subject, OK, "%d bytes of code at %s", len(code), e.Multicall)
	case len(e.Factories) > 0:
		e.add("contract", subject, Fail, "no code at %s: wallets that are not deployed need it", e.Multicall)
	case e.Batches:
		e.add("contract", subject, Warn, "no code at %s: every payment goes alone", e.Multicall)
	default:
		e.add("contract", subject, OK, "no code at %s, and nothing needs it", e.Multicall)
	}
	for _, f := range e.Factories {
		code, err := e.node.Code(ctx, f)
		switch {
		case err != nil:
			e.add("contract", "factory "+f.String(), Fail, "%s", nodeProblem(err))
		case len(code) == 0:
			e.add("contract", "factory "+f.String(), Fail, "no code there")
		default:
			e.add("contract", "factory "+f.String(), OK, "%d bytes of code", len(code))
		}
	}
}

func (e *examination) examineTokens(ctx context.Context) {
	for _, a := range e.Assets {
		t, err := e.node.TokenFacts(ctx, a)
		if err != nil {
			e.add("token", a.String(), Fail, "%s", nodeProblem(err))
			continue
		}
		status, detail := token(t, e.ChainID, a)
		e.add("token", a.String(), status, "%s", detail)
	}
}

// token judges what a token says of itself.
func token(t evm.Token, chainID uint64, a chain.Address) (Status, string) {
	said := fmt.Sprintf("name %q, version %q, %d decimals", t.Name, t.Version, t.Decimals)
	switch {
	case !t.HasCode:
		return Fail, "no code there"
	case t.Name == "" || t.Version == "":
		return Warn, said + "; what it does not tell, resource servers must give in extra"
	case t.DomainSeparator.IsZero():
		return Warn, said + "; it does not tell its DOMAIN_SEPARATOR, so they can't be checked"
	case t.DomainSeparator != evm.DomainSeparator(t.Name, t.Version, chainID, a):
		return Fail, said + "; they do not make its DOMAIN_SEPARATOR, so nothing that is signed with them is valid"
	default:
		return OK, said + ", DOMAIN_SEPARATOR agrees"
	}
}
