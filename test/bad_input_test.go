package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"

	"facilitator/internal/devnet"
	"facilitator/internal/x402"
)

// badBody is a request body that rows change before it is sent.
type badBody map[string]any

// badAbsent as a value removes the member.
type badAbsent struct{}

// badPath spells a path as a wire version does.
func badPath(version int, path string) string {
	if version == x402.V1 {
		return strings.Replace(path, "paymentRequirements.amount", "paymentRequirements.maxAmountRequired", 1)
	}
	return path
}

// badCopy makes a body whose parts nobody else has.
func badCopy(t *testing.T, body any) badBody {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var b badBody
	if err := dec.Decode(&b); err != nil {
		t.Fatal(err)
	}
	return b
}

// walk returns the object that holds the last key of a dotted path, and the key.
func (b badBody) walk(path string) (map[string]any, string) {
	at, keys := map[string]any(b), strings.Split(path, ".")
	for _, key := range keys[:len(keys)-1] {
		sub, ok := at[key].(map[string]any)
		if !ok {
			sub = map[string]any{}
			at[key] = sub
		}
		at = sub
	}
	return at, keys[len(keys)-1]
}

func (b badBody) set(path string, value any) {
	at, key := b.walk(path)
	if value == (badAbsent{}) {
		delete(at, key)
		return
	}
	at[key] = value
}

func (b badBody) str(path string) string {
	at, key := b.walk(path)
	s, _ := at[key].(string)
	return s
}

const (
	badSignature     = "paymentPayload.payload.signature"
	badAuthorization = "paymentPayload.payload.authorization"
)

// resign changes the signature's bytes.
func (b badBody) resign(change func([]byte) []byte) {
	b.set(badSignature, hexutil.Encode(change(hexutil.MustDecode(b.str(badSignature)))))
}

// badRow is one thing that is wrong with a request.
type badRow struct {
	sentence string
	version  int                // the only wire version it is about; 0: both
	sign     func(*devnet.Sale) // changes what the payer signs
	path     string             // where value goes in what is sent
	value    any
	edit     func(badBody) // changes what is sent, where one value will not do
	status   int           // 200 if zero
	reason   string
	says     []string // found in the message
}

// badDesk is a service to which only bad requests are sent.
type badDesk struct {
	*service
	chain        *devnet.Chain
	payer, payee devnet.Key
}

func newBadDesk(t *testing.T, c *devnet.Chain, overlay string) *badDesk {
	t.Helper()
	d := &badDesk{
		service: setup{chain: c, overlay: overlay}.start(t), chain: c,
		payer: payers(t, c, 1)[0], payee: newKey(t, devnet.RolePayee),
	}
	t.Cleanup(func() { d.leftNoTrace(t) }) // after all rows, before the service stops
	return d
}

// refuses sends every row to both endpoints in each version it is about.
func (d *badDesk) refuses(t *testing.T, rows []badRow) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			for _, version := range []int{x402.V1, x402.V2} {
				if row.version == 0 || row.version == version {
					d.refusesRow(t, row, version)
				}
			}
		})
	}
}

func (d *badDesk) refusesRow(t *testing.T, row badRow, version int) {
	t.Helper()
	deal := devnet.Sale{Payer: d.payer, PayTo: d.payee.Address, Amount: 10_000, Version: version}.ForNow(time.Now(), 5*time.Minute)
	if row.sign != nil {
		row.sign(&deal)
	}
	body := badCopy(t, request(t, d.chain, deal))
	if row.path != "" {
		body.set(badPath(version, row.path), row.value)
	}
	if row.edit != nil {
		row.edit(body)
	}
	var says []string
	for _, text := range row.says {
		says = append(says, badPath(version, text))
	}
	status, network := max(row.status, 200), ""
	if requirements, ok := body["paymentRequirements"].(map[string]any); ok {
		network, _ = requirements["network"].(string)
	}
	d.refusesBody(t, fmt.Sprintf("v%d", version), body, badRefusal{status, row.reason, says, network})
}

// badRefusal is how both endpoints must answer.
type badRefusal struct {
	status  int
	reason  string
	says    []string
	network string
}

