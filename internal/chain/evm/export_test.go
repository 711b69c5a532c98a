package evm

import "context"

type observed struct {
	context.Context //nolint:containedctx // it is one itself
	waits           func()
}

func (w observed) Done() <-chan struct{} {
	w.waits()
	return w.Context.Done()
}

// Waiting is a context that tells when somebody begins to wait for its end,
// which in a simulator is when its call is queued.
func Waiting(ctx context.Context, waits func()) context.Context { return observed{ctx, waits} }
