package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"facilitator/internal/app"
	"facilitator/internal/config"
	"facilitator/internal/devnet"
)

// What must never be printed (I10), recognisable wherever it turns up.
const (
	outageUser     = "nodeUser7c1f"
	outagePassword = "nodePassword93ab"
	outagePathKey  = "pathKey5f0c77e1"
	outageQueryKey = "queryKey2b8d4410"
)

// outageRule decides how a node answers one HTTP request.
type outageRule func(body string, forward http.HandlerFunc) http.HandlerFunc

// outageNode stands between the service and its node and can be told to fail.
type outageNode struct {
	url    string
	rule   atomic.Pointer[outageRule]
	keyed  atomic.Bool  // it was asked with the secrets of its URL
	raws   atomic.Int64 // eth_sendRawTransaction requests seen
	target *httputil.ReverseProxy
}

func newOutageNode(t *testing.T, c *devnet.Chain) *outageNode {
	t.Helper()
	target, err := url.Parse(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	n := &outageNode{target: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.URL.Path, r.Out.URL.RawQuery = "/", "" },
		Transport: transport,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // the service hanging up is no news
	}}
	server := httptest.NewServer(n)
	t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	n.url = fmt.Sprintf("http://%s:%s@%s/v3/%s?apikey=%s",
		outageUser, outagePassword, server.Listener.Addr(), outagePathKey, outageQueryKey)
	return n
}

func (n *outageNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the service hung up
	}
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	if user, password, ok := r.BasicAuth(); ok && user == outageUser && password == outagePassword &&
		strings.HasSuffix(r.URL.Path, outagePathKey) && r.URL.Query().Get("apikey") == outageQueryKey {
		n.keyed.Store(true)
	}
	if strings.Contains(string(body), "eth_sendRawTransaction") {
		n.raws.Add(1)
	}
	handler := http.HandlerFunc(n.target.ServeHTTP)
	if rule := n.rule.Load(); rule != nil {
		handler = (*rule)(string(body), handler)
	}
	handler(w, r)
}

// follow has the node answer by a rule until heal.
func (n *outageNode) follow(rule outageRule) { n.rule.Store(&rule) }

func (n *outageNode) heal() { n.rule.Store(nil) }

// outageOn limits a fault to requests with some JSON-RPC method.
func outageOn(method string, fault outageRule) outageRule {
	return func(body string, forward http.HandlerFunc) http.HandlerFunc {
		if strings.Contains(body, `"`+method+`"`) {
			return fault(body, forward)
		}
		return forward
	}
}

// outageURL is the node's URL, as careless nodes repeat it in their errors.
func outageURL(r *http.Request) string {
	return fmt.Sprintf("http://%s:%s@%s%s", outageUser, outagePassword, r.Host, r.URL)
}

func outageRefuse(string, http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close() // it is to be cut off
		}
	}
}

func outageHang(string, http.HandlerFunc) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
}

func outageStatus(status int) outageRule {
	return func(string, http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, outagePathKey+" has no luck with "+outageURL(r), status)
		}
	}
}

func outageHTML(string, http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, "%s<html><body>%s is parked</body></html>", outagePathKey, outageURL(r))
	}
}

// outageTruncated answers with half of the right answer.
func outageTruncated(_ string, forward http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		whole := httptest.NewRecorder()
		forward(whole, r)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
	}
}

