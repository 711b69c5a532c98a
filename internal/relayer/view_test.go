package relayer

import (
	"strings"
	"testing"
	"time"

	"facilitator/internal/chain"
)

func TestClocksThatDifferAreTold(t *testing.T) {
	t.Parallel()
	c, now := newChain(t, Config{MaxClockSkew: 30 * time.Second})
	number := uint64(0)
	block := func(ahead time.Duration) string {
		t.Helper()
		number++
		*now = now.Add(time.Second)
		c.see(chain.Head{Number: number, Hash: chain.Hash{byte(number)}, Time: uint64(now.Add(-ahead).Unix())})
		return c.Skewed()
	}
	if told := block(time.Hour); told != "" {
		t.Errorf("the first block seen may be old: %q", told)
	}
	for _, row := range []struct {
		ahead time.Duration
		want  string
	}{
		{30 * time.Second, ""},
		{31 * time.Second, "differ by 31s"},
		{-31 * time.Second, "differ by 31s"}, // ours is behind
		{0, ""},
	} {
		if told := block(row.ahead); (told == "") != (row.want == "") || !strings.HasSuffix(told, row.want) {
			t.Errorf("%s ahead: %q, want %q", row.ahead, told, row.want)
		}
	}
	// The same block seen again later is no news, and an idle chain no skew.
	*now = now.Add(time.Hour)
	c.see(c.Head())
	if told := c.Skewed(); told != "" {
		t.Errorf("an idle chain: %q", told)
	}
	if block(time.Minute); c.Ready() != nil && strings.Contains(c.Ready().Error(), "clock") {
		t.Error("clocks that differ stop the network")
	}
}