func (d *badDesk) refusesBody(t *testing.T, name string, body any, want badRefusal) {
	t.Helper()
	for _, path := range []string{"/verify", "/settle"} {
		r := d.post(t, path, body)
		flag, reason, message := "isValid", "invalidReason", "invalidMessage"
		if path == "/settle" {
			flag, reason, message = "success", "errorReason", "errorMessage"
			for key, value := range map[string]string{"transaction": "", "network": want.network} {
				if got, ok := r.body[key].(string); !ok || got != value {
					t.Errorf("%s %s: %s is %v, want %q: %s", name, path, key, r.body[key], value, r.text)
				}
			}
		}
		if given, ok := r.body[flag].(bool); !ok || given || r.status != want.status || r.str(reason) != want.reason {
			t.Errorf("%s %s: %d %s, want %d %s", name, path, r.status, r.text, want.status, want.reason)
		}
		for _, text := range want.says {
			if !strings.Contains(r.str(message), text) {
				t.Errorf("%s %s: message %q does not say %q", name, path, r.str(message), text)
			}
		}
		if want.status != 200 && (r.str("error") == "" || r.str("error") != r.str(message)) {
			t.Errorf("%s %s: error is %q, want the message: %s", name, path, r.str("error"), r.text)
		}
	}
}

// leftNoTrace fails the test if a refused request is recorded, sent or paid.
func (d *badDesk) leftNoTrace(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	for _, table := range []string{"payments", "transactions", "attempts", "outbox"} {
		if n := badCount(ctx, t, d.databaseURL, table); n != 0 {
			t.Errorf("%d rows in %s, want none", n, table)
		}
	}
	for _, lane := range d.lanes {
		if n, err := d.chain.Client().PendingNonceAt(ctx, lane.Address); err != nil || n != 0 {
			t.Errorf("the lane sent %d transactions (%v), want none", n, err)
		}
	}
	if left, err := d.chain.BalanceOf(ctx, d.chain.USDC(), d.payer.Address); err != nil || left.Int64() != 1_000_000_000 {
		t.Errorf("the payer has %v left (%v), want all of 1000000000", left, err)
	}
}

func TestBadInputForm(t *testing.T) {
	t.Parallel()
	d := newBadDesk(t, world.chain, "")
	for _, rows := range [][]badRow{badTypes(), badMissing(), badNumbers(), badAddresses(), badRoutes()} {
		d.refuses(t, rows)
	}
}

// badReason is the reason for an unusable value at path.
func badReason(path string) string {
	if strings.HasPrefix(path, "paymentRequirements") {
		return "invalid_payment_requirements"
	}
	return "invalid_payload"
}

// badField is a member of the protocol.
type badField struct {
	path     string
	kind     string // what its type's complaint says
	version  int
	optional bool
}

func badFields() []badField {
	const text, object, number = "must be a string", "must be an object", "must be a number"
	return []badField{
		{"x402Version", number, 0, true},
		{"paymentPayload", object, 0, false},
		{"paymentPayload.x402Version", number, 0, true},
		{"paymentPayload.scheme", text, 1, false},
		{"paymentPayload.network", text, 1, false},
		{"paymentPayload.accepted", object, 2, false},
		{"paymentPayload.accepted.scheme", text, 2, false},
		{"paymentPayload.accepted.network", text, 2, false},
		{"paymentPayload.resource", object, 2, true},
		{"paymentPayload.resource.url", text, 2, true},
		{"paymentPayload.payload", object, 0, false},
		{badSignature, text, 0, false},
		{badAuthorization, object, 0, true}, // its absence is another type of payload
		{badAuthorization + ".from", text, 0, false},
		{badAuthorization + ".to", text, 0, false},
		{badAuthorization + ".value", text, 0, false},
		{badAuthorization + ".validAfter", text, 0, false},
		{badAuthorization + ".validBefore", text, 0, false},
		{badAuthorization + ".nonce", text, 0, false},
		{"paymentRequirements", object, 0, false},
		{"paymentRequirements.scheme", text, 0, false},
		{"paymentRequirements.network", text, 0, false},
		{"paymentRequirements.amount", text, 0, false},
		{"paymentRequirements.asset", text, 0, false},
		{"paymentRequirements.payTo", text, 0, false},
		{"paymentRequirements.maxTimeoutSeconds", number, 0, true},
		{"paymentRequirements.resource", text, 1, true},
		{"paymentRequirements.extra", object, 0, true},
		{"paymentRequirements.extra.name", text, 0, true},
		{"paymentRequirements.extra.version", text, 0, true},
	}
}

