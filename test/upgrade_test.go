package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"facilitator/internal/devnet"
)

// TestRoll: the build before the newest migration, built from the history, is
// replaced by this one while customers pay, and comes back. Both work the same
// lanes on the new schema, nobody is refused, and each payment is made once
// (docs/upgrading.md).
func TestRoll(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds two programs")
	}
	folder := earlierSource(t)
	before, now := buildSource(t, folder), buildBinary(t)

	c := startChain(t, devnet.ChainConfig{})
	if err := c.SetIntervalMining(t.Context(), 250*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	from := height(t, c)
	s := setup{chain: c, lanes: newKeys(t, devnet.RoleLane, 2)}
	config := s.writeConfig(t)
	earlierConfig := configFor(t, config, folder)
	unstick(t, c, s.lanes)
	queryRows[string](t, s.databaseURL, "DROP SCHEMA public CASCADE")
	queryRows[string](t, s.databaseURL, "CREATE SCHEMA public")
	replica := func(binary, config string) (*binaryRun, *service) {
		t.Helper()
		// At a signal it takes calls for a while, as behind a load balancer.
		b := startBinary(t, binary, []string{"FACILITATOR_HTTP_DRAIN_DELAY=1s"}, "serve", "-config", config)
		return b, b.service(t, s)
	}
	migrate := func(binary, config string) []string {
		t.Helper()
		b := startBinary(t, binary, nil, "migrate", "up", "-config", config)
		<-b.done
		if code := b.cmd.ProcessState.ExitCode(); code != 0 {
			t.Fatalf("migrate up ended with %d: %s", code, b.err.String())
		}
		return queryRows[string](t, s.databaseURL, "SELECT version_id::text FROM goose_db_version WHERE is_applied ORDER BY id")
	}
	holder := func(name, but string) (id string) {
		t.Helper()
		eventually(t, name+" holds the lanes", func() bool { id = holds(t, s.databaseURL, 2); return id != but })
		return id
	}

	oldSchema := migrate(before, earlierConfig)
	first, old := replica(before, earlierConfig)
	crowd := newCustomers(t, c, old)
	crowd.settled(t, "on the old schema", old)
	oldLease := holder("the old replica", "")

	newSchema := migrate(now, config)
	if len(newSchema) <= len(oldSchema) {
		t.Fatalf("the schema of the build before has migrations %v, that of this one %v", oldSchema, newSchema)
	}
	crowd.settled(t, "by the old build, on the new schema", old)

	second, young := replica(now, config)
	crowd.ask(old, young)
	crowd.settled(t, "beside the new one", old)
	crowd.settled(t, "beside the old one", young)
	crowd.across(t, old, young)
	crowd.across(t, young, old)
	if lease := holder("the old replica", ""); lease != oldLease {
		t.Errorf("the lanes passed from %s to %s, whose holder lives", oldLease, lease)
	}

	crowd.ask(young)
	first.wantStopped(t, syscall.SIGTERM)
	crowd.settled(t, "after the old one stopped", young)
	newLease := holder("the new replica", oldLease)

	// And back: this build goes, the one before stays, and the schema as it is.
	third, back := replica(before, earlierConfig)
	crowd.ask(back, young)
	crowd.settled(t, "by lanes that the new build holds", back)
	crowd.across(t, back, young)
	crowd.across(t, young, back)
	crowd.ask(back)
	second.wantStopped(t, syscall.SIGTERM)
	crowd.settled(t, "after the new one stopped", back)
	holder("the old build's replica", newLease)

	deals, answers := crowd.leave(t)
	third.wantStopped(t, syscall.SIGTERM)
	if schema := migrate(now, config); !slices.Equal(schema, newSchema) {
		t.Errorf("migrations %v, and %v before", schema, newSchema)
	}
	deals.check(t, c, from, answers)
	checkBatches(t, s.databaseURL, c, len(deals.bodies))
	judge := startBinary(t, now, nil, "audit", "-config", config, "-settled")
	<-judge.done
	if code := judge.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the audit ended with %d: %s", code, judge.out.String())
	}
	t.Logf("%d payments while migrations %v became %v", len(deals.bodies), oldSchema, newSchema)
}

