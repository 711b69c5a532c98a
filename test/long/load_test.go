package long

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/audit"
	"facilitator/internal/devnet"
)

const (
	// Of every so many payments one is of a payer who has money for one of two.
	poorEvery = 100
	poorHas   = 1_000
	// callPatience is how long a caller waits for one answer.
	callPatience = 12 * time.Second
)

// kind is how a caller behaves.
type kind int

const (
	plain  kind = iota // repeats until there is an answer
	twin               // two callers with the same body at once
	keyed              // with an Idempotency-Key, and once more after success
	nosy               // once more after success
	hangup             // gives the first call no time
	brief              // the authorization expires soon
	poor               // two payments, money for one
)

// load calls /settle as resource servers do, and keeps what it is told.
type load struct {
	rig    *rig
	target int64
	client *http.Client
	next   atomic.Int64
	ended  atomic.Int64
	run    sync.WaitGroup
	ctx    context.Context //nolint:containedctx // of the suite, for its callers
	stop   context.CancelFunc

	mu      sync.Mutex
	file    *os.File
	answers *bufio.Writer
	mayFail map[common.Hash]bool // authorization nonces
	// more keeps callers calling after the target; see keepOn.
	more func() bool
}

func newLoad(r *rig, payments int) *load {
	r.t.Helper()
	callers := size(r.t, "CALLERS", 24, 96)
	l := &load{rig: r, target: int64(payments), mayFail: map[common.Hash]bool{}, more: func() bool { return false }}
	l.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * callers, DisableCompression: true}, Timeout: callPatience}
	r.t.Cleanup(l.client.CloseIdleConnections)
	var err error
	l.file, err = os.Create(r.path("answers"))
	r.must(err)
	l.answers = bufio.NewWriter(l.file)
	l.ctx, l.stop = context.WithTimeout(r.t.Context(), time.Duration(size(r.t, "MINUTES", 3, 90))*time.Minute)
	r.t.Cleanup(func() {
		l.stop()
		l.run.Wait()
		_ = l.file.Close() // flushed by close, or of no use
	})
	return l
}

// start has the callers call until the target is reached and more says no.
func (l *load) start(more func() bool) {
	l.more = more
	for n := range size(l.rig.t, "CALLERS", 24, 96) {
		l.run.Go(func() { l.caller(n) })
	}
	l.run.Go(l.progress)
}

// busy says whether there is still something to call for.
func (l *load) busy() bool {
	return l.ctx.Err() == nil && (l.ended.Load() < l.target || l.more())
}

// close waits for all callers and for the file.
func (l *load) close() {
	l.rig.t.Helper()
	l.run.Wait()
	if l.ctx.Err() != nil {
		l.rig.t.Errorf("time ran out after %d payments of %d", l.ended.Load(), l.target)
	}
	l.stop()
	l.rig.must(l.answers.Flush())
}

// await looks often until something holds, or time is up.
func (l *load) await(holds func() bool, most time.Duration) {
	ctx, cancel := context.WithTimeout(l.ctx, most)
	defer cancel()
	for !holds() {
		if !rest(ctx, 20*time.Millisecond) {
			return
		}
	}
}

// progress tells people who wait.
func (l *load) progress() {
	began, last := time.Now(), int64(0)
	for l.busy() && rest(l.ctx, 500*time.Millisecond) {
		done := l.ended.Load()
		if world.long && time.Since(began) > 15*time.Second {
			fmt.Printf("%s: %d of %d payments, %d in 15 s, %d kills\n", l.rig.name, done, l.target, done-last, l.rig.killed())
			began, last = time.Now(), done
		}
	}
}

func (l *load) caller(n int) {
	d := dice(l.rig.name+" caller", n)
	for l.busy() && (l.next.Load() < l.target || l.more()) {
		i := l.next.Add(1) - 1
		l.sell(dice(l.rig.name+" payment", int(i)), int(i))
		l.ended.Add(1)
		pause := time.Duration(0)
		switch {
		case i >= l.target: // there are enough: just keep what makes trouble busy
			pause = between(d, 100*time.Millisecond, time.Second)
		case d.IntN(20) == 0:
			pause = between(d, 0, 50*time.Millisecond)
		}
		if pause > 0 && !rest(l.ctx, pause) {
			return
		}
	}
}

// sell makes one payment, or two of a poor payer, as the seed has it.
func (l *load) sell(d *rand.Rand, i int) {
	s := devnet.Sale{Payer: l.rig.payers[d.IntN(len(l.rig.payers))], PayTo: l.rig.payees[d.IntN(len(l.rig.payees))], Amount: 1 + d.Uint64N(1000)}
	how, validity := plain, 12*time.Hour
	switch p := d.IntN(100); {
	case p < 3:
		how = twin
	case p < 8:
		how = keyed
	case p < 13:
		how = nosy
	case p < 16:
		how = hangup
	case p < 18:
		how, validity = brief, between(d, 3*time.Second, 12*time.Second)
	}
	if i%poorEvery == poorEvery/2 && i/poorEvery < len(l.rig.poor) {
		how = poor
		s.Payer, s.Amount = l.rig.poor[i/poorEvery], poorHas
	}
	first := l.order(d, s, how, validity)
	second := first
	if how == poor {
		second = l.order(d, s, how, validity)
	}
	if how != twin && how != poor {
		l.collect(first)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { l.collect(first) })
	l.collect(second)
	both.Wait()
}

// order is a payment to collect.
type order struct {
	key   audit.Key
	body  []byte
	how   kind
	idem  string
	first int // the replica to begin with
	brief time.Duration
}

func (l *load) order(d *rand.Rand, s devnet.Sale, how kind, validity time.Duration) *order {
	for i := range s.Nonce {
		s.Nonce[i] = byte(d.Uint32())
	}
	o := &order{
		key: audit.Key{Network: l.rig.chain.Network(), Contract: l.rig.chain.USDC(), Payer: s.Payer.Address, Nonce: s.Nonce},
		how: how, first: d.IntN(1 << 20), brief: between(d, 10*time.Millisecond, 400*time.Millisecond),
	}
	if how == keyed {
		o.idem = fmt.Sprintf("key-%x", s.Nonce[:8])
	}
	if how == brief || how == poor {
		l.mu.Lock()
		l.mayFail[o.key.Nonce] = true
		l.mu.Unlock()
	}
	request, err := l.rig.chain.Request(s.ForNow(time.Now(), validity))
	if err == nil {
		o.body, err = json.Marshal(request)
	}
	if err != nil {
		l.rig.t.Errorf("sign: %v", err)
	}
	return o
}

// collect repeats the identical call until it is answered for good.
func (l *load) collect(o *order) {
	wait := 20 * time.Millisecond
	for attempt := 0; l.ctx.Err() == nil; attempt++ {
		patience := callPatience
		if o.how == hangup && attempt == 0 {
			patience = o.brief
		}
		a, again := l.call(o, attempt, patience)
		if !again {
			l.judge(o, a)
			break
		}
		l.rig.count("calls repeated", 1)
		if !rest(l.ctx, wait) {
			return
		}
		wait = min(2*wait, 500*time.Millisecond)
	}
}

// judge looks at a final answer, and asks once more where that is the caller's way.
func (l *load) judge(o *order, a reply) {
	switch {
	case a.Success && (o.how == nosy || o.how == keyed):
		for attempt := 0; l.ctx.Err() == nil; attempt++ {
			second, again := l.call(o, attempt, callPatience)
			if !again {
				if o.how == keyed && !second.replayed && second.ErrorReason != "" {
					l.rig.count("keyed repeats that were not told the success again", 1)
				}
				return
			}
			if !rest(l.ctx, 100*time.Millisecond) {
				return
			}
		}
	case a.Success || a.ErrorReason == "duplicate_settlement":
	case o.how == brief || o.how == poor:
		l.rig.count("refused, as is right: "+a.ErrorReason, 1)
	default:
		l.rig.count("refused falsely: "+a.ErrorReason, 1)
		if l.rig.counted("refused falsely: "+a.ErrorReason) <= 3 {
			l.rig.t.Errorf("a good payment was refused: %s: %s (%s)", a.ErrorReason, a.ErrorMessage, o.key)
		}
	}
}

// reply is the body of an answer to /settle, with what its headers say.
type reply struct {
	Success      bool   `json:"success"`
	ErrorReason  string `json:"errorReason"`
	ErrorMessage string `json:"errorMessage"`
	Transaction  string `json:"transaction"`
	replayed     bool
}

// call makes one call. again says that it judged nothing, or not yet.
func (l *load) call(o *order, attempt int, patience time.Duration) (a reply, again bool) {
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	replica := l.rig.replicas[(o.first+attempt)%len(l.rig.replicas)]
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, replica.url+"/settle", bytes.NewReader(o.body))
	if err != nil {
		l.rig.t.Errorf("request: %v", err)
		return a, false
	}
	req.Header.Set("Content-Type", "application/json")
	if o.idem != "" {
		req.Header.Set("Idempotency-Key", o.idem)
	}
	response, err := l.client.Do(req)
	if err != nil {
		return a, true
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil {
		return a, true
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusServiceUnavailable:
		l.rig.count("answers 503", 1)
		return a, true
	default:
		l.rig.count("answers "+response.Status, 1)
		l.rig.t.Errorf("%s: %s", response.Status, raw)
		return a, response.StatusCode >= http.StatusInternalServerError
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		l.rig.t.Errorf("not an answer: %q", raw)
		return a, false
	}
	if a.ErrorReason == "settlement_pending" {
		l.rig.count("answers pending", 1)
		return a, true
	}
	a.replayed = strings.EqualFold(response.Header.Get("Idempotent-Replayed"), "true")
	l.keep(o, a)
	return a, false
}

// keep writes an answer down.
func (l *load) keep(o *order, a reply) {
	line, err := json.Marshal(audit.Answer{
		Key: o.key, Success: a.Success, Replayed: a.replayed, Transaction: a.Transaction, Reason: a.ErrorReason, At: time.Now(),
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		_, err = l.answers.Write(append(line, '\n'))
	}
	if err != nil {
		l.rig.t.Errorf("answers: %v", err)
	}
}
