package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/jackc/pgx/v5"

	"facilitator/internal/chain"
	"facilitator/internal/devnet"
	"facilitator/internal/payment"
	"facilitator/internal/store"
	"facilitator/internal/x402"
)

func TestAHealthyServiceHasNothingToReport(t *testing.T) {
	p := newPatient(t)
	p.chain["ws_url"] = strings.Replace(shared.chain.URL(), "http", "ws", 1)
	p.chain["eip6492_factories"] = []string{shared.chain.Multicall3().Hex()} // any contract
	p.chain["read_from"] = []map[string]string{{"url": shared.chain.URL(), "name": "second"}}
	p.chain["send_to"] = []map[string]string{{"url": shared.chain.URL()}}
	r := p.examine()
	want(t, r)
	seen := map[string]int{}
	for _, c := range r.Checks {
		seen[c.Area]++
	}
	for area, n := range map[string]int{
		"database": 1, "schema": 1, "node": 4, "features": 3, "clock": 2, "contract": 2, "token": 2, "signer": 1, "fees": 1, "lane": 1,
	} {
		if seen[area] != n {
			t.Errorf("%d checks of %s, want %d", seen[area], area, n)
		}
	}
}

func TestADatabaseThatIsNotFit(t *testing.T) {
	p := newPatient(t)
	migrated := p.databaseURL
	for _, row := range []struct {
		name, line string
		spoil      func(u *url.URL)
	}{
		{"nobody listens", "fail database: it can't be reached: connection refused", func(u *url.URL) { u.Host = deadAddress(t) }},
		{"another password", "fail database: it can't be reached: SQLSTATE 28P01 (wrong password)", func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "hunter2") }},
		{"no such database", "fail database: it can't be reached: SQLSTATE 3D000 (no such database)", func(u *url.URL) { u.Path = "/hunter2" }},
		{"an unknown host", "fail database: it can't be reached: its host is not known", func(u *url.URL) { u.Host = "hunter2.invalid" }},
		{"never migrated", "fail schema: version 0; migrations [", func(u *url.URL) { u.Path = "/" + emptyDatabase(t, migrated) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			u, err := url.Parse(migrated)
			must(t, err)
			row.spoil(u)
			p.t, p.databaseURL = t, u.String()
			want(t, p.examine(), row.line)
		})
	}
}

func TestASchemaOfAnotherVersion(t *testing.T) {
	p := newPatient(t)
	s, err := store.Open(t.Context(), p.databaseURL, store.Options{MaxConnections: 2, Timeout: 30 * time.Second})
	must(t, err)
	defer s.Close()
	conn, err := pgx.Connect(t.Context(), p.databaseURL)
	must(t, err)
	defer func() { must(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	_, err = conn.Exec(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)")
	must(t, err)
	want(t, p.examine(), "warn schema: version 99 is newer than this binary")
	_, err = conn.Exec(t.Context(), "DELETE FROM goose_db_version WHERE version_id = 99")
	must(t, err)
	_, err = s.MigrateDown(t.Context())
	must(t, err)
	want(t, p.examine(), "are missing: run \"facilitator migrate up\"")
}

// deadAddress is one that nobody listens at.
func deadAddress(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

// emptyDatabase makes one on the server of another.
func emptyDatabase(t *testing.T, beside string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), beside)
	must(t, err)
	const name = "facilitator_empty_doctor_test"
	_, err = conn.Exec(t.Context(), "CREATE DATABASE "+name)
	must(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_, err := conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
		must(t, errors.Join(err, conn.Close(ctx)))
	})
	return name
}

