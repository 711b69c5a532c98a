package long

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// replica is one process of the service. It is started again whenever it ends,
// until it is stopped.
type replica struct {
	config string
	url    string
	log    string
	env    []string
	http   *http.Client

	mu   sync.Mutex
	cond *sync.Cond
	cmd  *exec.Cmd // nil while it is down
	// armed is the crash point of the next start; at that of the running one.
	armed, at string
	held      bool // stays down
	stopping  bool
	starts    int
	// killed says that we killed the running one.
	killed bool
	kills  int
	// deaths counts those at a crash point, by point.
	deaths map[string]int
	// exits are ends that nobody asked for.
	exits []string
	done  chan struct{}
}

// newReplica runs the service until stop.
func newReplica(t *testing.T, folder, config string, n int) *replica {
	t.Helper()
	address := freeAddress(t)
	r := &replica{
		config: config, url: "http://" + address, log: filepath.Join(folder, fmt.Sprintf("replica-%d.log", n)),
		env: environment("FACILITATOR_HTTP_ADDRESS=" + address), deaths: map[string]int{}, done: make(chan struct{}),
		http: &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	r.cond = sync.NewCond(&r.mu)
	go r.supervise()
	t.Cleanup(func() { r.stop(syscall.SIGKILL) })
	return r
}

// environment is what the service gets of ours: what programs need, and its
// own settings.
func environment(more ...string) []string {
	env := append([]string{"GORACE=atexit_sleep_ms=0"}, more...)
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		switch name {
		case "PATH", "HOME", "TMPDIR":
			env = append(env, pair)
		case "FACILITATOR_TOOLS", "FACILITATOR_CONFIG", "FACILITATOR_CRASH_AT":
		default:
			if strings.HasPrefix(name, "FACILITATOR_") {
				env = append(env, pair)
			}
		}
	}
	return env
}

// freeAddress is below the range that outgoing connections take their ports
// from, so that nobody takes it while the replica is down.
func freeAddress(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		l, err := lc.Listen(t.Context(), "tcp", address)
		if err == nil {
			_ = l.Close() // it was only tried
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

func (r *replica) supervise() {
	defer close(r.done)
	for {
		r.mu.Lock()
		for r.held && !r.stopping {
			r.cond.Wait()
		}
		if r.stopping {
			r.mu.Unlock()
			return
		}
		cmd, err := r.launch()
		r.mu.Unlock()
		if err == nil {
			_ = cmd.Wait() // the state tells
		}
		r.ended(cmd, err)
	}
}

// launch starts the process. The caller holds the lock.
func (r *replica) launch() (*exec.Cmd, error) {
	out, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.CommandContext(context.Background(), world.binary, "serve", "-config", r.config)
	cmd.Env = r.env
	r.at, r.armed = r.armed, ""
	if r.at != "" {
		cmd.Env = append(append([]string(nil), r.env...), "FACILITATOR_CRASH_AT="+r.at)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r.cmd, r.killed = cmd, false
	r.starts++
	return cmd, nil
}

// ended notes how the process went.
func (r *replica) ended(cmd *exec.Cmd, err error) {
	r.mu.Lock()
	r.cmd = nil
	signal := syscall.Signal(0)
	if err == nil {
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			signal = status.Signal()
		}
	}
	switch {
	case r.stopping:
	case r.killed:
		r.kills++
	case signal == syscall.SIGKILL && r.at != "":
		r.kills++
		r.deaths[r.at]++
	default:
		r.exits = append(r.exits, fmt.Sprint(err, cmd.ProcessState))
	}
	r.cond.Broadcast()
	asked := r.killed || signal == syscall.SIGKILL || r.stopping
	r.mu.Unlock()
	if !asked {
		time.Sleep(100 * time.Millisecond) // one that can't start is not started in a frenzy
	}
}

// arm names the crash point of the next start.
func (r *replica) arm(point string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed = point
}

// kill ends the process as a power cut does; it comes back unless it is held.
func (r *replica) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != nil {
		r.killed = true
		_ = r.cmd.Process.Kill() // fails only if it has ended
	}
}

// hold keeps the replica down, once it is, until it is let go.
func (r *replica) hold(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = down
	r.cond.Broadcast()
}

func (r *replica) started() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts
}

// awaitStart waits for the process that is start number n.
func (r *replica) awaitStart(ctx context.Context, n int, most time.Duration) {
	r.await(ctx, most, func() bool { return r.starts >= n })
}

// awaitEnd waits until the process that was start number n is gone.
func (r *replica) awaitEnd(ctx context.Context, n int, most time.Duration) bool {
	return r.await(ctx, most, func() bool { return r.starts > n || r.starts == n && r.cmd == nil })
}

func (r *replica) await(ctx context.Context, most time.Duration, holds func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		r.mu.Lock()
		held := holds()
		r.mu.Unlock()
		if held || !rest(ctx, 2*time.Millisecond) {
			return held
		}
	}
}

// awaitReady waits until the replica asks for requests.
func (r *replica) awaitReady(ctx context.Context, most time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/readyz", nil)
		if err != nil {
			return false
		}
		if response, err := r.http.Do(req); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return true
			}
		}
		if !rest(ctx, 10*time.Millisecond) {
			return false
		}
	}
}

// stop ends the replica for good and says how the last process ended: 0 is well.
func (r *replica) stop(how syscall.Signal) int {
	r.mu.Lock()
	r.stopping = true
	cmd := r.cmd
	if cmd != nil {
		_ = cmd.Process.Signal(how) // fails only if it has ended
	}
	r.cond.Broadcast()
	r.mu.Unlock()
	select {
	case <-r.done:
	case <-time.After(time.Minute):
		r.kill()
		<-r.done
	}
	if cmd == nil {
		return 0
	}
	return cmd.ProcessState.ExitCode()
}