// earlierSource is a folder with the source before the newest migration. Where
// the history has not got it, as in a shallow clone, the test is skipped.
func earlierSource(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), "git", append([]string{"-C", ".."}, args...)...)
		command.Env = append(os.Environ(), "GIT_INDEX_FILE="+filepath.Join(folder, ".index"))
		out, err := command.Output()
		if err != nil {
			var told string
			if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
				told = string(failed.Stderr)
			}
			t.Skipf("NOT TESTED, the history is not here: git %s: %v %s", strings.Join(args, " "), err, told)
		}
		return strings.TrimSpace(string(out))
	}
	files, err := filepath.Glob("../migrations/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("migrations: %v, %v", files, err)
	}
	earlier := "HEAD" // where the newest is not committed yet
	if added := git("log", "--first-parent", "--diff-filter=A", "--max-count=1", "--format=%H", "--", "migrations/"+filepath.Base(files[len(files)-1])); added != "" {
		earlier = git("rev-parse", "--verify", added+"^")
	}
	git("read-tree", earlier)
	git("checkout-index", "--all", "--prefix="+folder+"/")
	t.Logf("the build before is that of %s", git("log", "--max-count=1", "--format=%h of %cs, %s", earlier))
	return folder
}

// configFor writes what the build in a folder understands of a configuration.
func configFor(t *testing.T, file, folder string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "migrations", "00006_clients.sql")); err != nil {
		delete(config, "clients")
	}
	if text, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "facilitator.yaml")
	if err := os.WriteFile(out, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// customers pay until they leave, three at a time, at the replicas that they are
// told to ask.
type customers struct {
	chain *devnet.Chain
	keys  []devnet.Key
	payee common.Address
	stop  func() // waits

	mu      sync.Mutex
	asked   []*service
	begun   int
	bodies  []map[string]any
	answers []reply
	by      map[*service]int // how many were told success
}

func newCustomers(t *testing.T, c *devnet.Chain, asked *service) *customers {
	t.Helper()
	crowd := &customers{
		chain: c, keys: payers(t, c, 3), payee: newKey(t, devnet.RolePayee).Address,
		asked: []*service{asked}, by: map[*service]int{},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var paying sync.WaitGroup
	crowd.stop = func() {
		cancel()
		paying.Wait()
	}
	t.Cleanup(crowd.stop)
	for range crowd.keys {
		paying.Go(func() {
			for ctx.Err() == nil { // what is begun is ended
				body, s, err := crowd.next()
				if err == nil {
					err = crowd.settle(context.WithoutCancel(ctx), s, body)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return crowd
}

// ask has all further calls go to these replicas in turn.
func (c *customers) ask(replicas ...*service) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = replicas
}

// next is a new payment, and whom to ask.
func (c *customers) next() (map[string]any, *service, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.begun
	c.begun++
	deal := devnet.Sale{Payer: c.keys[n%len(c.keys)], PayTo: c.payee, Amount: uint64(10_000 + n)}.ForNow(time.Now(), 10*time.Minute)
	body, err := c.chain.Request(deal)
	return body, c.asked[n%len(c.asked)], err
}

func (c *customers) settle(ctx context.Context, s *service, body map[string]any) error {
	r, err := s.tryPost(ctx, "/settle", body)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies, c.answers = append(c.bodies, body), append(c.answers, r)
	if !r.is("success") {
		return fmt.Errorf("a customer is told %d %s", r.status, r.text)
	}
	c.by[s]++
	return nil
}

// settled waits until a replica told some more customers success.
func (c *customers) settled(t *testing.T, when string, s *service) {
	t.Helper()
	told := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.by[s]
	}
	before := told()
	eventually(t, "payments are settled "+when, func() bool { return t.Failed() || told() >= before+4 })
}

// across begins a payment at one replica, reads it at another and collects it there.
func (c *customers) across(t *testing.T, begins, reads *service) {
	t.Helper()
	body, _, err := c.next()
	if err != nil {
		t.Fatal(err)
	}
	begun := begins.post(t, "/settle", body, "Settlement-Wait", "submitted")
	id := begun.header.Get("Settlement-Id")
	if begun.str("errorReason") != "settlement_pending" || id == "" {
		t.Fatalf("begun: %d %s", begun.status, begun.text)
	}
	shown := reads.get(t, "/settlements/"+id)
	if shown.status != http.StatusOK || shown.str("id") != id || shown.str("transaction") != begun.str("transaction") {
		t.Errorf("begun as %s with %s, and read as %d %s", id, begun.str("transaction"), shown.status, shown.text)
	}
	if err := c.settle(t.Context(), reads, body); err != nil {
		t.Error(err)
	}
}

// leave ends all payments and returns them with what was answered.
func (c *customers) leave(t *testing.T) (sales, []reply) {
	t.Helper()
	c.stop()
	deals := sales{payee: c.payee, bodies: c.bodies}
	for _, body := range c.bodies {
		deals.nonces = append(deals.nonces, dig[string](t, body, "paymentPayload", "payload", "authorization", "nonce"))
	}
	return deals, c.answers
}
