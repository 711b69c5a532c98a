package policy_test

import (
	"context"
	"encoding/binary"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/devnet"
	"facilitator/internal/payment"
	"facilitator/internal/policy"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

// openStore is one more replica's view of a record.
func openStore(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), url, store.Options{MaxConnections: 4, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func database(t *testing.T) string {
	t.Helper()
	if server == nil {
		t.Skip("no Postgres: short run, or no tools")
	}
	return server.Database(t)
}

// recorded is a gate with a record and an oracle that has these.
func recorded(t *testing.T, s *store.Store, refused ...chain.Address) *bench {
	t.Helper()
	o := &asked{bad: make(map[chain.Address]bool)}
	for _, a := range refused {
		o.bad[a] = true
	}
	return newBench(t, policy.Config{Record: s, Oracles: map[x402.Network]policy.Oracle{network: o}, OracleTTL: time.Hour})
}

func listed(t *testing.T, s *store.Store) []payment.Hits {
	t.Helper()
	page, err := s.Hits(t.Context(), payment.HitFilter{Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func total(hits []payment.Hits) (n int64) {
	for i := range hits {
		n += hits[i].Count
	}
	return n
}

func TestAHitIsRecordedWithWhatIsKnownOfIt(t *testing.T) {
	t.Parallel()
	s := openStore(t, database(t))
	b := recorded(t, s, bad)
	wantReason(t, b.pass(t, deal(by(bad))), x402.ReasonKYTRisk)
	first := b.clock()
	b.turn(time.Second)
	last := deal(by(bad))
	const client = "0198c0de-0000-7000-8000-000000000000"
	wantReason(t, b.Pass(payment.WithClient(t.Context(), client), last, nil), x402.ReasonKYTRisk)
	b.WriteHits(t.Context())
	all := listed(t, s)
	if len(all) != 1 {
		t.Fatalf("%d rows", len(all))
	}
	h := all[0]
	key := payment.HitKey{Day: first.UTC().Format(time.DateOnly), Network: network, Source: "oracle_" + string(network), Role: "payer", Address: bad}
	if h.HitKey != key || h.Count != 2 || h.Kind != "oracle" || h.Client != client || h.Nonce != last.Key.Nonce || h.PayTo != payee || h.Asset != asset ||
		h.Amount.String() != last.Amount.String() || h.LastAt.Sub(h.FirstAt) != time.Second {
		t.Errorf("recorded: %+v", h)
	}
	b.WriteHits(t.Context())
	if again := listed(t, s); total(again) != 2 {
		t.Errorf("what is recorded is recorded again: %d", total(again))
	}
}

// TestAFloodMakesFewRowsAndOneCommit: of more payers than are told apart the rest
// is counted together.
func TestAFloodMakesFewRowsAndOneCommit(t *testing.T) {
	t.Parallel()
	s := openStore(t, database(t))
	const many, named, times = 5000, 4096, 3
	payers := make([]chain.Address, many)
	for i := range payers {
		binary.BigEndian.PutUint32(payers[i][:], uint32(i)+1)
	}
	b := recorded(t, s, payers...)
	before := s.Stats().Commits
	var flood sync.WaitGroup
	for range times {
		flood.Go(func() {
			for _, p := range payers {
				if b.pass(t, deal(by(p))) == nil {
					t.Error("passed")
				}
			}
		})
	}
	flood.Wait()
	b.WriteHits(t.Context())
	all := listed(t, s)
	if len(all) != named+1 || total(all) != many*times || s.Stats().Commits != before+1 {
		t.Errorf("%d rows of %d hits in %d commits", len(all), total(all), s.Stats().Commits-before)
	}
	const beyond = (many - named) * times
	if n := b.sample(t, "screening_hits_unrecorded_total", "cause=rest"); n != beyond {
		t.Errorf("%v are counted as the rest", n)
	}
	for i := range all {
		if all[i].Rest && all[i].Count != beyond {
			t.Errorf("the rest has %d", all[i].Count)
		}
	}
	// The next day has room again.
	b.turn(24 * time.Hour)
	b.WriteHits(t.Context())
	wantReason(t, b.pass(t, deal(by(payers[many-1]))), x402.ReasonKYTRisk)
	b.WriteHits(t.Context())
	if newest := listed(t, s)[0]; newest.Rest || newest.Count != 1 {
		t.Errorf("the next day: %+v", newest)
	}
}

func TestWhoStopsRecordsFirst(t *testing.T) {
	t.Parallel()
	s := openStore(t, database(t))
	b := recorded(t, s, bad)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b.RunHits(ctx)
	}()
	wantReason(t, b.pass(t, deal(by(bad))), x402.ReasonKYTRisk)
	stop()
	<-ended
	if n := total(listed(t, s)); n != 1 {
		t.Errorf("%d recorded", n)
	}
}

// TestAnOutageLosesNoHit, unless the process ends in it; then the log says so.
func TestAnOutageLosesNoHit(t *testing.T) {
	t.Parallel()
	if server == nil {
		t.Skip("no Postgres: short run, or no tools")
	}
	tools, err := devnet.Tools("")
	if err != nil {
		t.Fatal(err)
	}
	postgres, err := devnet.StartPostgres(t.Context(), devnet.PostgresConfig{Tools: tools, Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Close(); err != nil {
			t.Error(err)
		}
	})
	s := openStore(t, postgres.URL())
	if _, err := s.MigrateUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := recorded(t, s, bad)
	hit := func() { wantReason(t, b.pass(t, deal(by(bad))), x402.ReasonKYTRisk) }
	first := b.clock()
	hit()
	postgres.Kill()
	b.WriteHits(t.Context())
	b.turn(24 * time.Hour) // and over midnight
	hit()
	b.WriteHits(t.Context())
	hit()
	if n := strings.Count(b.log.String(), "can't be recorded now"); n != 1 {
		t.Errorf("the outage is told %d times", n)
	}
	if err := postgres.Restart(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 4 { // those connections are dead that the pool still has
		b.WriteHits(t.Context())
	}
	all := listed(t, s)
	if len(all) != 2 || all[0].Count != 2 || all[1].Count != 1 || !all[1].FirstAt.Equal(first.Truncate(time.Microsecond)) {
		t.Errorf("recorded: %+v", all)
	}
	if !strings.Contains(b.log.String(), "recorded again") {
		t.Error("its end is not told")
	}

	hit()
	postgres.Kill()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	b.RunHits(ctx)
	if n := b.sample(t, "screening_hits_unrecorded_total", "cause=database"); n != 1 || !strings.Contains(b.log.String(), "this log alone has them") {
		t.Errorf("%v are told as lost", n)
	}
}
