// Package migrations holds the schema, one numbered file a step, for goose.
package migrations

import "embed"

// FS holds the files.
//
//go:embed *.sql
var FS embed.FS