func badTypes() (rows []badRow) {
	values := []struct {
		name  string
		kind  string // for which it is right
		value any
	}{
		{"a string", "must be a string", "2"},
		{"a number", "must be a number", 2},
		{"true", "", true},
		{"an array", "", []any{}},
		{"an object", "must be an object", map[string]any{}},
	}
	for _, f := range badFields() {
		for _, v := range values {
			if v.kind != f.kind {
				rows = append(rows, badRow{
					sentence: f.path + " is " + v.name, version: f.version, path: f.path, value: v.value,
					status: 400, reason: badReason(f.path), says: []string{f.path + ": " + f.kind},
				})
			}
		}
	}
	return rows
}

func badMissing() (rows []badRow) {
	for _, f := range badFields() {
		if f.optional {
			continue
		}
		for _, v := range []struct {
			name, problem string
			value         any
		}{{"missing", "missing", badAbsent{}}, {"null", "missing", nil}, {"empty", "must not be empty", ""}} {
			if v.name == "empty" && f.kind != "must be a string" {
				continue
			}
			rows = append(rows, badRow{
				sentence: f.path + " is " + v.name, version: f.version, path: f.path, value: v.value,
				status: 400, reason: badReason(f.path), says: []string{f.path + ": " + v.problem},
			})
		}
	}
	return append(rows, badRow{
		sentence: "neither version is told", status: 400, reason: "invalid_payload", says: []string{"x402Version: missing"},
		edit: func(b badBody) {
			b.set("x402Version", badAbsent{})
			b.set("paymentPayload.x402Version", badAbsent{})
		},
	})
}

func badNumbers() (rows []badRow) {
	above := new(big.Int).Lsh(big.NewInt(1), 256).String()
	for _, path := range []string{
		"paymentRequirements.amount", badAuthorization + ".value", badAuthorization + ".validAfter", badAuthorization + ".validBefore",
	} {
		for name, value := range map[string]string{
			"a word": "ten", "hexadecimal": "0x2710", "negative": "-1", "signed": "+1", "a fraction": "1.5", "an exponent": "1e4",
			"led by a space": " 10000", "followed by a space": "10000 ", "a space": " ", "in other digits": "١٠",
			"of 79 digits": strings.Repeat("1", 79), "of 79 digits, most of them zeros": strings.Repeat("0", 74) + "10000", "2^256": above,
		} {
			rows = append(rows, badRow{
				sentence: path + " is " + name, path: path, value: value, reason: badReason(path), says: []string{path + ": must be a decimal integer"},
			})
		}
	}
	for name, value := range map[string]json.Number{"negative": "-1", "absurd": "315360001", "beyond 64 bits": "1e30", "a fraction": "0.5"} {
		const path = "paymentRequirements.maxTimeoutSeconds"
		rows = append(rows, badRow{
			sentence: path + " is " + name, path: path, value: value, reason: badReason(path), says: []string{path + ": must be a whole number"},
		})
	}
	for name, value := range map[string]string{
		"31 bytes": "0x" + strings.Repeat("ab", 31), "33 bytes": "0x" + strings.Repeat("ab", 33),
		"not hex": "0x" + strings.Repeat("xy", 32), "without 0x": strings.Repeat("ab", 33), "decimal": "7",
	} {
		const path = badAuthorization + ".nonce"
		rows = append(rows, badRow{sentence: "the nonce is " + name, path: path, value: value, reason: "invalid_payload", says: []string{path}})
	}
	for name, value := range map[string]string{
		"no bytes": "0x", "not hex": "0x" + strings.Repeat("xy", 65), "without 0x": strings.Repeat("ab", 65),
		"half a byte too long": "0x" + strings.Repeat("ab", 65) + "a", "huge": "0x" + strings.Repeat("ab", 8193),
		"wrapped by ERC-6492 around nothing":     "0x" + strings.Repeat("6492", 16),
		"wrapped by ERC-6492 with wild offsets":  "0x" + strings.Repeat("00", 12) + strings.Repeat("ff", 84) + strings.Repeat("6492", 16),
		"wrapped by ERC-6492 around no bytes":    hexutil.Encode(walletWrap(common.Address{1}, []byte{1}, nil)),
		"wrapped by ERC-6492 with a wild length": "0x" + strings.Repeat("00", 63) + "60" + strings.Repeat("00", 31) + "60" + strings.Repeat("00ff", 16) + strings.Repeat("6492", 16),
	} {
		rows = append(rows, badRow{sentence: "the signature is " + name, path: badSignature, value: value, reason: "invalid_payload", says: []string{badSignature}})
	}
	return rows
}

