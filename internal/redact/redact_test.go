package redact_test

import (
	"testing"

	"facilitator/internal/redact"
)

func TestText(t *testing.T) {
	t.Parallel()
	secrets := redact.Of("https://someone:the-password@host/v2/path%20key/?apikey=query-key&x=1", "a-token", "")
	for text, want := range map[string]string{
		"nothing of v2 at host":                        "nothing of v2 at host",
		"for the-password, path key, path%20key":       "for [redacted], [redacted], [redacted]",
		"query-key of someone with a-token":            "[redacted] of [redacted] with [redacted]",
		"at WSS://elsewhere/secret and more":           "at [url] and more",
		"Basic c29tZW9uZTp0aGUtcGFzc3dvcmQ= is enough": "Basic [redacted] is enough",
		"no UTF-8 \xff":                                "no UTF-8 ",
	} {
		if got := secrets.Text(text); got != want {
			t.Errorf("%q is told as %q, want %q", text, got, want)
		}
	}
	if got := redact.Of("http://%zz", "a-token").Text("a-token, %zz"); got != "[redacted], %zz" {
		t.Errorf("without a URL: %q", got)
	}
}
