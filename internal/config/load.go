package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// Load reads the configuration and checks all of it. What is said later wins:
//
//  1. the defaults, which are tags of [Config];
//  2. the YAML file at path, if path is not empty;
//  3. the overlays, YAML documents of a program rather than of a person, in their order;
//  4. the environment, as [os.Environ] gives it.
//
// Maps merge, lists replace the list before them, and null says nothing. A
// secret may be given as the path of a file that holds it, by appending _file
// to its key or _FILE to its variable; a relative path starts at the working
// directory. Files are read last, and only those that no later source overrode.
//
// The error is [Problems] with everything that is wrong, unless the
// configuration file could not be read at all.
func Load(path string, environ []string, overlays ...[]byte) (*Config, error) {
	l := newLoader()
	if err := l.load(path, environ, overlays...); err != nil {
		return nil, err
	}
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	return l.config, nil
}

const databaseSection = "database"

// LoadDatabase reads the same, and no secret but the database's: for what needs no
// more of the configuration, and should not be given the keys. What is wrong or
// missing elsewhere is none of its errors.
func LoadDatabase(path string, environ []string) (Database, error) {
	l := newLoader()
	l.only = databaseSection
	if err := l.load(path, environ); err != nil {
		return Database{}, err
	}
	l.problems = slices.DeleteFunc(l.problems, func(p Problem) bool {
		return p.Path != "" && !l.reads(p.Path) && !strings.HasPrefix(p.Path, envName(databaseSection)+"_")
	})
	if len(l.problems) > 0 {
		return Database{}, l.problems
	}
	return l.config.Database, nil
}

func newLoader() *loader {
	return &loader{
		config:  &Config{Chains: map[string]*Chain{}},
		origins: map[string]string{},
		files:   map[string]string{},
	}
}

// load asks every source, and notes what is wrong.
func (l *loader) load(path string, environ []string, overlays ...[]byte) error {
	l.setDefaults(reflect.ValueOf(l.config).Elem())

	if path != "" {
		text, err := os.ReadFile(path) //nolint:gosec // G304: the operator names the file
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		l.readYAML(path, text)
	}
	for i, text := range overlays {
		l.readYAML(fmt.Sprintf("overlay %d", i+1), text)
	}
	l.readEnvironment(environ)
	l.readSecretFiles()
	if !l.unreadable {
		for network, c := range l.config.Chains {
			c.applyProfile(network)
			c.applyAssets(network)
		}
		l.check()
	}
	return nil
}

// reads says whether the secret at a path is to be read.
func (l *loader) reads(path string) bool {
	return l.only == "" || path == l.only || strings.HasPrefix(path, l.only+".")
}

// loader is one run of Load.
type loader struct {
	config     *Config
	problems   Problems
	only       string            // the section whose secrets are read; empty: all of them
	origins    map[string]string // path of a setting → where it was given last
	files      map[string]string // path of a secret → name of the file that holds it
	unreadable bool              // a document was no YAML: what it lacks proves nothing
}

func (l *loader) problem(path, where, format string, args ...any) {
	l.problems = append(l.problems, Problem{Path: path, Where: where, Text: fmt.Sprintf(format, args...)})
}

// setDefaults gives every setting under v its default. Entries of maps and
// lists get theirs when they are made.
func (l *loader) setDefaults(v reflect.Value) {
	each("", v, func(path string, field reflect.StructField, v reflect.Value) {
		if text, ok := field.Tag.Lookup("default"); ok {
			if err := setText(v, text); err != nil {
				l.problem(path, "", "its default %s", err)
			}
		}
	})
}

// grown is a list with n entries, new ones with their defaults.
func (l *loader) grown(list reflect.Value, n int) reflect.Value {
	had := list.Len()
	list = reflect.AppendSlice(list, reflect.MakeSlice(list.Type(), n-had, n-had))
	if list.Type().Elem().Kind() == reflect.Struct {
		for i := had; i < n; i++ {
			l.setDefaults(list.Index(i))
		}
	}
	return list
}