func TestNodesThatAreNotFit(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(t *testing.T, p *patient)
		lines []string
	}{
		{"dead", func(t *testing.T, p *patient) {
			t.Helper()
			p.chain["rpc_url"] = "http://" + deadAddress(t) + "/v2/hunter2hunter2"
		}, []string{"fail node eip155:8453 rpc_url: node unavailable: ", "no node can be read from"}},
		{"dead beside a good one", func(t *testing.T, p *patient) {
			t.Helper()
			p.chain["read_from"] = []map[string]string{{"url": "http://" + deadAddress(t), "name": "spare"}}
		}, []string{"fail node eip155:8453 spare: node unavailable: "}},
		{"of another chain", func(_ *testing.T, p *patient) {
			p.network = "eip155:84532"
		}, []string{"fail node eip155:84532 rpc_url: it serves chain 8453, not 84532", "no node can be read from"}},
		{"feed of another chain", func(_ *testing.T, p *patient) {
			p.network = "eip155:84532"
			p.chain["ws_url"] = strings.Replace(shared.chain.URL(), "http", "ws", 1)
		}, []string{"rpc_url: it serves chain 8453", "fail node eip155:84532 ws_url: it serves chain 8453, not 84532", "no node can be read from"}},
		{"feed is dead", func(t *testing.T, p *patient) {
			t.Helper()
			p.chain["ws_url"] = "ws://" + deadAddress(t) + "/hunter2"
		}, []string{"warn node eip155:8453 ws_url: node unavailable: "}},
		{"behind another", func(t *testing.T, p *patient) {
			t.Helper()
			p.chain["max_lag"] = 5
			must(t, shared.chain.Mine(t.Context(), 20))
			old, err := shared.chain.Client().BlockByNumber(t.Context(), nil)
			must(t, err)
			p.chain["read_from"] = []map[string]string{{"name": "slow", "url": proxy(t, func(method string, params []any, _ int) (map[string]any, int) {
				if method != "eth_getBlockByNumber" || params[0] != "latest" {
					return nil, 0
				}
				return map[string]any{"result": map[string]any{"number": "0x1", "hash": old.Hash(), "timestamp": "0x1", "baseFeePerGas": "0x1"}}, 0
			})}}
		}, []string{"fail node eip155:8453 slow: chain 8453, block 1, "}},
		{"that can do little", func(t *testing.T, p *patient) {
			t.Helper()
			p.chain["rpc_url"] = proxy(t, func(method string, params []any, batch int) (map[string]any, int) {
				switch {
				case batch > 12:
					return nil, http.StatusRequestEntityTooLarge
				case method == "eth_getBlockByNumber" && params[0] == "finalized":
					return rpcError(-32602, "unknown block tag"), 0
				case method == "eth_getBlockByNumber" && params[0] == "safe":
					return map[string]any{"result": nil}, 0
				case method == "eth_sendRawTransactionSync":
					return rpcError(-32601, "the method does not exist/is not available"), 0
				}
				return nil, 0
			})
		}, []string{"warn features eip155:8453 rpc_url: tags safe no, finalized no, pending yes; eth_sendRawTransactionSync no; batches of 10; " +
			"without the finalized tag nothing becomes final: set finality_depth; Settlement-Wait: safe can't be reached; batches are cut short"}},
		{"that is too busy to tell", func(t *testing.T, p *patient) {
			t.Helper()
			p.chain["rpc_url"] = proxy(t, func(method string, params []any, _ int) (map[string]any, int) {
				if method == "eth_sendRawTransactionSync" || method == "eth_getBlockByNumber" && params[0] == "safe" {
					return nil, http.StatusBadGateway
				}
				return nil, 0
			})
		}, []string{"tags safe unknown, finalized yes, pending yes; eth_sendRawTransactionSync unknown; batches of 100"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newPatient(t)
			row.spoil(t, p)
			want(t, p.examine(), row.lines...)
		})
	}
}

func TestClocksThatDiffer(t *testing.T) {
	p := newPatient(t)
	p.now = func() time.Time { return time.Now().Add(-time.Hour) }
	want(t, p.examine(), "warn clock database: ours differs from it by ", "s behind the newest block")
	p.now = func() time.Time { return time.Now().Add(time.Hour) }
	want(t, p.examine(), "warn clock database: ours differs from it by ", "the node or the chain stands still, or our clock is wrong",
		"ahead of the newest block, or the chain stands still")
}

func TestContractsAndTokensThatAreNotFit(t *testing.T) {
	ctx, c := t.Context(), shared.chain
	p := newPatient(t)
	nothing := account(t)
	// A token that says what it is, none of which makes its domain.
	liar := devnet.Keys("liar", 1)[0].Address
	must(t, c.SetCode(ctx, liar, liarCode()))
	mute := devnet.Keys("mute", 1)[0].Address
	must(t, c.SetCode(ctx, mute, common.FromHex("0x60006000fd"))) // reverts
	p.chain["assets"] = []map[string]string{{"address": nothing.Hex()}, {"address": liar.Hex()}, {"address": mute.Hex()}, {"address": c.USDC().Hex()}}
	p.chain["eip6492_factories"] = []string{nothing.Hex()}
	code, err := c.Client().CodeAt(ctx, c.Multicall3(), nil)
	must(t, err)
	must(t, c.SetCode(ctx, c.Multicall3(), nil))
	t.Cleanup(func() { must(t, c.SetCode(context.WithoutCancel(ctx), c.Multicall3(), code)) })
	want(t, p.examine(),
		"fail contract eip155:8453 Multicall3: no code at "+c.Multicall3().Hex()+": wallets that are not deployed need it",
		"fail contract eip155:8453 factory "+nothing.Hex()+": no code there",
		"fail token eip155:8453 "+nothing.Hex()+": no code there",
		"fail token eip155:8453 "+liar.Hex()+`: name "A", version "A", 7 decimals; they do not make its DOMAIN_SEPARATOR`,
		"warn token eip155:8453 "+mute.Hex()+`: name "", version "", 0 decimals; what it does not tell`)
	delete(p.chain, "eip6492_factories")
	p.chain["assets"] = []map[string]string{{"address": c.USDC().Hex()}}
	want(t, p.examine(), "warn contract eip155:8453 Multicall3: no code at "+c.Multicall3().Hex()+": every payment goes alone")
}

// liarCode answers decimals() and DOMAIN_SEPARATOR() with 7, and every other call with the text "A".
func liarCode() []byte {
	return common.FromHex("0x" +
		"5f3560e01c" + // the selector
		"80" + "63313ce567" + "14" + "603157" + // decimals()
		"633644e515" + "14" + "603157" + // DOMAIN_SEPARATOR()
		"60205f52" + "6001602052" + "604160f81b604052" + "60605ff3" + "00000000" + // "A"
		"5b" + "60075f5260205ff3")
}

