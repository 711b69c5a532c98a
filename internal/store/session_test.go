package store_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"facilitator/internal/store"
)

// TestConnectionsHaveTheirSettings unless the database's URL says otherwise.
func TestConnectionsHaveTheirSettings(t *testing.T) {
	t.Parallel()
	r := open(t)
	separator := "?"
	if strings.Contains(r.url, "?") {
		separator = "&"
	}
	for url, want := range map[string]string{
		r.url: "off 1min",
		r.url + separator + "enable_seqscan=on&idle_in_transaction_session_timeout=7000": "on 7s",
	} {
		cfg, err := pgxpool.ParseConfig(url)
		must(t, err)
		store.PrepareConnections(cfg)
		connections, err := pgxpool.NewWithConfig(t.Context(), cfg)
		must(t, err)
		var got string
		err = connections.QueryRow(t.Context(),
			"SELECT current_setting('enable_seqscan') || ' ' || current_setting('idle_in_transaction_session_timeout')").Scan(&got)
		connections.Close()
		must(t, err)
		if got != want {
			t.Errorf("a connection has %q, want %q", got, want)
		}
	}
}
