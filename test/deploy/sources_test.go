package deploy

import (
	"io/fs"
	"slices"
)

// sources are the folders that the program is built from.
type sources struct{ fs.FS }

// ReadDir leaves out at the root what is no source.
func (s sources) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(s.FS, name)
	if name != "." {
		return entries, err
	}
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		return !slices.Contains([]string{"api", "cmd", "internal", "migrations", "go.mod", "go.sum"}, e.Name())
	}), err
}
