package evm

import "context"

type watched struct {
	context.Context //nolint:containedctx // it is one itself
	waits           func()
}

func (w watched) Done() <-chan struct{} {
	w.waits()
	return w.Context.Done()
}

// Watched is a context that tells when somebody begins to wait for its end,
// which in a simulator is when its call is queued.
func Watched(ctx context.Context, waits func()) context.Context { return watched{ctx, waits} }
