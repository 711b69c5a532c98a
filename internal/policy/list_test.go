package policy_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"facilitator/internal/chain"
	"facilitator/internal/payment"
	"facilitator/internal/policy"
	"facilitator/internal/x402"
)

// advanced is a list of the OFAC's form: kinds by number, and parties with their
// features.
func advanced(features ...string) string {
	return `<?xml version="1.0" standalone="yes"?>
<Sanctions xmlns="https://sanctionslistservice.ofac.treas.gov/api/PublicationPreview/exports/ADVANCED_XML" Version="3">
  <DateOfIssue CalendarTypeID="1"><Year>2026</Year><Month>11</Month><Day>2</Day></DateOfIssue>
  <ReferenceValueSets><FeatureTypeValues>
    <FeatureType ID="25" FeatureTypeGroupID="1">Location</FeatureType>
    <FeatureType ID="344" FeatureTypeGroupID="1">Digital Currency Address - XBT</FeatureType>
    <FeatureType ID="345" FeatureTypeGroupID="1">Digital Currency Address - ETH</FeatureType>
    <FeatureType ID="998" FeatureTypeGroupID="1">Digital Currency Address - USDC</FeatureType>
  </FeatureTypeValues></ReferenceValueSets>
  <DistinctParties>` + strings.Join(features, "") + `</DistinctParties>
</Sanctions>`
}

func feature(kind int, detail string) string {
	return fmt.Sprintf(`<DistinctParty FixedRef="1"><Comment /><Profile ID="1" PartySubTypeID="4"><Identity ID="7"/>
<Feature ID="3" FeatureTypeID="%d"><FeatureVersion ID="9" ReliabilityID="1"><Comment/><VersionDetail DetailTypeID="1432">%s</VersionDetail></FeatureVersion><IdentityReference IdentityID="7"/></Feature>
</Profile></DistinctParty>`, kind, detail)
}

func hexOf(n byte) string { return "0x" + strings.Repeat("0", 38) + fmt.Sprintf("%02x", n) }

func TestListsAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		format policy.Format
		text   string
		held   []byte // last bytes of the addresses
		fault  string
	}{
		"plain":                     {policy.FormatPlain, "# ours\n\n" + hexOf(7) + "\r\n  " + strings.ToUpper(hexOf(0xab)) + " # since May\n" + hexOf(9), []byte{7, 0xab, 9}, ""},
		"plain, another word":       {policy.FormatPlain, hexOf(7) + "\nvitalik.eth\n", nil, "line 2 is no address"},
		"plain, a digit short":      {policy.FormatPlain, hexOf(7)[:41], nil, "line 1 is no address"},
		"plain, two in a line":      {policy.FormatPlain, hexOf(7) + " " + hexOf(8), nil, "line 1 is no address"},
		"plain, nothing but a note": {policy.FormatPlain, "# nobody\n", nil, "it holds no address"},
		"plain, empty":              {policy.FormatPlain, "", nil, "it holds no address"},
		"plain, a line without end": {policy.FormatPlain, strings.Repeat("0", 1<<17), nil, "token too long"},
		"ofac": {policy.FormatOFAC, advanced(
			feature(345, hexOf(7)), feature(998, " "+strings.ToUpper(hexOf(0xab))+"\n"), feature(344, "bc1qxyz"), feature(25, hexOf(0x55)),
			feature(344, hexOf(9)), feature(345, "not one"),
			"<Other><VersionDetail>"+hexOf(0x66)+"</VersionDetail></Other>",
		), []byte{7, 0xab, 9}, ""},
		"ofac, cut off":              {policy.FormatOFAC, advanced(feature(345, hexOf(7)))[:900], nil, "no whole XML document"},
		"ofac, cut before its end":   {policy.FormatOFAC, strings.TrimSuffix(advanced(feature(345, hexOf(7))), "</Sanctions>"), nil, "no whole XML document"},
		"ofac, in another format":    {policy.FormatOFAC, "<sdnList><sdnEntry/></sdnList>", nil, "not the advanced XML"},
		"ofac, nobody with a wallet": {policy.FormatOFAC, advanced(feature(25, hexOf(7))), nil, "it holds no address"},
		"ofac, of a time before":     {policy.FormatOFAC, "<Sanctions><FeatureType ID='25'>Location</FeatureType></Sanctions>", nil, "knows no digital currency"},
		"ofac, which is a web page":  {policy.FormatOFAC, "<!DOCTYPE html><html><body>503</body></html>", nil, "not the advanced XML"},
		"ofac, empty":                {policy.FormatOFAC, "", nil, "knows no digital currency"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "list")
			write(t, path, c.text, time.Now())
			b, err := tryBench(t, policy.Config{Lists: []policy.ListConfig{{Name: "own", Path: path, Format: c.format}}})
			if c.held == nil {
				if err == nil || !strings.Contains(err.Error(), c.fault) || strings.Contains(err.Error(), path) {
					t.Errorf("error %v, want %q", err, c.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for n := range 256 {
				a := chain.Address{19: byte(n)}
				err := b.pass(t, deal(func(t *payment.Terms) { t.Key.Payer, t.PayTo, t.Asset = a, chain.Address{1}, chain.Address{2} }))
				if listed := strings.Contains(string(c.held), string([]byte{byte(n)})); listed != (err != nil) {
					t.Errorf("%s: %v", a, err)
				}
			}
			if n := b.sample(t, "screening_list_addresses", "source=own"); int(n) != len(c.held) {
				t.Errorf("%v addresses", n)
			}
		})
	}
	if _, err := tryBench(t, policy.Config{Lists: []policy.ListConfig{{Name: "own", Path: filepath.Join(t.TempDir(), "none")}}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestALargeListLeavesItsAddressesOnly: the list of the OFAC has some 100 MB,
// hardly any of which is an address.
func TestALargeListLeavesItsAddressesOnly(t *testing.T) { //nolint:paralleltest // it measures the memory of the process
	person := `<DistinctParty FixedRef="2"><Profile ID="2"><Feature ID="4" FeatureTypeID="25"><VersionDetail>` + strings.Repeat("Somewhere ", 40) + `</VersionDetail></Feature></Profile></DistinctParty>`
	path := filepath.Join(t.TempDir(), "list")
	write(t, path, advanced(feature(345, hexOf(7)), strings.Repeat(person, 8_000), feature(345, hexOf(9))), time.Now())
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b := newBench(t, policy.Config{Lists: []policy.ListConfig{{Name: "own", Path: path, Format: policy.FormatOFAC}}})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes are kept", grown)
	}
	wantReason(t, b.pass(t, deal(by(chain.Address{19: 9}))), x402.ReasonKYTRisk)
}

func TestAListIsReadAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list")
	written := time.Now().Add(-time.Hour)
	write(t, path, hexOf(7), written)
	b := newBench(t, policy.Config{Lists: []policy.ListConfig{{Name: "own", Path: path, MaxAge: 2 * time.Hour}}})
	seven, nine := deal(by(chain.Address{19: 7})), deal(to(chain.Address{19: 9}))
	wantReason(t, b.pass(t, seven), x402.ReasonKYTRisk)
	if err := b.pass(t, nine); err != nil {
		t.Error(err)
	}

	write(t, path, hexOf(9), written.Add(time.Minute))
	b.Refresh(t.Context())
	wantReason(t, b.pass(t, nine), x402.ReasonKYTRisk)
	if err := b.pass(t, seven); err != nil {
		t.Error(err)
	}
	if age := b.sample(t, "screening_age_seconds", "source=own"); age < 3500 || age > 3600 {
		t.Errorf("age %v", age)
	}

	// What can't be read changes nothing, and is told.
	for i, text := range []string{"", "half an addr"} {
		write(t, path, text, time.Now())
		b.Refresh(t.Context())
		wantReason(t, b.pass(t, nine), x402.ReasonKYTRisk)
		if n := b.sample(t, "screening_failures_total", "source=own"); int(n) != i+1 {
			t.Errorf("%v failures", n)
		}
		if p := b.Problems(); len(p) != 1 || p[0] != "screening by own fails" {
			t.Errorf("problems %q", p)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	b.Refresh(t.Context())
	wantReason(t, b.pass(t, nine), x402.ReasonKYTRisk)
	if text := b.log.String(); strings.Count(text, "screening source fails") != 1 || strings.Contains(text, path) {
		t.Errorf("log: %s", text)
	}

	write(t, path, hexOf(7)+"\n"+hexOf(9), time.Now())
	b.Refresh(t.Context())
	wantReason(t, b.pass(t, seven), x402.ReasonKYTRisk)
	if len(b.Problems()) != 0 {
		t.Errorf("problems %q", b.Problems())
	}
}

func TestAListThatIsTooOldSaysNothingOfOthers(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{false, true} {
		dir := t.TempDir()
		old, fresh := filepath.Join(dir, "old"), filepath.Join(dir, "fresh")
		write(t, old, hexOf(7), time.Now())
		write(t, fresh, hexOf(9), time.Now())
		b := newBench(t, policy.Config{FailOpen: open, Lists: []policy.ListConfig{
			{Name: "old", Path: old, MaxAge: time.Hour}, {Name: "fresh", Path: fresh},
		}})
		if err := b.pass(t, deal(nil)); err != nil {
			t.Error(err)
		}
		b.turn(2 * time.Hour)
		if err := b.pass(t, deal(nil)); open != (err == nil) || !open && !errors.Is(err, payment.ErrUnscreened) {
			t.Errorf("fail_open %v: %v", open, err)
		}
		// Who is on it, or on another, is still refused.
		wantReason(t, b.pass(t, deal(by(chain.Address{19: 7}))), x402.ReasonKYTRisk)
		wantReason(t, b.pass(t, deal(by(chain.Address{19: 9}))), x402.ReasonKYTRisk)
		if p := b.Problems(); len(p) != 1 || !strings.Contains(p[0], "old") {
			t.Errorf("problems %q", p)
		}
		write(t, old, hexOf(7), b.clock())
		b.Refresh(t.Context())
		if err := b.pass(t, deal(nil)); err != nil {
			t.Errorf("after it was replaced: %v", err)
		}
	}
}
