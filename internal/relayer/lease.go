package relayer

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"facilitator/internal/payment"
)

// keepLeases renews the leases this process has and takes over lanes that nobody
// has, so that a lane of a replica that died is worked again within LeaseTTL.
func (c *Chain) keepLeases(ctx context.Context) {
	for {
		if err := c.leaseOnce(ctx); err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "leases not renewed", slog.Any("error", err))
		}
		if !sleep(ctx, c.Config.LeaseTTL/4) {
			return
		}
	}
}

func (c *Chain) leaseOnce(ctx context.Context) error {
	until := c.Now().Add(c.Config.LeaseTTL) // before the database counts from later on
	var held []payment.Lane
	var free []*lane
	for _, l := range c.wallets() {
		row, ok := l.lease()
		switch {
		case ok:
			held = append(held, row)
		case row.Epoch != 0:
			l.lose(ctx, row.Epoch, "it was not renewed in time")
			free = append(free, l)
		default:
			free = append(free, l)
		}
	}
	if len(held) > 0 {
		renewed, err := c.Store.RenewLanes(ctx, held, c.Config.LeaseTTL)
		if err != nil {
			return err
		}
		c.renewed(ctx, held, renewed, until)
	}
	for _, l := range free {
		row, ok, err := c.Store.AcquireLane(ctx, l.row, c.Config.Holder, c.Config.LeaseTTL)
		if err != nil {
			return err
		}
		if ok {
			l.gain(row, until)
			signal(c.look)
		}
	}
	return nil
}

func (c *Chain) renewed(ctx context.Context, held []payment.Lane, renewed []int64, until time.Time) {
	for _, l := range c.wallets() {
		i := slices.IndexFunc(held, func(h payment.Lane) bool { return h.ID == l.row.ID })
		if i < 0 {
			continue
		}
		if !slices.Contains(renewed, l.row.ID) {
			l.lose(ctx, held[i].Epoch, "another replica has it")
			continue
		}
		l.mu.Lock()
		if l.epoch == held[i].Epoch {
			l.until = until
		}
		l.mu.Unlock()
	}
}

// releaseLanes gives the lanes back when the process stops, so that another
// replica has them at once.
func (c *Chain) releaseLanes(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Config.LeaseTTL)
	defer cancel()
	var held []payment.Lane
	for _, l := range c.wallets() {
		if row, ok := l.lease(); ok {
			held = append(held, row)
		}
	}
	if len(held) == 0 {
		return
	}
	if err := c.Store.ReleaseLanes(ctx, held); err != nil {
		c.Log.WarnContext(ctx, "lanes not given back, their leases will run out", slog.Any("error", err))
	}
}
