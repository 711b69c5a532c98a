package devnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

const (
	scratchPrefix = "facilitator-devnet-"
	scratchLock   = "lock"
)

// scratch is a directory for the files of one started process. Its owner holds
// a lock on a file in it for as long as it lives, so a directory whose lock can
// be taken has no owner any more.
type scratch struct {
	dir   string
	close func() error
}

// newScratch removes what dead owners left and makes a new directory.
func newScratch() (*scratch, error) {
	parent := os.TempDir()
	if err := sweep(parent); err != nil {
		return nil, err
	}
	// A sweep of another process can see the directory before it is locked and
	// take it away. That is rare enough for a handful of attempts.
	for range 10 {
		dir, err := os.MkdirTemp(parent, scratchPrefix)
		if err != nil {
			return nil, fmt.Errorf("scratch directory: %w", err)
		}
		lock, err := claimScratch(dir)
		if err != nil {
			return nil, err
		}
		if lock == nil {
			continue
		}
		// Others may pass through, so that a Postgres without root's rights
		// reaches its own directory inside.
		if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // passing through is all it grants
			return nil, errors.Join(err, lock.Close())
		}
		return &scratch{dir: dir, close: sync.OnceValue(func() error {
			return errors.Join(os.RemoveAll(dir), lock.Close())
		})}, nil
	}
	return nil, fmt.Errorf("scratch directory: every new directory in %s was taken away", parent)
}

// Close removes the directory and all in it. Only the first call does anything.
func (s *scratch) Close() error {
	return s.close()
}

// sweep removes the scratch directories in parent whose owner is dead.
func sweep(parent string) error {
	entries, err := filepath.Glob(filepath.Join(parent, scratchPrefix+"*"))
	if err != nil {
		return fmt.Errorf("stale scratch directories: %w", err)
	}
	for _, dir := range entries {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !ownFile(info) {
			continue
		}
		lock, err := claimScratch(dir)
		if err != nil || lock == nil {
			continue // somebody else's, or just being removed
		}
		if err := errors.Join(os.RemoveAll(dir), lock.Close()); err != nil {
			return fmt.Errorf("stale scratch directory: %w", err)
		}
	}
	return nil
}

// claimScratch takes the lock in dir. It returns nil if another process holds
// it or has removed the directory meanwhile.
func claimScratch(dir string) (*os.File, error) {
	path := filepath.Join(dir, scratchLock)
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // a path of our own making
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	locked, err := tryLock(lock)
	if err == nil && locked && sameFile(lock, path) {
		return lock, nil
	}
	return nil, errors.Join(err, lock.Close())
}

func sameFile(file *os.File, path string) bool {
	held, err := file.Stat()
	if err != nil {
		return false
	}
	found, err := os.Lstat(path)
	return err == nil && os.SameFile(held, found)
}
