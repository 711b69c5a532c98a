package store_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

const password = "hunter2-of-the-database"

func discreet(t *testing.T, err error) {
	t.Helper()
	if err != nil && (strings.Contains(err.Error(), password) || strings.Contains(err.Error(), "postgres://")) {
		t.Errorf("the error tells the URL (I10): %v", err)
	}
}

func TestAnUnusableURLIsRefusedWithoutShowingIt(t *testing.T) {
	t.Parallel()
	o := store.Options{MaxConnections: 2, Timeout: time.Minute}
	for name, c := range map[string]struct {
		url         string
		unavailable bool
	}{
		"nobody listens":    {"postgres://me:" + password + "@127.0.0.1:1/facilitator", true},
		"no such host":      {"postgres://me:" + password + "@host.invalid/facilitator", true},
		"no such port":      {"postgres://me:" + password + "@127.0.0.1:port/facilitator", false},
		"no such option":    {"postgres://me:" + password + "@127.0.0.1/facilitator?sslmode=perhaps", false},
		"a stray character": {"postgres://me:" + password + "%zz@127.0.0.1/facilitator", false},
		"a slash inside":    {"postgres://me:" + password + "/x@127.0.0.1/facilitator", false},
		"words":             {"password=" + password + " port=x", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := store.Open(t.Context(), c.url, o)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			discreet(t, err)
			if c.unavailable {
				wantErr(t, err, payment.ErrUnavailable)
			}
		})
	}
}

func TestAWrongPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(databaseURL(t))
	must(t, err)
	u.User = url.UserPassword("nobody", password)
	s, err := store.Open(t.Context(), u.String(), store.Options{MaxConnections: 2, Timeout: time.Minute})
	if err == nil {
		s.Close()
		t.Skip("this server trusts everybody")
	}
	discreet(t, err)
	wantErr(t, err, payment.ErrUnavailable)
}

