package devnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// ErrNoTools says that the pinned tools are not installed.
var ErrNoTools = errors.New("development tools are not installed: run `make tools` in the checkout, or set FACILITATOR_TOOLS to its tools directory")

// lockPoll is how often a process looks whether another one has finished
// building the same file.
const lockPoll = 20 * time.Millisecond

// Tools returns the directory whose node_modules hold the pinned tools: dir if
// it is given, else the environment's FACILITATOR_TOOLS, else the nearest
// tools directory with a package.json at or above the working directory.
// The error is ErrNoTools when there is none or nothing is installed in it.
func Tools(dir string) (string, error) {
	if dir == "" {
		dir = os.Getenv("FACILITATOR_TOOLS")
	}
	if dir == "" {
		found, err := searchTools()
		if err != nil {
			return "", err
		}
		dir = found
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("tools directory: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil { //nolint:gosec // where to look is the caller's to say
		return "", fmt.Errorf("%w (looked in %s)", ErrNoTools, dir)
	}
	return dir, nil
}

func searchTools() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("tools directory: %w", err)
	}
	for at := start; ; at = filepath.Dir(at) {
		candidate := filepath.Join(at, "tools")
		if _, err := os.Stat(filepath.Join(candidate, "package.json")); err == nil {
			return candidate, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%w (no tools/package.json at or above %s)", ErrNoTools, start)
		}
	}
}

// module is the directory of an installed npm package.
func module(tools, name string) string {
	return filepath.Join(tools, "node_modules", filepath.FromSlash(name))
}

// ToolVersion is the version of one of the pinned tools, by its npm package.
func ToolVersion(tools, name string) (string, error) { return moduleVersion(tools, name) }

// moduleVersion reads the version of an installed npm package.
func moduleVersion(tools, name string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(module(tools, name), "package.json"))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoTools, err)
	}
	var manifest struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return "", fmt.Errorf("package.json of %s: %w", name, err)
	}
	return manifest.Version, nil
}

// cached returns the path of the file called name, which must contain a hash
// of everything its content depends on. If no process has built it yet, build
// writes it. Of several processes that want it at once one builds and the
// others wait; a build that fails or is killed leaves nothing.
//
// The file lies in .cache beside the tools, or in the user's cache directory
// if that one cannot be written.
func cached(ctx context.Context, tools, name string, build func(context.Context, io.Writer) error) (string, error) {
	dirs := []string{filepath.Join(tools, ".cache")}
	if user, err := os.UserCacheDir(); err == nil {
		dirs = append(dirs, filepath.Join(user, "facilitator-devnet"))
	}
	for _, dir := range dirs {
		if path := filepath.Join(dir, name); readable(path) {
			return path, nil
		}
	}
	var failures []error
	for _, dir := range dirs {
		lock, err := openLock(dir, name+".lock")
		if err != nil {
			failures = append(failures, err)
			continue
		}
		path, err := buildOnce(ctx, lock, filepath.Join(dir, name), build)
		return path, errors.Join(err, lock.Close())
	}
	return "", fmt.Errorf("no writable cache directory: %w", errors.Join(failures...))
}

func openLock(dir, name string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the directory is ours
}

func buildOnce(ctx context.Context, lock *os.File, path string, build func(context.Context, io.Writer) error) (string, error) {
	for {
		locked, err := tryLock(lock)
		if err != nil {
			return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		if locked {
			break
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %s to be built: %w", path, context.Cause(ctx))
		case <-time.After(lockPoll):
		}
	}
	if readable(path) {
		return path, nil
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
	if err != nil {
		return "", err
	}
	err = build(ctx, file)
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return path, nil
}

func readable(path string) bool {
	file, err := os.Open(path) //nolint:gosec // a path of our own making
	if err != nil {
		return false
	}
	return file.Close() == nil
}