func badAddresses() (rows []badRow) {
	good := crypto.PubkeyToAddress(devnet.Keys(devnet.RolePayee, 1)[0].Private.PublicKey).Hex()
	flipped := []byte(good)
	for i := 2; i < len(flipped); i++ {
		if flipped[i] > '9' {
			flipped[i] ^= 'a' - 'A'
			break
		}
	}
	for _, path := range []string{
		"paymentRequirements.asset", "paymentRequirements.payTo", badAuthorization + ".from", badAuthorization + ".to",
	} {
		for name, value := range map[string]string{
			"too short": good[:41], "too long": good + "0", "without 0x": good[2:], "with 0X": "0X" + good[2:],
			"not hex": "0x" + strings.Repeat("g", 40), "a name": "vitalik.eth", "of 20 characters": "0x" + strings.Repeat("é", 20),
		} {
			rows = append(rows, badRow{
				sentence: path + " is " + name, path: path, value: value, reason: badReason(path), says: []string{path + ": must be 0x and 40"},
			})
		}
		rows = append(rows, badRow{
			sentence: path + " has a bad checksum", path: path, value: string(flipped), reason: badReason(path), says: []string{path, "checksum"},
		})
	}
	return append(rows, badRow{
		sentence: "the payer is the zero address", path: badAuthorization + ".from", value: common.Address{}.Hex(),
		reason: "invalid_payload", says: []string{badAuthorization + ".from", "zero"},
	})
}

func badRoutes() (rows []badRow) {
	versions := func(n any) func(badBody) {
		return func(b badBody) {
			b.set("x402Version", n)
			b.set("paymentPayload.x402Version", n)
		}
	}
	for _, n := range []int{0, 3, 1 << 20} {
		rows = append(rows, badRow{
			sentence: fmt.Sprintf("the version is %d", n), edit: versions(n), reason: "invalid_x402_version", says: []string{fmt.Sprint(n), "1, 2"},
		})
	}
	for name, n := range map[string]json.Number{"negative": "-1", "a fraction": "1.5", "beyond 64 bits": "1e30"} {
		rows = append(rows, badRow{sentence: "the version is " + name, edit: versions(n), reason: "invalid_payload", says: []string{"x402Version"}})
	}
	for version, other := range map[int]int{x402.V1: x402.V2, x402.V2: x402.V1} {
		rows = append(rows, badRow{
			sentence: fmt.Sprintf("the outer version is %d, the payload's is %d", other, version), version: version,
			path: "x402Version", value: other, status: 400, reason: "invalid_payload", says: []string{"x402Version"},
		})
	}
	for _, scheme := range []string{"upto", "batch-settlement", "Exact", "exact ", strings.Repeat("x", 5000)} {
		rows = append(rows, badRow{
			sentence: fmt.Sprintf("the scheme is %.20q", scheme), path: "paymentRequirements.scheme", value: scheme,
			reason: "unsupported_scheme", says: []string{"exact"},
		})
	}
	for version, networks := range map[int][]string{
		x402.V1: {"eip155:8453", "Base", "base-sepolia", "solana", "v1:base", " base"},
		x402.V2: {"base", "eip155:1", "eip155:08453", "EIP155:8453", "eip155:*", "eip155:8453 ", "eip155"},
	} {
		for _, network := range networks {
			rows = append(rows, badRow{
				sentence: fmt.Sprintf("the network of version %d is %q", version, network), version: version,
				path: "paymentRequirements.network", value: network, reason: "invalid_network", says: []string{"supported: " + map[int]string{1: "base", 2: "eip155:8453"}[version]},
			})
		}
	}
	for name, payload := range map[string]map[string]any{
		"a Permit2 payload": {"signature": "0xab", "permit2Authorization": map[string]any{"from": common.Address{1}.Hex()}},
		"a delegation":      {"delegationManager": common.Address{1}.Hex(), "permissionContext": "0x", "delegator": common.Address{1}.Hex()},
		"an empty payload":  {},
	} {
		rows = append(rows, badRow{sentence: name, path: "paymentPayload.payload", value: payload, reason: "unsupported_payload_type"})
	}
	return append(rows, badRow{sentence: "the authorization is null", path: badAuthorization, reason: "unsupported_payload_type"})
}

