package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	password = "hunter2-hunter2"
	keyA     = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
	keyB     = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
)

// TestSecretIsNeverPrinted tries every way in which a value ends up in a log
// or an answer (I10).
func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	holder := struct {
		S    Secret
		P    *Secret
		List []Secret
		Map  map[string]Secret
	}{S: password, P: new(Secret(password)), List: []Secret{password}, Map: map[string]Secret{"k": password}}

	printed := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%20s", "%t"} {
		printed[verb] = fmt.Sprintf(verb, holder.S) + fmt.Sprintf(verb, holder) + fmt.Sprintf(verb, holder.List)
	}
	printed["error"] = fmt.Errorf("dial %v: %w", holder.S, errors.New("refused")).Error()
	printed["print"] = fmt.Sprint(holder.S, holder)
	asJSON, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	printed["json"] = string(asJSON)
	asYAML, err := yaml.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	printed["yaml"] = string(asYAML)
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(handler(&b)).Info("started", slog.Any("secret", holder.S), slog.Any("holder", holder))
		printed[name] = b.String()
	}

	for how, text := range printed {
		if strings.Contains(text, password) || strings.Contains(text, fmt.Sprintf("%x", password)) {
			t.Errorf("%s shows the secret: %s", how, text)
		}
		if !strings.Contains(text, redacted) {
			t.Errorf("%s does not say that something is redacted: %s", how, text)
		}
	}
	if got := holder.S.Reveal(); got != password {
		t.Errorf("Reveal() = %q", got)
	}
	if got := fmt.Sprintf("%v%+v%#v%q", Secret(""), Secret(""), Secret(""), Secret("")); got != "" {
		t.Errorf("an empty secret prints %q, want nothing", got)
	}
}
