package config

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a value that is never printed (I10): a key, or a URL that may carry
// one. Every way of writing it (fmt with any verb, slog, text, JSON, YAML) gives
// "[redacted]", or nothing where it is empty; only Reveal gives the value.
//
// It does not protect an unexported field: fmt reads those past the methods of
// their type. Keep Secrets in exported fields.
type Secret string

// Reveal returns the value itself. Pass it on, never print it.
func (s Secret) Reveal() string { return string(s) }

// String implements [fmt.Stringer].
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString implements [fmt.GoStringer].
func (s Secret) GoString() string { return s.String() }

// Format implements [fmt.Formatter], so that no verb (%x, %q, %d) shows the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements [encoding.TextMarshaler], which JSON and YAML use too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
