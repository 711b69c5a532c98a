package app

import (
	"encoding/json"
	"testing"
	"time"

	"facilitator/internal/payment"
)

func TestTheConfirmationPolicyIsNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		level payment.Level
		wait  time.Duration
		want  string
	}{
		{payment.Blocks(1), 20 * time.Second, `{"confirmation":{"default":"mined","levels":["submitted","mined","safe","finalized","<n blocks>"],"waitSeconds":20}}`},
		{payment.Blocks(3), 1500 * time.Millisecond, `{"confirmation":{"default":"3","levels":["submitted","mined","safe","finalized","<n blocks>"],"waitSeconds":2}}`},
	} {
		var want any
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		wanted, _ := json.Marshal(want)
		if got, err := json.Marshal(confirmation(c.level, c.wait)); err != nil || string(got) != string(wanted) {
			t.Errorf("%s, want %s: %v", got, wanted, err)
		}
	}
}
