package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

const fileSuffix = "_file" // url_file is the path of the file that holds url

// readYAML lays one document over what was said before it.
func (l *loader) readYAML(source string, text []byte) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := decoder.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return // nothing in it
	}
	if err == nil {
		err = decoder.Decode(new(yaml.Node))
		if err == nil {
			l.problem("", source, "holds more than one document")
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		l.unreadable = true
		l.problem("", source, "%s", syntaxProblem(err))
		return
	}
	d := document{l, source}
	d.read("", doc.Content[0], reflect.ValueOf(l.config).Elem())
}

// syntaxProblem is what the parser said, without the one message of its that
// quotes the text (a password that begins with * looks like an alias).
func syntaxProblem(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if strings.HasPrefix(text, "unknown anchor") {
		return "is not valid YAML: an alias without its anchor (quote a value that begins with *)"
	}
	return "is not valid YAML: " + text
}

// document is one YAML document on its way into the loader.
type document struct {
	*loader
	source string
}

func (d document) where(n *yaml.Node) string { return fmt.Sprintf("%s:%d", d.source, n.Line) }

// read gives v, the setting or section at path, what n says.
func (d document) read(path string, n *yaml.Node, v reflect.Value) {
	n = resolve(n)
	if isNull(n) {
		return
	}
	d.origins[path] = d.where(n)

	switch t := v.Type(); {
	case t.Kind() == reflect.Struct:
		d.readSection(path, n, v)
	case t.Kind() == reflect.Map:
		for _, e := range d.entries(path, n) {
			at := join(path, e.key)
			d.read(at, e.value, d.chain(e.key))
			d.origins[at] = d.where(e.node)
		}
	case t.Kind() == reflect.Slice:
		d.readList(path, n, v)
	case n.Kind != yaml.ScalarNode:
		d.problem(path, d.where(n), "must be a single value")
	case isSecret(t):
		d.setSecret(path, v, n.Value)
	default:
		if err := setText(v, n.Value); err != nil {
			d.problem(path, d.where(n), "%v", err)
		}
	}
}

func (d document) readSection(path string, n *yaml.Node, v reflect.Value) {
	given := map[string]bool{}
	for _, e := range d.entries(path, n) {
		at := join(path, e.key)
		if i, ok := fieldWithKey(v.Type(), e.key); ok {
			given[e.key] = !isNull(resolve(e.value))
			d.read(at, e.value, v.Field(i))
			continue
		}
		key, isFile := strings.CutSuffix(e.key, fileSuffix)
		if i, ok := fieldWithKey(v.Type(), key); ok && isFile && isSecret(v.Type().Field(i).Type) {
			given[e.key] = !isNull(resolve(e.value))
			d.readSecretFileName(join(path, key), at, e.value, v.Field(i))
			continue
		}
		d.problem(at, d.where(e.node), "is no setting")
	}
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); given[key] && given[key+fileSuffix] {
			d.problem(join(path, key), d.where(n), "is given twice, as %s and as %s", key, key+fileSuffix)
		}
	}
}

func (d document) readSecretFileName(path, at string, n *yaml.Node, v reflect.Value) {
	switch n = resolve(n); {
	case isNull(n):
	case n.Kind != yaml.ScalarNode || n.Value == "":
		d.problem(at, d.where(n), "must be the path of a file")
	default:
		d.origins[path] = d.where(n)
		d.setSecretFile(path, v, n.Value)
	}
}

func (d document) readList(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.problem(path, d.where(n), "must be a list")
		return
	}
	d.forget(path)
	v.Set(d.grown(reflect.Zero(v.Type()), len(n.Content)))
	for i, item := range n.Content {
		d.origins[index(path, i)] = d.where(item)
		d.read(index(path, i), item, v.Index(i))
	}
}

// entry is one key of a mapping with its value. The key is safe to print.
type entry struct {
	key         string
	node, value *yaml.Node
}

// printableKey matches every key there is, and no secret in a key's place.
var printableKey = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:-]{0,39}$`)

// entries returns the entries of a mapping and reports keys that are none.
func (d document) entries(path string, n *yaml.Node) []entry {
	if n.Kind != yaml.MappingNode {
		d.problem(path, d.where(n), "must be a mapping")
		return nil
	}
	var found []entry
	lines := map[string]int{}
	for i := 0; i < len(n.Content); i += 2 {
		node := n.Content[i]
		key := node.Value
		switch line, seen := lines[key]; {
		case node.ShortTag() == "!!merge":
			d.problem(path, d.where(node), "holds a merge key (<<), which is not supported")
		case node.Kind != yaml.ScalarNode || !printableKey.MatchString(key):
			d.problem(path, d.where(node), "holds a key that is no setting")
		case seen:
			d.problem(join(path, key), d.where(node), "is given twice, first on line %d", line)
		default:
			lines[key] = node.Line
			found = append(found, entry{key: key, node: node, value: n.Content[i+1]})
		}
	}
	return found
}

func fieldWithKey(t reflect.Type, key string) (int, bool) {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("yaml") == key {
			return i, true
		}
	}
	return 0, false
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }
