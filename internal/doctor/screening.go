package doctor

import (
	"context"
	"fmt"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/policy"
)

// Screening asks every source of screening about an address; *policy.Inspector
// does.
type Screening interface {
	Ask(ctx context.Context, a chain.Address) []policy.Word
}

// examineScreening asks about the zero address, which nobody pays from: any answer
// will do.
func examineScreening(ctx context.Context, p Plan, r *Report) {
	if p.Screening == nil {
		return
	}
	for _, w := range p.Screening.Ask(ctx, chain.Address{}) {
		c := Check{Area: "screening", Network: string(w.Network), Subject: w.Source, Status: OK}
		if w.Kind == "oracle" {
			c.Subject = w.Kind // its name has the network already
		}
		c.Status, c.Detail = screening(w, p.Now())
		r.Add(c)
	}
}

// screening judges a source by what it says of the zero address.
func screening(w policy.Word, now time.Time) (Status, string) {
	detail := "it answers"
	if w.Addresses > 0 {
		detail = fmt.Sprintf("%d addresses, %s old", w.Addresses, max(0, now.Sub(w.Of)).Round(time.Second))
		if w.MaxAge > 0 {
			detail += ", max_age is " + w.MaxAge.String()
		}
	}
	switch {
	case w.Err != nil && w.Addresses > 0:
		return Fail, detail + ": " + w.Err.Error()
	case w.Err != nil:
		return Fail, nodeProblem(w.Err)
	case w.Hit && w.Kind == "oracle":
		return Warn, detail + ", and has the zero address: is it an oracle?"
	default:
		return OK, detail
	}
}
