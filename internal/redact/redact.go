// Package redact keeps secrets out of texts that others wrote (I10): nodes,
// signers and hooks repeat in their answers what they were asked with.
package redact

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Secrets are what no text may hold.
type Secrets []string

// least is how long a part of a URL must be; shorter ones are words such as "v2".
const least = 6

// Of are every part of a URL that may be a credential, and further secrets.
func Of(rawURL string, more ...string) Secrets {
	parts := slices.Clone(more)
	if u, err := url.Parse(rawURL); err == nil {
		parts = append(parts, strings.Split(u.Path, "/")...)
		parts = append(parts, strings.Split(u.EscapedPath(), "/")...)
		if password, ok := u.User.Password(); ok {
			basic := base64.StdEncoding.EncodeToString([]byte(u.User.Username() + ":" + password))
			parts = append(parts, basic, password)
		}
		parts = append(parts, u.User.Username())
		for _, values := range u.Query() {
			parts = append(parts, values...)
		}
	}
	parts = slices.DeleteFunc(parts, func(part string) bool { return len(part) < least })
	// A secret may be a part of another.
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) })
	return parts
}

// Text is a text without secrets and URLs.
func (s Secrets) Text(text string) string {
	text = strings.ToValidUTF8(regexp.MustCompile(`(?i)\b(https?|wss?)://\S+`).ReplaceAllString(text, "[url]"), "")
	for _, secret := range s {
		text = strings.ReplaceAll(text, secret, "[redacted]")
	}
	return text
}
