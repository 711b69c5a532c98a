package config

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"facilitator/internal/chain"
)

func TestDump(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, nil, valid)
	var b bytes.Buffer
	if err := c.Dump(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"  read_timeout: 10s\n", "  eip155:8453:\n", "    max_fee_per_gas: 10000000000\n"} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("no line %q", line)
		}
	}
	if n := strings.Count(b.String(), redacted); n != 3 {
		t.Errorf("%d secrets redacted, want 3", n)
	}
	// What is dumped is a configuration: with the secrets put back it loads and is the same.
	again := mustLoad(t, []string{
		"FACILITATOR_DATABASE_URL=" + c.Database.URL.Reveal(),
		"FACILITATOR_CHAINS_EIP155_8453_RPC_URL=" + c.Chains["eip155:8453"].RPCURL.Reveal(),
		"FACILITATOR_CHAINS_EIP155_8453_LANES_0_PRIVATE_KEY=" + keyA,
	}, b.String())
	network := again.Chains["eip155:8453"]
	network.Factories, network.SendTo, network.ReadFrom = nil, nil, nil // dumped as empty lists
	if !reflect.DeepEqual(again, c) {
		t.Errorf("dumped:\n%s", b.String())
	}
}

func TestDefaultAssets(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"eip155:8453", "eip155:84532", "eip155:1", "eip155:14", "eip155:42220", "eip155:181228"} {
		if len(defaultAssets(network)) == 0 {
			t.Errorf("%s has no default asset", network)
		}
		for _, a := range defaultAssets(network) {
			if _, err := chain.ParseAddress(a); err != nil {
				t.Errorf("%s, %s: %v", network, a, err)
			}
		}
	}
	if got := defaultAssets("eip155:4326"); got != nil { // its token has no EIP-3009
		t.Errorf("eip155:4326 has the default assets %s", got)
	}
}
