package devnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// postgresBinaries is an installation of Postgres and the user to run it as.
type postgresBinaries struct {
	bin string   // directory of initdb and postgres
	as  *account // nil: this process's user
}

func locatePostgres(ctx context.Context, cfg PostgresConfig, space *scratch) (postgresBinaries, error) {
	as, err := plainAccount()
	if err != nil {
		return postgresBinaries{}, err
	}
	if cfg.FromPath {
		bin, err := systemPostgres()
		return postgresBinaries{bin: bin, as: as}, err
	}
	tools, err := Tools(cfg.Tools)
	if err != nil {
		return postgresBinaries{}, err
	}
	platform, err := npmPlatform("x64")
	if err != nil {
		return postgresBinaries{}, err
	}
	native := filepath.Join(module(tools, "@embedded-postgres/"+platform), "native")
	pinned := postgresBinaries{bin: filepath.Join(native, "bin"), as: as}
	if _, err := os.Stat(filepath.Join(pinned.bin, "initdb")); err != nil {
		return postgresBinaries{}, fmt.Errorf("%w: %w", ErrNoTools, err)
	}
	if err := linkLibraries(native); err == nil && pinned.runnable(ctx) {
		return pinned, nil
	}
	// The checkout is read-only, or lies where the other user cannot reach it.
	private := filepath.Join(space.dir, "native")
	if err := os.CopyFS(private, os.DirFS(native)); err != nil {
		return postgresBinaries{}, fmt.Errorf("copy postgres: %w", err)
	}
	if err := linkLibraries(private); err != nil {
		return postgresBinaries{}, err
	}
	err = filepath.WalkDir(private, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, as.give(path))
	})
	return postgresBinaries{bin: filepath.Join(private, "bin"), as: as}, err
}

// runnable tells whether the user can reach and run the binaries.
func (b postgresBinaries) runnable(ctx context.Context) bool {
	_, err := runToEnd(ctx, b.program("/", "postgres", "--version"))
	return err == nil
}

// systemPostgres finds the system's installation. Debian keeps initdb and
// postgres off PATH, in a directory of their version.
func systemPostgres() (string, error) {
	found, err := exec.LookPath("postgres")
	if err != nil {
		versions, globErr := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
		if globErr != nil || len(versions) == 0 {
			return "", fmt.Errorf("no postgres on PATH: %w", err)
		}
		found = versions[len(versions)-1]
	}
	// initdb looks for postgres beside itself, behind any symlink.
	found, err = filepath.EvalSymlinks(found)
	if err != nil {
		return "", err
	}
	bin := filepath.Dir(found)
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		return "", fmt.Errorf("no initdb beside postgres: %w", err)
	}
	return bin, nil
}

// linkLibraries makes the symlinks of the shared libraries that npm cannot
// ship. The package would make them in an install script, which we do not run.
// Several processes may do it at once.
func linkLibraries(native string) error {
	raw, err := os.ReadFile(filepath.Join(native, "pg-symlinks.json")) //nolint:gosec // a file of the pinned package
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(raw, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json: %w", err)
	}
	root := filepath.Dir(native)
	for _, link := range links {
		from, to := filepath.FromSlash(link.Source), filepath.FromSlash(link.Target)
		if !filepath.IsLocal(from) || !filepath.IsLocal(to) {
			return fmt.Errorf("pg-symlinks.json: %s points out of the package", link.Target)
		}
		to = filepath.Join(root, to)
		relative, err := filepath.Rel(filepath.Dir(to), filepath.Join(root, from))
		if err != nil {
			return fmt.Errorf("pg-symlinks.json: %w", err)
		}
		if err := os.Symlink(relative, to); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// npmPlatform is this machine in the spelling of npm packages, which differ in
// what they call amd64.
func npmPlatform(amd64Is string) (string, error) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		return "", fmt.Errorf("no pinned tools for %s", runtime.GOOS)
	}
	switch runtime.GOARCH {
	case "amd64":
		return runtime.GOOS + "-" + amd64Is, nil
	case "arm64":
		return runtime.GOOS + "-arm64", nil
	default:
		return "", fmt.Errorf("no pinned tools for %s", runtime.GOARCH)
	}
}
