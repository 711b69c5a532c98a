package x402_test

import (
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"facilitator/internal/x402"
)

// maxUint256 is 2^256 - 1.
const maxUint256 = "115792089237316195423570985008687907853269984665640564039457584007913129639935"

func TestUint256KeepsEveryDecimalItAccepts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"0":                    "0",
		"1":                    "1",
		"007":                  "7",
		"9999999999999999999":  "9999999999999999999",
		"18446744073709551615": "18446744073709551615", // 2^64-1, through the wide path
		"18446744073709551616": "18446744073709551616", // 2^64
		"340282366920938463463374607431768211456": "340282366920938463463374607431768211456",
		maxUint256:                           maxUint256,
		strings.Repeat("0", 77) + "5":        "5", // 78 digits
		strings.Repeat("0", 59) + "10000000": "10000000",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			u, err := x402.ParseUint256(text)
			if err != nil {
				t.Fatal(err)
			}
			if got := u.String(); got != want {
				t.Errorf("String() = %s, want %s", got, want)
			}
			wide, _ := new(big.Int).SetString(want, 10)
			if u.Big().Cmp(wide) != 0 {
				t.Errorf("Big() = %s, want %s", u.Big(), want)
			}
			n, fits := u.Uint64()
			if fits != wide.IsUint64() || fits && n != wide.Uint64() {
				t.Errorf("Uint64() = %d, %t for %s", n, fits, want)
			}
			if u.IsZero() != (want == "0") {
				t.Errorf("IsZero() = %t for %s", u.IsZero(), want)
			}
		})
	}
}

func TestUint256RefusesWhatIsNotPlainDecimal(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", " ", "1 ", " 1", "+1", "-1", "-0", "0x10", "1e3", "1.0", "1_000", "1,000", "a", "٣", "1\n",
		"115792089237316195423570985008687907853269984665640564039457584007913129639936", // 2^256
		"999999999999999999999999999999999999999999999999999999999999999999999999999999", // 78 digits
		strings.Repeat("0", 79), // too long to be worth reading
		"NaN", "1\x00",
		"1234567890123456789012x", // bad digit in the wide path
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			if u, err := x402.ParseUint256(text); !errors.Is(err, x402.ErrNotUint256) {
				t.Errorf("ParseUint256(%q) = %s, %v", text, u, err)
			}
		})
	}
}

func TestUint256AgreesWithBigOnRandomNumbers(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	random := func() *big.Int {
		b := make([]byte, rng.IntN(33))
		for i := range b {
			b[i] = byte(rng.UintN(256))
		}
		return new(big.Int).SetBytes(b)
	}
	for range 2000 {
		a, b := random(), random()
		x, errX := x402.ParseUint256(a.String())
		y, errY := x402.ParseUint256(b.String())
		if errX != nil || errY != nil {
			t.Fatalf("%s: %v, %s: %v", a, errX, b, errY)
		}
		if x.String() != a.String() {
			t.Fatalf("%s came back as %s", a, x)
		}
		if x.Cmp(y) != a.Cmp(b) || (x == y) != (a.Cmp(b) == 0) {
			t.Fatalf("Cmp(%s, %s) = %d, == is %t", a, b, x.Cmp(y), x == y)
		}
	}
}

func TestNewUint256WidensWithoutLoss(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{0, 1, 255, 256, 1 << 32, math.MaxInt64, math.MaxUint64} {
		u := x402.NewUint256(n)
		if got, fits := u.Uint64(); !fits || got != n {
			t.Errorf("NewUint256(%d).Uint64() = %d, %t", n, got, fits)
		}
		if want := new(big.Int).SetUint64(n); u.Big().Cmp(want) != 0 {
			t.Errorf("NewUint256(%d) is %s", n, u.Big())
		}
	}
}
