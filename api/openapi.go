package api

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

// OpenAPI describes every route.
//
//go:embed openapi.yaml
var OpenAPI string

// openAPI serves the description. It changes with the program only, so a client
// that has it is told so.
func openAPI() http.HandlerFunc {
	sum := sha256.Sum256([]byte(OpenAPI))
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/yaml") // RFC 9512
		h.Set("Cache-Control", "no-cache")        // ask again, by its tag
		h.Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(OpenAPI))
	}
}