func TestLanesThatAreNotFit(t *testing.T) {
	c := shared.chain
	t.Run("empty", func(t *testing.T) {
		p := newPatient(t)
		p.lane = devnet.Keys("penniless "+t.Name(), 1)[0]
		want(t, p.examine(), "fail lane eip155:8453 "+p.lane.Address.Hex()+": 0 wei, one payment may take ")
	})
	t.Run("nearly empty", func(t *testing.T) {
		p := newPatient(t)
		p.lane = devnet.Keys("poor "+t.Name(), 1)[0]
		must(t, c.FundETH(t.Context(), big.NewInt(3e15), p.lane.Address))
		want(t, p.examine(), "warn lane eip155:8453 "+p.lane.Address.Hex()+": 3000000000000000 wei, enough for ")
	})
	t.Run("a treasury without money", func(t *testing.T) {
		p := newPatient(t)
		p.chain["treasury"] = map[string]string{"private_key": devnet.Keys("treasury "+t.Name(), 1)[0].Hex()}
		want(t, p.examine(), "0 wei, less than one top-up of 20000000000000000")
	})
	t.Run("fees above the cap", func(t *testing.T) {
		p := newPatient(t)
		p.chain["fees"] = map[string]uint64{"max_fee_per_gas": 1_000_000, "max_priority_fee_per_gas": 0}
		r := p.examine()
		want(t, r, "fees.max_fee_per_gas")
	})
	t.Run("used by somebody else", func(t *testing.T) {
		p := newPatient(t)
		s, err := store.Open(t.Context(), p.databaseURL, store.Options{MaxConnections: 2, Timeout: 30 * time.Second})
		must(t, err)
		defer s.Close()
		_, err = s.EnsureLane(t.Context(), x402.Network(c.Network()), chain.Address(p.lane.Address), payment.RoleRelayer, 0)
		must(t, err)
		want(t, p.examine())
		must(t, c.SetAutomine(t.Context(), false))
		t.Cleanup(func() { must(t, c.SetAutomine(context.WithoutCancel(t.Context()), true)) })
		id := new(big.Int).SetUint64(c.ChainID())
		tx, err := types.SignNewTx(p.lane.Private, types.LatestSignerForChainID(id), &types.DynamicFeeTx{
			ChainID: id, GasTipCap: big.NewInt(1), GasFeeCap: big.NewInt(1e10), Gas: 21_000, To: &p.lane.Address,
		})
		must(t, err)
		must(t, c.Client().SendTransaction(t.Context(), tx))
		want(t, p.examine(), "wallet nonce 0 mined, 1 with pending; the record's next is 0, 0 open: somebody else's transaction of this wallet is pending")
		must(t, c.Mine(t.Context(), 1))
		want(t, p.examine(), "wallet nonce 1 mined, 1 with pending; the record's next is 0, 0 open: somebody else sends from this wallet")
	})
}

// TestSignersThatAreNotFit have a line each: one that hangs holds nobody up, and
// one that can't be opened hides nothing of all the rest.
func TestSignersThatAreNotFit(t *testing.T) {
	p := newPatient(t)
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a server notices who leaves only then
		<-r.Context().Done()
	}))
	t.Cleanup(hangs.Close)
	locked := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"locked"}}`)
	}))
	t.Cleanup(locked.Close)
	wallets := devnet.Keys("remote", 2)
	must(t, shared.chain.FundETH(t.Context(), big.NewInt(1e18), wallets[0].Address, wallets[1].Address))
	p.chain["sign_timeout"] = "50ms"
	p.others = []map[string]any{
		{"remote": map[string]string{"url": hangs.URL + "/hunter2", "address": wallets[0].Address.Hex()}},
		{"remote": map[string]string{"url": locked.URL + "/hunter2", "address": wallets[1].Address.Hex()}},
		{"keystore": map[string]string{"file": filepath.Join(t.TempDir(), "none"), "password": "hunter2"}},
		{"remote": map[string]string{"url": locked.URL + "/hunter2", "address": p.lane.Address.Hex()}},
	}
	r := p.examine()
	want(t, r, "fail signer eip155:8453 lanes[1] "+wallets[0].Address.Hex()+": no answer in time",
		"fail signer eip155:8453 lanes[2] "+wallets[1].Address.Hex()+": eth_signTransaction: the signer says -32000: \"locked\"",
		"fail signer eip155:8453 lanes[3]: keystore.file: ",
		"fail signer eip155:8453 lanes[4] "+p.lane.Address.Hex()+": its wallet is that of lanes[0] too")
	lineOf(t, r, "ok   signer eip155:8453 lanes[0] "+p.lane.Address.Hex()+": it signs")
	for _, wallet := range []common.Address{p.lane.Address, wallets[0].Address, wallets[1].Address} {
		lineOf(t, r, "ok   lane eip155:8453 "+wallet.Hex()+": ")
	}
}
