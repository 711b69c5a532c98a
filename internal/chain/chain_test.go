package chain_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"facilitator/internal/chain"
)

// eip55 are the vectors of EIP-55.
var eip55 = []string{
	"0x52908400098527886E0F7030069857D2E4169EE7", "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
	"0xde709f2102306220921060314715629080e2fb77", "0x27b1fdb04752bbc536007a920d24acb045561c26",
	"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
	"0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB", "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
}

func TestAddressesAreWrittenWithTheirChecksum(t *testing.T) {
	t.Parallel()
	for _, want := range eip55 {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			for _, form := range []string{want, strings.ToLower(want), "0x" + strings.ToUpper(want[2:])} {
				a, err := chain.ParseAddress(form)
				if err != nil {
					t.Errorf("ParseAddress(%s): %v", form, err)
				}
				if got := a.String(); got != want {
					t.Errorf("ParseAddress(%s).String() = %s", form, got)
				}
			}
		})
	}
}

func TestAMixedCaseAddressNeedsItsChecksum(t *testing.T) {
	t.Parallel()
	for _, good := range eip55[4:] {
		digits := []byte(good)
		for i := 2; i < len(digits); i++ {
			if digits[i] <= '9' {
				continue
			}
			digits[i] ^= 'a' - 'A'
			if a, err := chain.ParseAddress(string(digits)); !errors.Is(err, chain.ErrAddressChecksum) || !a.IsZero() {
				t.Errorf("ParseAddress(%s) = %s, %v", digits, a, err)
			}
			digits[i] ^= 'a' - 'A'
		}
	}
}

func TestParseAddressRefusesOtherForms(t *testing.T) {
	t.Parallel()
	const digits = "5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"
	for _, text := range []string{
		"", "0x", digits, "0X" + digits, "0x" + digits[1:], "0x" + digits + "0", " 0x" + digits, "0x" + digits + " ",
		"0x" + digits[:39] + "g", "0x" + digits[:38] + "é", "1x" + digits, "xx" + digits, "0x0x" + digits[2:],
		"eip155:1:0x" + digits, "vitalik.eth",
	} {
		if a, err := chain.ParseAddress(text); !errors.Is(err, chain.ErrAddressForm) || !a.IsZero() {
			t.Errorf("ParseAddress(%q) = %s, %v", text, a, err)
		}
	}
}

func TestParseHashReadsAnyCaseAndOneForm(t *testing.T) {
	t.Parallel()
	want := "0x" + strings.Repeat("0aF9", 16)
	h, err := chain.ParseHash(want)
	if err != nil || h.String() != strings.ToLower(want) || h.IsZero() {
		t.Errorf("ParseHash(%s) = %s, %v", want, h, err)
	}
	for _, text := range []string{
		"", "0x", want[2:], "0X" + want[2:], want[:65], want + "0", want[:65] + "g", " " + want[:65], "0x" + strings.Repeat("é", 32),
	} {
		if h, err := chain.ParseHash(text); !errors.Is(err, chain.ErrHashForm) || !h.IsZero() {
			t.Errorf("ParseHash(%q) = %s, %v", text, h, err)
		}
	}
}

func TestWhatATransactionCost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		receipt chain.Receipt
		want    string
	}{
		{chain.Receipt{}, "0"},
		{chain.Receipt{GasUsed: 85764, EffectiveGasPrice: 5_000_000, L1Fee: 21_000_000}, "428841000000"},
		{chain.Receipt{GasUsed: math.MaxUint64, EffectiveGasPrice: math.MaxUint64, L1Fee: math.MaxUint64}, "340282366920938463444927863358058659840"},
	} {
		if got := c.receipt.Cost(); got.String() != c.want {
			t.Errorf("%+v cost %s, want %s", c.receipt, got, c.want)
		}
	}
}

func TestAddressesAndHashesSurviveJSON(t *testing.T) {
	t.Parallel()
	type pair struct {
		Address chain.Address
		Hash    chain.Hash
	}
	a, _ := chain.ParseAddress(eip55[4])
	want := pair{Address: a, Hash: chain.Hash{1, 2, 31: 255}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), eip55[4]) {
		t.Errorf("written as %s", text)
	}
	var got pair
	if err := json.Unmarshal(text, &got); err != nil || got != want {
		t.Errorf("%s came back as %+v, %v", text, got, err)
	}
	if err := json.Unmarshal([]byte(`{"Address":"0x12"}`), &got); !errors.Is(err, chain.ErrAddressForm) {
		t.Errorf("a short address: %v", err)
	}
	if err := json.Unmarshal([]byte(`{"Hash":"0x12"}`), &got); !errors.Is(err, chain.ErrHashForm) {
		t.Errorf("a short hash: %v", err)
	}
}