// chain returns the chain with that key, made with its defaults if need be.
func (l *loader) chain(key string) reflect.Value {
	c := l.config.Chains[key]
	if c == nil {
		c = &Chain{}
		l.setDefaults(reflect.ValueOf(c).Elem())
		for _, address := range defaultAssets(key) {
			c.Assets = append(c.Assets, Asset{})
			l.setDefaults(reflect.ValueOf(&c.Assets[len(c.Assets)-1]).Elem())
			c.Assets[len(c.Assets)-1].Address = address
		}
		l.config.Chains[key] = c
	}
	return reflect.ValueOf(c).Elem()
}

// setSecret and setSecretFile leave one of the two: what was said last.

func (l *loader) setSecret(path string, v reflect.Value, value string) {
	delete(l.files, path)
	v.SetString(value)
}

func (l *loader) setSecretFile(path string, v reflect.Value, name string) {
	l.files[path] = name
	v.SetString("")
}

// forget drops what was noted about the settings under path, because a list
// replaces them.
func (l *loader) forget(path string) {
	for p := range l.origins {
		if strings.HasPrefix(p, path+"[") {
			delete(l.origins, p)
		}
	}
	for p := range l.files {
		if strings.HasPrefix(p, path+"[") {
			delete(l.files, p)
		}
	}
}

// readSecretFiles reads the files that hold secrets. Lists have their final
// length by now, so every setting stays where it is.
func (l *loader) readSecretFiles() {
	each("", reflect.ValueOf(l.config).Elem(), func(path string, _ reflect.StructField, v reflect.Value) {
		name, ok := l.files[path]
		if !ok || !l.reads(path) {
			return
		}
		value, err := readSecretFile(name, strings.HasSuffix(path, ".private_key"))
		if err != nil {
			l.problem(path, l.origins[path], "cannot be read from %s: %v", printableFile(name), err)
			return
		}
		v.SetString(value)
	})
}

// maxSecretBytes is far above any key or URL, and far below what would hurt.
const maxSecretBytes = 64 << 10

func readSecretFile(name string, isKey bool) (string, error) {
	f, err := os.Open(name) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return "", withoutPath(err)
	}
	defer f.Close()
	if isKey {
		if err := isPrivate(f); err != nil {
			return "", err
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		return "", withoutPath(err)
	}
	value := strings.TrimRight(string(text), "\r\n")
	switch {
	case len(text) > maxSecretBytes:
		return "", errors.New("it is too large for a secret")
	case value == "":
		return "", errors.New("it is empty")
	}
	return value, nil
}

// isPrivate refuses a file with a private key that everybody on the machine can
// read. A group may: that is how orchestrators hand files to processes.
func isPrivate(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return withoutPath(err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0 && runtime.GOOS != "windows" { // which has no such bits
		return errors.New("everybody on this machine can read it, and whoever does has the wallet: chmod 600 it, or 640")
	}
	return nil
}

// withoutPath leaves the cause of an error of the file system. The path is
// added by the caller, if it may be.
func withoutPath(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

var keyOrURL = regexp.MustCompile(`(?i)^(0x)?[0-9a-f]{40,}$|://`)

// printableFile is the name of a file, unless somebody put the secret itself
// where the name of its file belongs.
func printableFile(name string) string {
	if keyOrURL.MatchString(name) {
		return "a file (its name looks like the secret itself)"
	}
	return name
}

// each calls visit for every setting and section under v, a struct, in the
// order of the fields; entries of maps come in the order of their keys.
func each(path string, v reflect.Value, visit func(path string, field reflect.StructField, v reflect.Value)) {
	for i := range v.NumField() {
		field, fv := v.Type().Field(i), v.Field(i)
		at := join(path, field.Tag.Get("yaml"))
		visit(at, field, fv)
		switch {
		case isLeaf(fv.Type()):
		case fv.Kind() == reflect.Struct:
			each(at, fv, visit)
		case fv.Kind() == reflect.Map:
			keys := fv.MapKeys()
			slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
			for _, key := range keys {
				each(join(at, key.String()), fv.MapIndex(key).Elem(), visit)
			}
		case fv.Kind() == reflect.Slice:
			for i := range fv.Len() {
				each(index(at, i), fv.Index(i), visit)
			}
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
