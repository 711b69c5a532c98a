package config

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// onChain is a valid configuration of one network with some settings.
func onChain(t *testing.T, network, settings string) *Chain {
	t.Helper()
	text := strings.Replace(valid, "eip155:8453:", network+":\n    allow_any_asset: true\n    "+settings, 1)
	return mustLoad(t, nil, text).Chains[network]
}

func TestTheNetworkDecidesTheProfile(t *testing.T) {
	t.Parallel()
	for network, want := range map[string]string{
		"eip155:8453": "base", "eip155:84532": "base-sepolia", "eip155:1": "l1", "eip155:11155111": "l1",
		"eip155:10": "l2", "eip155:42161": "l2", "eip155:31337": "l2",
	} {
		for _, settings := range []string{"", `profile: ""`} {
			if got := onChain(t, network, settings).Profile; got != want {
				t.Errorf("%s with %q has profile %q, want %q", network, settings, got, want)
			}
		}
	}
}

func TestSettingsThatAreGivenWinOverTheProfile(t *testing.T) {
	t.Parallel()
	type times struct{ block, poll, resend, bump, stall time.Duration }
	of := func(c *Chain) times {
		return times{c.BlockTime, c.PollInterval, c.ResendInterval, c.BumpAfter, c.StallAfter}
	}
	l1 := times{12 * time.Second, 2 * time.Second, 12 * time.Second, 40 * time.Second, 3 * time.Minute}
	l2 := times{2 * time.Second, 250 * time.Millisecond, 4 * time.Second, 8 * time.Second, time.Minute}
	with := func(base times, change func(*times)) times {
		change(&base)
		return base
	}
	for _, row := range []struct {
		network, settings string
		want              times
	}{
		{"eip155:1", "", l1},
		{"eip155:8453", "profile: l1", l1},
		{"eip155:1", "profile: l2", l2},
		{"eip155:10", "block_time: 1s", with(l2, func(s *times) { s.block = time.Second })},
		{"eip155:10", "poll_interval: 10ms", with(l2, func(s *times) { s.poll = 10 * time.Millisecond })},
		{"eip155:10", "resend_interval: 100ms", with(l2, func(s *times) { s.resend = 100 * time.Millisecond })},
		{"eip155:10", "bump_after: 1h", with(l2, func(s *times) { s.bump = time.Hour })},
		{"eip155:10", "stall_after: 1s", with(l2, func(s *times) { s.stall = time.Second })},
		{"eip155:10", "stall_after: 0s", l2},
	} {
		if got := of(onChain(t, row.network, row.settings)); got != row.want {
			t.Errorf("%s with %q: %+v, want %+v", row.network, row.settings, got, row.want)
		}
	}
	if got := onChain(t, "eip155:10", "gas: {max_per_transaction: 1_000_000}").Gas.MaxPerTransaction; got != 1_000_000 {
		t.Errorf("gas of a transaction %d", got)
	}
	if got := onChain(t, "eip155:10", "").Gas.MaxPerTransaction; got != 16_777_216 {
		t.Errorf("gas of a transaction %d by the profile", got)
	}
}

// TestATreasuryIsCheckedWhereItIsUsed: without a key its bounds mean nothing.
func TestATreasuryIsCheckedWhereItIsUsed(t *testing.T) {
	t.Parallel()
	c := onChain(t, "eip155:10", "treasury: {below: 7, up_to: 6, max_per_day: 5}")
	if c.Treasury.PrivateKey != "" || c.Treasury.UpTo != 6 {
		t.Errorf("treasury %+v", c.Treasury)
	}
	c = onChain(t, "eip155:10", "treasury: {private_key: '"+keyB+"', below: 7, up_to: 8, max_per_day: 8}")
	if c.Treasury.PrivateKey.Reveal() != keyB {
		t.Errorf("treasury %+v", c.Treasury)
	}
}

func TestFurtherNodesAreSecrets(t *testing.T) {
	t.Parallel()
	c := onChain(t, "eip155:10", "ws_url: 'wss://rpc.example/"+password+"'\n    send_to: [{url: 'https://a.example/"+password+"'}, {url: 'http://b.example'}]")
	if c.WSURL.Reveal() != "wss://rpc.example/"+password || len(c.SendTo) != 2 || c.SendTo[0].URL.Reveal() != "https://a.example/"+password {
		t.Errorf("heads from %d characters, %d nodes", len(c.WSURL), len(c.SendTo))
	}
	if text := fmt.Sprintf("%+v", c); strings.Contains(text, password) {
		t.Errorf("printed: %s", text)
	}
	c = mustLoad(t, []string{"FACILITATOR_CHAINS_EIP155_8453_SEND_TO_0_URL=http://c.example"}, valid).Chains["eip155:8453"]
	if len(c.SendTo) != 1 || c.SendTo[0].URL.Reveal() != "http://c.example" {
		t.Errorf("by variable: %d nodes", len(c.SendTo))
	}
}

// TestTheProfilesAreDocumented compares the table of docs/configuration.md.
func TestTheProfilesAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatal(err)
	}
	row := func(name string, value func(profile) string) {
		t.Helper()
		want := "| `" + name + "` |"
		for _, kind := range []string{"base", "l2", "l1"} {
			want += " " + value(mustProfile(t, kind)) + " |"
		}
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(want) + `$`).Match(text) {
			t.Errorf("%s lacks the line %s", referencePath, want)
		}
	}
	row("block_time", func(p profile) string { return p.blockTime.String() })
	row("poll_interval", func(p profile) string { return p.pollInterval.String() })
	row("resend_interval", func(p profile) string { return p.resendInterval.String() })
	row("bump_after", func(p profile) string { return p.bumpAfter.String() })
	row("stall_after", func(p profile) string { return p.stallAfter.String() })
	row("max_lag", func(p profile) string { return fmt.Sprint(p.maxLag) })
	row("batch.max_payments", func(p profile) string { return fmt.Sprint(p.maxPayments) })
	row("expiry_slack", func(p profile) string { return p.expirySlack.String() })
	row("gas.max_per_transaction", func(p profile) string { return fmt.Sprint(p.maxTxGas) })
	if mustProfile(t, "base") != mustProfile(t, "base-sepolia") {
		t.Error("base and base-sepolia are not the same")
	}
}

func mustProfile(t *testing.T, name string) profile {
	t.Helper()
	p, ok := profileOf(name)
	if !ok {
		t.Fatalf("no profile %s", name)
	}
	return p
}
