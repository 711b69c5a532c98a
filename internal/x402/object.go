package x402

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxDepth bounds nesting: nothing in the protocol comes near it.
const maxDepth = 32

// FieldError is a request that is not of the protocol's form. Path names the
// field ("paymentRequirements.amount"), Problem says what is wrong with it.
// Syntax is true where the text is not the JSON the protocol asks for (not
// JSON, duplicate keys, wrong types, required members missing), false where a
// value of the right type is unusable (a bad checksum, a number too large).
type FieldError struct {
	Path    string
	Problem string
	Syntax  bool
}

func (e *FieldError) Error() string {
	if e.Path == "" {
		return e.Problem
	}
	return e.Path + ": " + e.Problem
}

// Object is a JSON object that remembers where it stood, so that every
// complaint about it names the field. Keys are matched exactly, unlike
// encoding/json, which takes "Amount" for "amount". The zero Object is absent.
type Object struct {
	path   string
	fields map[string]any
}

// ParseObject reads exactly one JSON object. Duplicate keys are refused at
// every depth: two readers that each take another one would see two payments.
func ParseObject(body []byte) (Object, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	v, err := readValue(dec, "", 0)
	if err != nil {
		return Object{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Object{}, &FieldError{Problem: "more than one JSON value in the body", Syntax: true}
	}
	fields, ok := v.(map[string]any)
	if !ok {
		return Object{}, &FieldError{Problem: "must be a JSON object", Syntax: true}
	}
	return Object{fields: fields}, nil
}

func readValue(dec *json.Decoder, path string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, &FieldError{Path: path, Problem: "nested too deeply", Syntax: true}
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	switch t := tok.(type) {
	case json.Delim:
		if t == '[' {
			return readArray(dec, path, depth)
		}
		return readObject(dec, path, depth)
	default:
		return t, nil
	}
}

func readObject(dec *json.Decoder, path string, depth int) (any, error) {
	fields := make(map[string]any)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		key, ok := tok.(string)
		if !ok {
			return nil, &FieldError{Path: path, Problem: "not valid JSON", Syntax: true}
		}
		at := join(path, key)
		if _, twice := fields[key]; twice {
			return nil, &FieldError{Path: at, Problem: "given twice", Syntax: true}
		}
		if fields[key], err = readValue(dec, at, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, notJSON(err)
	}
	return fields, nil
}

func readArray(dec *json.Decoder, path string, depth int) (any, error) {
	items := []any{}
	for dec.More() {
		v, err := readValue(dec, path+"[]", depth+1)
		if err != nil {
			return nil, err
		}
		items = append(items, v)
	}
	if _, err := dec.Token(); err != nil {
		return nil, notJSON(err)
	}
	return items, nil
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &FieldError{Problem: "not valid JSON: it ends too early", Syntax: true}
	}
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return &FieldError{Problem: fmt.Sprintf("not valid JSON at byte %d", syntax.Offset), Syntax: true}
	}
	return &FieldError{Problem: "not valid JSON", Syntax: true}
}

// join keeps a hostile key from flooding messages and logs.
func join(path, key string) string {
	const most = 64
	if len(key) > most {
		key = strings.ToValidUTF8(key[:most], "") + "..."
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// Exists says whether the object was there at all (null counts as absent).
func (o Object) Exists() bool { return o.fields != nil }

// Has says whether key is there and not null.
func (o Object) Has(key string) bool { return o.fields[key] != nil }

// Invalid is a FieldError for key: the right type, an unusable value.
func (o Object) Invalid(key, problem string) error {
	return &FieldError{Path: join(o.path, key), Problem: problem}
}

func (o Object) syntax(key, problem string) error {
	return &FieldError{Path: join(o.path, key), Problem: problem, Syntax: true}
}

// Object returns the object at key, which must be there.
func (o Object) Object(key string) (Object, error) {
	sub, err := o.OptionalObject(key)
	if err == nil && !sub.Exists() {
		return Object{}, o.syntax(key, "missing")
	}
	return sub, err
}

// OptionalObject returns the object at key; absent and null give the zero
// Object, whose accessors still name the right path.
func (o Object) OptionalObject(key string) (Object, error) {
	v := o.fields[key]
	if v == nil {
		return Object{path: join(o.path, key)}, nil
	}
	fields, ok := v.(map[string]any)
	if !ok {
		return Object{}, o.syntax(key, "must be an object")
	}
	return Object{path: join(o.path, key), fields: fields}, nil
}

// String returns the text at key, which must be there and not be empty.
func (o Object) String(key string) (string, error) {
	s, err := o.OptionalString(key)
	if err == nil && s == "" {
		if o.Has(key) {
			return "", o.syntax(key, "must not be empty")
		}
		return "", o.syntax(key, "missing")
	}
	return s, err
}

// OptionalString returns the text at key, or "".
func (o Object) OptionalString(key string) (string, error) {
	v := o.fields[key]
	if v == nil {
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", o.syntax(key, "must be a string")
	}
	return s, nil
}

// Uint256 returns the decimal string at key, which must be there. JSON numbers
// are refused: they lose digits on the way through other people's parsers.
func (o Object) Uint256(key string) (Uint256, error) {
	s, err := o.String(key)
	if err != nil {
		return Uint256{}, err
	}
	u, err := ParseUint256(s)
	if err != nil {
		return Uint256{}, o.Invalid(key, err.Error())
	}
	return u, nil
}

// OptionalInt returns the whole JSON number at key within [least, most], or
// absent (false).
func (o Object) OptionalInt(key string, least, most int64) (int64, bool, error) {
	v := o.fields[key]
	if v == nil {
		return 0, false, nil
	}
	num, ok := v.(json.Number)
	if !ok {
		return 0, false, o.syntax(key, "must be a number")
	}
	n, err := num.Int64()
	if err != nil || n < least || n > most {
		return 0, false, o.Invalid(key, fmt.Sprintf("must be a whole number from %d to %d", least, most))
	}
	return n, true, nil
}