func TestBadInputText(t *testing.T) {
	t.Parallel()
	d := newBadDesk(t, world.chain, "")
	encoded, err := json.Marshal(request(t, world.chain, sale(t, d.payer)))
	if err != nil {
		t.Fatal(err)
	}
	good := string(encoded)
	edit := func(old, replacement string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, replacement, 1)
	}
	const told = "eip155:8453" // the network, where it could be read
	rows := []struct{ sentence, body, reason, says, network string }{
		{"the body is empty", "", "invalid_payload", "not valid JSON", ""},
		{"the body is blank", " \n", "invalid_payload", "not valid JSON", ""},
		{"the body is not JSON", "x402Version=2", "invalid_payload", "not valid JSON", ""},
		{"the body is cut off", good[:len(good)-1], "invalid_payload", "not valid JSON", ""},
		{"the body is a JSON array", "[" + good + "]", "invalid_payload", "must be a JSON object", ""},
		{"the body is a JSON string", `"{}"`, "invalid_payload", "must be a JSON object", ""},
		{"the body is null", "null", "invalid_payload", "must be a JSON object", ""},
		{"the body is an empty object", "{}", "invalid_payment_requirements", "paymentRequirements: missing", ""},
		{"garbage follows the body", good + "x", "invalid_payload", "more than one JSON value", ""},
		{"a bracket follows the body", good + "}", "invalid_payload", "more than one JSON value", ""},
		{"a second body follows", good + good, "invalid_payload", "more than one JSON value", ""},
		{"a byte order mark leads the body", "\ufeff" + good, "invalid_payload", "not valid JSON", ""},
		{"a comma is left over", good[:len(good)-1] + ",}", "invalid_payload", "not valid JSON", ""},
		{"a key is not quoted", edit(`"paymentPayload":`, `paymentPayload:`), "invalid_payload", "not valid JSON", ""},
		{"a key is in other letters", edit(`"paymentPayload":`, `"PaymentPayload":`), "invalid_payload", "paymentPayload: missing", told},
		{"a key of the top is given twice", edit(`{"paymentPayload":`, `{"x402Version":2,"paymentPayload":`), "invalid_payload", "x402Version: given twice", ""},
		{"a key of the requirements is given twice", edit(`"paymentRequirements":{`, `"paymentRequirements":{"payTo":"0x0000000000000000000000000000000000000001",`), "invalid_payment_requirements", "paymentRequirements.payTo: given twice", ""},
		{"a key is given twice in a part nobody reads", edit(`{"paymentPayload":`, `{"more":[{"a":1,"a":1}],"paymentPayload":`), "invalid_payload", "more[].a: given twice", ""},
		{"the body is nested too deeply", edit(`{"paymentPayload":`, `{"more":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`,"paymentPayload":`), "invalid_payload", "nested too deeply", ""},
	}
	for _, path := range []string{"/verify", "/settle"} {
		if r := d.post(t, path, good+strings.Repeat(" ", 262_145-len(good))); r.status != 413 || !strings.Contains(r.str("error"), "262144") {
			t.Errorf("%s: a body over the limit: %d %s", path, r.status, r.text)
		}
	}
	// The limit itself fits, and nothing but the text is wrong below.
	if r := d.post(t, "/verify", good+strings.Repeat(" ", 262_144-len(good))); !r.is("isValid") {
		t.Errorf("the good body: %d %s", r.status, r.text)
	}
	for _, row := range rows {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			d.refusesBody(t, "text", row.body, badRefusal{400, row.reason, []string{row.says}, row.network})
		})
	}
}