// everyMethod is each method of the store that reads or writes.
func everyMethod(s *store.Store) map[string]func(context.Context) error {
	drop := func(_ any, err error) error { return err }
	const id = payment.ID("0198c0de-0000-7000-8000-000000000000")
	lane := payment.Lane{ID: 1}
	p := sale(1)
	return map[string]func(context.Context) error{
		"Ping":         func(ctx context.Context) error { return s.Ping(ctx) },
		"ClaimPayment": func(ctx context.Context) error { _, _, err := s.ClaimPayment(ctx, sale(1), nil); return err },
		"PaymentByKey": func(ctx context.Context) error { return drop(s.PaymentByKey(ctx, p.Terms.Key)) },
		"Exposure": func(ctx context.Context) error {
			return drop(s.Exposure(ctx, p.Terms, payment.ExposureInFlight))
		},
		"Exposure, mode off":    func(ctx context.Context) error { return drop(s.Exposure(ctx, p.Terms, payment.ExposureOff)) },
		"Reserve":               func(ctx context.Context) error { return s.Reserve(ctx, p.Terms, room(0), time.Hour) },
		"PaymentByID":           func(ctx context.Context) error { return drop(s.PaymentByID(ctx, id)) },
		"PaymentsByTransaction": func(ctx context.Context) error { return drop(s.PaymentsByTransaction(ctx, network, chain.Hash{})) },
		"PaymentsByNonce": func(ctx context.Context) error {
			return drop(s.PaymentsByNonce(ctx, network, chain.Address{}, chain.Hash{}))
		},
		"CountQueued": func(ctx context.Context) error { return drop(s.CountQueued(ctx, network)) },
		"Standings":   func(ctx context.Context) error { return drop(s.Standings(ctx, []payment.ID{id})) },
		"Collect": func(ctx context.Context) error {
			_, _, err := s.Collect(ctx, id, newCall(), chain.Hash{}, 1)
			return err
		},
		"ReturnAnswer": func(ctx context.Context) error { return s.ReturnAnswer(ctx, id, newCall()) },
		"EnsureLane": func(ctx context.Context) error {
			return drop(s.EnsureLane(ctx, network, chain.Address{}, payment.RoleRelayer, 0))
		},
		"NextWalletNonce": func(ctx context.Context) error { return drop(s.NextWalletNonce(ctx, lane)) },
		"AcquireLane": func(ctx context.Context) error {
			_, ok, err := s.AcquireLane(ctx, lane, newCall(), time.Minute)
			return drop(ok, err)
		},
		"RenewLanes":       func(ctx context.Context) error { return drop(s.RenewLanes(ctx, []payment.Lane{lane}, time.Minute)) },
		"ReleaseLanes":     func(ctx context.Context) error { return s.ReleaseLanes(ctx, []payment.Lane{lane}) },
		"LaneReorgs":       func(ctx context.Context) error { return drop(s.LaneReorgs(ctx, network)) },
		"FillNonce":        func(ctx context.Context) error { return drop(s.FillNonce(ctx, lane, 0, signer(lane))) },
		"ReopenReplaced":   func(ctx context.Context) error { return drop(s.ReopenReplaced(ctx, lane, 1)) },
		"ParkLane":         func(ctx context.Context) error { return s.ParkLane(ctx, lane, "poor") },
		"Take":             func(ctx context.Context) error { return drop(s.Take(ctx, lane, work(1, alone(lane)))) },
		"AddAttempt":       func(ctx context.Context) error { return drop(s.AddAttempt(ctx, lane, 1, signer(lane))) },
		"SignTopUp":        func(ctx context.Context) error { return drop(s.SignTopUp(ctx, lane, topUp(lane, 1, 1))) },
		"MarkBroadcast":    func(ctx context.Context) error { return s.MarkBroadcast(ctx, lane, []int64{1}) },
		"OpenTransactions": func(ctx context.Context) error { return drop(s.OpenTransactions(ctx, lane)) },
		"RecordInclusions": func(ctx context.Context) error {
			return s.RecordInclusions(ctx, lane, []payment.Inclusion{{Receipt: &chain.Receipt{}}})
		},
		"RecordReplaced": func(ctx context.Context) error { return s.RecordReplaced(ctx, lane, 1) },
		"SpentToday":     func(ctx context.Context) error { return drop(s.SpentToday(ctx, network)) },
		"RecordOutcome":  func(ctx context.Context) error { return s.RecordOutcome(ctx, p.Requeued()) },
		"Withdraw":       func(ctx context.Context) error { return s.Withdraw(ctx, id, x402.ReasonUnexpectedSettle, "") },
		"WatchedBlocks":  func(ctx context.Context) error { return drop(s.WatchedBlocks(ctx, network, 1, 1, 1)) },
		"RecordFinal":    func(ctx context.Context) error { return s.RecordFinal(ctx, network, []chain.Head{{}}) },
		"AddHits":        func(ctx context.Context) error { return s.AddHits(ctx, []payment.Hits{refusal(1, 1)}) },
		"Hits":           func(ctx context.Context) error { return drop(s.Hits(ctx, payment.HitFilter{Limit: 1})) },
		"ForgetHits":     func(ctx context.Context) error { return drop(s.ForgetHits(ctx, time.Now())) },
		"RecordReorg":    func(ctx context.Context) error { return s.RecordReorg(ctx, network, chain.Head{}) },
	}
}

// TestAnOutageOfTheRecordJudgesNothing cuts the store off from its database.
func TestAnOutageOfTheRecordJudgesNothing(t *testing.T) {
	t.Parallel()
	t.Run("the pool is closed", func(t *testing.T) {
		t.Parallel()
		s := openStore(t, databaseURL(t))
		s.Close()
		for name, do := range everyMethod(s) {
			err := do(t.Context())
			discreet(t, err)
			if err == nil {
				t.Errorf("%s answers", name)
			}
			wantErr(t, err, payment.ErrUnavailable)
		}
	})

	t.Run("the database is gone", func(t *testing.T) {
		t.Parallel()
		r := open(t)
		other, err := url.Parse(r.url)
		must(t, err)
		name := other.Path[1:]
		other.Path = "/postgres"
		admin := connect(t, other.String())
		rename := func(from, to string) {
			t.Helper()
			_, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", from)
			must(t, err)
			_, err = admin.Exec(t.Context(), "ALTER DATABASE "+pgx.Identifier{from}.Sanitize()+" RENAME TO "+pgx.Identifier{to}.Sanitize())
			must(t, err)
		}
		rename(name, "gone_"+name)
		for method, do := range everyMethod(r.Store) {
			err := do(t.Context())
			discreet(t, err)
			if err == nil {
				t.Errorf("%s answers", method)
			}
			wantErr(t, err, payment.ErrUnavailable)
		}
		rename("gone_"+name, name)
		if _, err := r.CountQueued(t.Context(), network); err != nil {
			t.Errorf("the database is back: %v", err)
		}
	})

	t.Run("the caller's time is up", func(t *testing.T) {
		t.Parallel()
		s := openStore(t, databaseURL(t))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, do := range everyMethod(s) {
			wantErr(t, do(ctx), payment.ErrUnavailable)
		}
	})
}