// outageMember answers every call with a member beside its id.
func outageMember(member func(*http.Request) string) outageRule {
	return func(body string, _ http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			type call struct {
				ID json.RawMessage `json:"id"`
			}
			var calls []call
			batch := json.Unmarshal([]byte(body), &calls) == nil
			if !batch {
				calls = make([]call, 1)
				_ = json.Unmarshal([]byte(body), &calls[0]) // without an id the answer is of no use, as is meant
			}
			answers := make([]string, len(calls))
			for i, c := range calls {
				answers[i] = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,%s}`, c.ID, member(r))
			}
			text := strings.Join(answers, ",")
			if batch {
				text = "[" + text + "]"
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, text)
		}
	}
}

func outageError(code int, text string) outageRule {
	return outageMember(func(r *http.Request) string {
		return fmt.Sprintf(`"error":{"code":%d,"message":%q}`, code, text+" "+outageURL(r))
	})
}

// outageLost forwards a request and loses the answer by fault.
func outageLost(fault outageRule) outageRule {
	return func(body string, forward http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			forward(httptest.NewRecorder(), r)
			fault(body, forward)(w, r)
		}
	}
}

// outageDatabase stands between the service and Postgres. It can cut every
// connection, or swallow what is sent.
type outageDatabase struct {
	url      string
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	flow  *sync.Cond
	down  bool // connections are closed
	stuck bool // nothing passes
	conns map[net.Conn]bool
}

func newOutageDatabase(t *testing.T) *outageDatabase {
	t.Helper()
	u, err := url.Parse(world.database.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &outageDatabase{listener: listener, target: u.Host, conns: make(map[net.Conn]bool)}
	d.flow = sync.NewCond(&d.mu)
	u.Host = listener.Addr().String()
	d.url = u.String()
	d.running.Go(d.accept)
	t.Cleanup(func() {
		_ = listener.Close() // ends accept
		d.cut()
		d.running.Wait()
	})
	return d
}

func (d *outageDatabase) accept() {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.DialTimeout("tcp", d.target, 5*time.Second)
		if err != nil {
			_ = client.Close() // as good as cut
			continue
		}
		d.mu.Lock()
		if d.down {
			_, _ = client.Close(), server.Close()
		} else {
			d.conns[client], d.conns[server] = true, true
			d.running.Go(func() { d.pump(client, server) })
			d.running.Go(func() { d.pump(server, client) })
		}
		d.mu.Unlock()
	}
}

func (d *outageDatabase) pump(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		d.mu.Lock()
		for d.stuck && !d.down {
			d.flow.Wait()
		}
		d.mu.Unlock()
		if err == nil {
			_, err = to.Write(buffer[:n])
		}
		if err != nil {
			_, _ = to.Close(), from.Close() // both ends learn of it
			return
		}
	}
}

// cut closes every connection, and new ones until heal.
func (d *outageDatabase) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = true
	for conn := range d.conns {
		_ = conn.Close()
	}
	clear(d.conns)
	d.flow.Broadcast()
}

// hang lets nothing pass until heal.
func (d *outageDatabase) hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stuck = true
}

func (d *outageDatabase) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down, d.stuck = false, false
	d.flow.Broadcast()
}

// outageRig is a service whose node and database can fail, and which is
// watched for secrets.
type outageRig struct {
	*service
	chain *devnet.Chain
	node  *outageNode
	db    *outageDatabase
	setup setup
	said  lockedBuffer // every answer
	// reach is called at every step of a settlement.
	reach func(point string)
}

func newOutageRig(t *testing.T, c *devnet.Chain) *outageRig {
	t.Helper()
	r := &outageRig{chain: c, node: newOutageNode(t, c), db: newOutageDatabase(t), reach: func(string) {}}
	r.setup = setup{chain: c, rpcURL: r.node.url, databaseURL: r.db.url, overlay: `
settle: {wait: 1s}
database: {timeout: 3s}
chains: {'eip155:8453': {rpc_timeout: 500ms}}
`}
	return r
}

// build wires the service; what it refuses is an error.
func (r *outageRig) build(t *testing.T) (*app.App, error) {
	t.Helper()
	cfg, err := config.Load("", nil, r.setup.configuration(t)...)
	if err != nil {
		t.Fatal(err)
	}
	r.service = &service{databaseURL: r.setup.databaseURL, lanes: r.setup.lanes, log: new(lockedBuffer), undescribed: func(err error) { t.Error(err) }}
	log := slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: cfg.Log.Level}))
	return app.New(t.Context(), cfg, app.Options{Log: log, Now: time.Now, Version: "test", Crash: func(p string) { r.reach(p) }})
}

// start runs the service until the test ends; then everything it said is
// searched for secrets.
func (r *outageRig) start(t *testing.T) {
	t.Helper()
	a, err := r.build(t)
	if err != nil {
		t.Fatal(err)
	}
	r.url, r.metricsURL = a.URL(), a.MetricsURL()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		metrics := &service{url: r.metricsURL, undescribed: r.undescribed}
		page, _ := metrics.do(ctx, http.MethodGet, "", "") // no JSON, which is an error to do
		cancel()
		if err := <-done; err != nil {
			t.Errorf("service: %v", err)
		}
		if !strings.Contains(page.text, "facilitator_build_info") {
			t.Errorf("these are no metrics: %q", page.text)
		}
		if !r.node.keyed.Load() {
			t.Error("the node was never asked with its keys: nothing is proved about them")
		}
		r.keepsSecrets(t, map[string]string{"log": r.log.String(), "answers": r.said.String(), "metrics": page.text})
		if t.Failed() {
			t.Logf("service log:\n%s", r.log.String())
		}
	})
}

// keepsSecrets fails the test if a text holds a secret.
func (r *outageRig) keepsSecrets(t *testing.T, texts map[string]string) {
	t.Helper()
	secrets := []string{outagePassword, outagePathKey, outageQueryKey}
	for _, lane := range r.lanes {
		secrets = append(secrets, lane.Hex()[2:])
	}
	if u, err := url.Parse(r.databaseURL); err == nil {
		// A short password may be a word that is no secret elsewhere.
		if password, _ := u.User.Password(); len(password) >= 16 {
			secrets = append(secrets, password)
		}
	}
	for name, text := range texts {
		if text == "" {
			t.Errorf("%s: nothing was said", name)
		}
		for i, secret := range secrets {
			if at := strings.Index(strings.ToLower(text), strings.ToLower(secret)); at >= 0 {
				t.Errorf("%s hold secret %d: ...%s", name, i, text[max(0, at-200):at])
			}
		}
	}
}

// ask is do that remembers the answer.
func (r *outageRig) ask(t *testing.T, method, path string, body any) reply {
	t.Helper()
	text := ""
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		text = string(encoded)
	}
	answer, err := r.do(t.Context(), method, path, text)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintln(&r.said, answer.status, answer.header, answer.text) // its Write never fails
	return answer
}

func (r *outageRig) verify(t *testing.T, body any) reply {
	t.Helper()
	return r.ask(t, http.MethodPost, "/verify", body)
}

func (r *outageRig) settle(t *testing.T, body any) reply {
	t.Helper()
	return r.ask(t, http.MethodPost, "/settle", body)
}

// unavailable fails the test unless an answer says "later" and judges nothing.
func (r *outageRig) unavailable(t *testing.T, what string, answer reply) {
	t.Helper()
	seconds, err := strconv.Atoi(answer.header.Get("Retry-After"))
	if answer.status != http.StatusServiceUnavailable || err != nil || seconds < 1 || answer.str("error") == "" {
		t.Errorf("%s: %d %s, Retry-After %q; want 503, an error and when to retry", what, answer.status, answer.text, answer.header.Get("Retry-After"))
	}
	for _, verdict := range []string{"isValid", "success"} {
		if _, judged := answer.body[verdict]; judged {
			t.Errorf("%s: %s is a verdict", what, answer.text)
		}
	}
}

// readiness waits until the service is ready, or is not and says why.
func (r *outageRig) readiness(t *testing.T, why string) {
	t.Helper()
	eventually(t, "readyz says "+strconv.Quote(why), func() bool {
		answer := r.ask(t, http.MethodGet, "/readyz", nil)
		if why == "" {
			return answer.status == http.StatusOK
		}
		return answer.status == http.StatusServiceUnavailable && strings.Contains(answer.text, why)
	})
	if alive := r.ask(t, http.MethodGet, "/livez", nil); alive.status != http.StatusOK {
		t.Errorf("livez: %d %s: a restart would help nobody", alive.status, alive.text)
	}
}

// collects repeats the identical call until it is answered for good, and fails
// the test unless that is success, once.
func (r *outageRig) collects(t *testing.T, deal devnet.Sale, body any) reply {
	t.Helper()
	var first reply
	eventually(t, "a final answer", func() bool {
		first = r.settle(t, body)
		return first.status == http.StatusOK && first.str("errorReason") != "settlement_pending"
	})
	if !first.is("success") {
		t.Fatalf("collected %d %s, want success", first.status, first.text)
	}
	r.settledOnce(t, deal, body, first.str("transaction"))
	return first
}

// settledOnce fails the test unless one transaction paid, and nobody is told
// of success again.
func (r *outageRig) settledOnce(t *testing.T, deal devnet.Sale, body any, hash string) {
	t.Helper()
	again := r.settle(t, body)
	if again.is("success") || again.str("errorReason") != "duplicate_settlement" || again.str("transaction") != hash {
		t.Errorf("a call after success: %d %s, want duplicate_settlement with %s", again.status, again.text, hash)
	}
	if got := received(t, r.chain, deal.PayTo); got != 10_000 {
		t.Errorf("the payee has %d, want 10000", got)
	}
	if n, err := r.chain.Client().PendingNonceAt(t.Context(), r.lanes[0].Address); err != nil || n != 1 {
		t.Errorf("the lane sent %d transactions (%v), want one", n, err)
	}
}

// untouched fails the test if anything was claimed, signed or sent.
func (r *outageRig) untouched(t *testing.T) {
	t.Helper()
	for _, table := range []string{"payments", "transactions", "attempts"} {
		if n := outageRows(t, r.setup.databaseURL, table); n != 0 {
			t.Errorf("%d rows in %s, want none", n, table)
		}
	}
	if n := r.node.raws.Load(); n != 0 {
		t.Errorf("the node was sent %d transactions, want none", n)
	}
}

// outageRows counts the rows of a table.
func outageRows(t *testing.T, databaseURL, table string) int {
	t.Helper()
	return badCount(t.Context(), t, databaseURL, table)
}
