package x402_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"facilitator/internal/x402"
)

// fieldError is err as what a caller is told, or the test ends.
func fieldError(t *testing.T, err error) x402.FieldError {
	t.Helper()
	field := (*x402.FieldError)(nil)
	if !errors.As(err, &field) {
		t.Fatalf("error is %v (%T), want a FieldError", err, err)
	}
	return *field
}

func parse(t *testing.T, body string) x402.Object {
	t.Helper()
	o, err := x402.ParseObject([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestParseObjectRefusesWhatIsNotOneObject(t *testing.T) {
	t.Parallel()
	const early = "not valid JSON: it ends too early"
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	for _, c := range []struct{ name, body, path, problem string }{
		{"nothing", ``, "", early},
		{"spaces", " \n\t", "", early},
		{"a cut object", `{"a":1`, "", early},
		{"a cut string", `{"a":"x`, "", early},
		{"a cut key", `{"a`, "", early},
		{"a key without a value", `{"a"}`, "", "not valid JSON at byte 4"},
		{"a comma at the end", `{"a":1,}`, "", "not valid JSON at byte 7"},
		{"no comma", `{"a":1 "b":2}`, "", "not valid JSON at byte 7"},
		{"a key that is no string", `{1:2}`, "", "not valid JSON at byte 1"},
		{"crossed brackets", `{"a":[}]`, "", "not valid JSON at byte 6"},
		{"a comment", `{/*x*/}`, "", "not valid JSON at byte 1"},
		{"an array", `[]`, "", "must be a JSON object"},
		{"a string", `"x"`, "", "must be a JSON object"},
		{"null", `null`, "", "must be a JSON object"},
		{"two objects", `{}{}`, "", "more than one JSON value in the body"},
		{"an object and a bracket", `{}}`, "", "more than one JSON value in the body"},
		{"an object and text", `{} x`, "", "more than one JSON value in the body"},
		{"an object and a zero byte", "{}\x00", "", "more than one JSON value in the body"},
		{"a key twice", `{"a":1,"a":1}`, "a", "given twice"},
		{"a key twice in an object", `{"a":{"b":{"c":1,"c":2}}}`, "a.b.c", "given twice"},
		{"a key twice in an array", `{"a":[1,{"b":1,"b":null}]}`, "a[].b", "given twice"},
		{"a key twice, spelled with an escape", `{"payTo":1,"pay\u0054o":2}`, "payTo", "given twice"},
		{"a key twice, first null", `{"a":null,"a":1}`, "a", "given twice"},
		{"33 objects in one another", deep(34), strings.TrimSuffix(strings.Repeat("a.", 33), "."), "nested too deeply"},
		{"a bomb of arrays", `{"a":` + strings.Repeat("[", 1<<20), "a" + strings.Repeat("[]", 32), "nested too deeply"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, err := x402.ParseObject([]byte(c.body))
			want := x402.FieldError{Path: c.path, Problem: c.problem, Syntax: true}
			if diff := cmp.Diff(want, fieldError(t, err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if o.Exists() {
				t.Error("an object was returned with the error")
			}
		})
	}
}

func TestParseObjectAcceptsNestingThatTheProtocolNeeds(t *testing.T) {
	t.Parallel()
	parse(t, strings.Repeat(`{"a":`, 32)+"1"+strings.Repeat("}", 32))
	parse(t, `{"a":[{"b":1},{"b":2}]}`) // the same key in two objects of an array
	parse(t, " {} \n")
}

func TestALongKeyDoesNotFloodTheMessage(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("é", 10_000)
	_, err := x402.ParseObject([]byte(`{"` + key + `":1,"` + key + `":2}`))
	field := fieldError(t, err)
	if want := strings.Repeat("é", 32) + "..."; field.Path != want {
		t.Errorf("path has %d bytes: %.100q", len(field.Path), field.Path)
	}
	o := parse(t, `{"a":1}`)
	if _, err := o.String(key); len(err.Error()) > 100 {
		t.Errorf("message has %d bytes", len(err.Error()))
	}
}

func TestKeysAreMatchedByCase(t *testing.T) {
	t.Parallel()
	o := parse(t, `{"Amount":"1","PAYTO":"x","extra":{"Name":"y"}}`)
	for _, key := range []string{"amount", "payTo"} {
		if _, err := o.String(key); fieldError(t, err).Problem != "missing" {
			t.Errorf("%s: %v", key, err)
		}
	}
	extra, err := o.Object("extra")
	if err != nil {
		t.Fatal(err)
	}
	if name, err := extra.OptionalString("name"); name != "" || err != nil {
		t.Errorf("extra.name = %q, %v", name, err)
	}
}

func TestAccessorsNameTheFieldThatIsWrong(t *testing.T) {
	t.Parallel()
	const body = `{"top":{"text":"x","empty":"","number":7,"big":1e30,"half":1.5,"null":null,"list":[1],"yes":true,
		"amount":"10","hex":"0x10","over":"` + maxUint256 + `0","sub":{"k":"v"}}}`
	top, err := parse(t, body).Object("top")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := top.Object("sub")
	if err != nil {
		t.Fatal(err)
	}
	gone, err := top.OptionalObject("gone")
	if err != nil || gone.Exists() {
		t.Fatalf("absent object: %v, %t", err, gone.Exists())
	}
	second := func(_ any, err error) error { return err }
	third := func(_ int64, _ bool, err error) error { return err }
	const notDecimal = "must be a decimal integer below 2^256"
	for _, c := range []struct {
		name string
		err  error
		want x402.FieldError
	}{
		{"no string", second(top.String("gone")), x402.FieldError{Path: "top.gone", Problem: "missing", Syntax: true}},
		{"null for a string", second(top.String("null")), x402.FieldError{Path: "top.null", Problem: "missing", Syntax: true}},
		{"empty string", second(top.String("empty")), x402.FieldError{Path: "top.empty", Problem: "must not be empty", Syntax: true}},
		{"number for a string", second(top.String("number")), x402.FieldError{Path: "top.number", Problem: "must be a string", Syntax: true}},
		{"object for a string", second(top.OptionalString("sub")), x402.FieldError{Path: "top.sub", Problem: "must be a string", Syntax: true}},
		{"bool for a string", second(top.OptionalString("yes")), x402.FieldError{Path: "top.yes", Problem: "must be a string", Syntax: true}},
		{"no object", second(top.Object("gone")), x402.FieldError{Path: "top.gone", Problem: "missing", Syntax: true}},
		{"null for an object", second(top.Object("null")), x402.FieldError{Path: "top.null", Problem: "missing", Syntax: true}},
		{"list for an object", second(top.OptionalObject("list")), x402.FieldError{Path: "top.list", Problem: "must be an object", Syntax: true}},
		{"text for an object", second(top.Object("text")), x402.FieldError{Path: "top.text", Problem: "must be an object", Syntax: true}},
		{"number for an amount", second(top.Uint256("number")), x402.FieldError{Path: "top.number", Problem: "must be a string", Syntax: true}},
		{"hex for an amount", second(top.Uint256("hex")), x402.FieldError{Path: "top.hex", Problem: notDecimal}},
		{"too large an amount", second(top.Uint256("over")), x402.FieldError{Path: "top.over", Problem: notDecimal}},
		{"no amount", second(top.Uint256("gone")), x402.FieldError{Path: "top.gone", Problem: "missing", Syntax: true}},
		{"text for a number", third(top.OptionalInt("text", 0, 9)), x402.FieldError{Path: "top.text", Problem: "must be a number", Syntax: true}},
		{"a half", third(top.OptionalInt("half", 0, 9)), x402.FieldError{Path: "top.half", Problem: "must be a whole number from 0 to 9"}},
		{"too large a number", third(top.OptionalInt("big", 0, 9)), x402.FieldError{Path: "top.big", Problem: "must be a whole number from 0 to 9"}},
		{"above the limit", third(top.OptionalInt("number", 0, 6)), x402.FieldError{Path: "top.number", Problem: "must be a whole number from 0 to 6"}},
		{"below the limit", third(top.OptionalInt("number", 8, 9)), x402.FieldError{Path: "top.number", Problem: "must be a whole number from 8 to 9"}},
		{"in an object", second(sub.String("gone")), x402.FieldError{Path: "top.sub.gone", Problem: "missing", Syntax: true}},
		{"in an absent object", second(gone.String("k")), x402.FieldError{Path: "top.gone.k", Problem: "missing", Syntax: true}},
		{"an unusable value", sub.Invalid("k", "is odd"), x402.FieldError{Path: "top.sub.k", Problem: "is odd"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, fieldError(t, c.err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if want := c.want.Path + ": " + c.want.Problem; c.err.Error() != want {
				t.Errorf("text %q, want %q", c.err.Error(), want)
			}
		})
	}
}

func TestAccessorsReadWhatIsThere(t *testing.T) {
	t.Parallel()
	o := parse(t, `{"s":"x","u":"10","n":7,"o":{},"null":null,"zero":0}`)
	if s, err := o.String("s"); s != "x" || err != nil {
		t.Errorf("String = %q, %v", s, err)
	}
	if u, err := o.Uint256("u"); u != x402.NewUint256(10) || err != nil {
		t.Errorf("Uint256 = %s, %v", u, err)
	}
	for _, limits := range [][2]int64{{7, 7}, {-1, 100}} {
		if n, ok, err := o.OptionalInt("n", limits[0], limits[1]); n != 7 || !ok || err != nil {
			t.Errorf("OptionalInt = %d, %t, %v", n, ok, err)
		}
	}
	for _, key := range []string{"null", "gone"} {
		if n, ok, err := o.OptionalInt(key, 1, 2); n != 0 || ok || err != nil {
			t.Errorf("OptionalInt(%s) = %d, %t, %v", key, n, ok, err)
		}
		if s, err := o.OptionalString(key); s != "" || err != nil {
			t.Errorf("OptionalString(%s) = %q, %v", key, s, err)
		}
		if sub, err := o.OptionalObject(key); sub.Exists() || err != nil {
			t.Errorf("OptionalObject(%s) = %v, %v", key, sub, err)
		}
		if o.Has(key) {
			t.Errorf("Has(%s)", key)
		}
	}
	if sub, err := o.Object("o"); !sub.Exists() || err != nil {
		t.Errorf("Object = %v, %v", sub, err)
	}
	if !o.Has("zero") || !o.Has("s") {
		t.Error("Has does not see what is there")
	}
}

// FuzzParseObject: whatever the bytes, no panic; what is accepted is one object
// for encoding/json as well, with the same keys; what is refused is refused
// with a FieldError.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"a":1}`, `{"a":1,"a":2}`, `{"a":{"b":[1,2,{"c":null}]}}`, `{"a":"\ud800"}`, "{\"\xff\":1,\"\xfe\":2}",
		`{"x402Version":2,"paymentPayload":{"payload":{"signature":"0x"}},"paymentRequirements":{"amount":"1"}}`,
		`{"a":1e999}`, `{"a":[}]`, `{} {}`, `[[[[`, `{"a":-0.0e-1}`, `{"a":tru}`, "\ufeff{}", `{"":{"":""}}`, `{"a" 1}`, `{"a":1,,"b":2}`, `{"a":NaN}`, `{"a":+1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := x402.ParseObject(body)
		if err != nil {
			if field := fieldError(t, err); !field.Syntax || field.Problem == "" {
				t.Errorf("refused with %+v", field)
			}
			return
		}
		var fields map[string]any
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.UseNumber()
		if err := dec.Decode(&fields); err != nil || !json.Valid(body) {
			t.Fatalf("accepted %q, which encoding/json refuses: %v", body, err)
		}
		if !o.Exists() {
			t.Fatal("accepted, but absent")
		}
		for key, value := range fields {
			if o.Has(key) != (value != nil) {
				t.Errorf("Has(%q) = %t for %v", key, o.Has(key), value)
			}
			if s, isText := value.(string); isText {
				if got, err := o.OptionalString(key); got != s || err != nil {
					t.Errorf("OptionalString(%q) = %q, %v; encoding/json reads %q", key, got, err, s)
				}
			}
		}
	})
}
