package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "rewrite the generated part of docs/configuration.md")

const (
	referencePath = "../../docs/configuration.md"
	examplePath   = "../../deploy/facilitator.example.yaml"
)

// section is one table of the reference: a struct type and where it stands.
type section struct {
	path     string // "chains.<network>.lanes[<n>]"
	typeName string
	fields   []reflect.StructField // settings only
}

// sections lists t and the sections inside it, in the order of the fields.
func sections(path string, t reflect.Type) []section {
	here := section{path: path, typeName: t.Name()}
	var below []section
	for i := range t.NumField() {
		field := t.Field(i)
		at := join(path, field.Tag.Get("yaml"))
		switch {
		case isLeaf(field.Type):
			here.fields = append(here.fields, field)
		case field.Type.Kind() == reflect.Map:
			below = append(below, sections(at+".<network>", field.Type.Elem().Elem())...)
		case field.Type.Kind() == reflect.Slice:
			below = append(below, sections(at+"[<n>]", field.Type.Elem())...)
		default:
			below = append(below, sections(at, field.Type)...)
		}
	}
	return append([]section{here}, below...)
}

// concrete puts an example in the place of what the operator chooses.
func concrete(path string) string {
	return strings.NewReplacer("<network>", "eip155:8453", "<n>", "0").Replace(path)
}

// comments returns the comments of the types ("Chain") and fields
// ("Chain.Lanes") in config.go.
func comments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok || general.Tok != token.TYPE {
			continue
		}
		for _, spec := range general.Specs {
			named, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			structure, ok := named.Type.(*ast.StructType)
			if !ok {
				continue
			}
			found[named.Name.Name] = oneLine(general.Doc.Text())
			for _, field := range structure.Fields.List {
				found[named.Name.Name+"."+field.Names[0].Name] = oneLine(field.Doc.Text())
			}
		}
	}
	return found
}

func oneLine(comment string) string { return strings.Join(strings.Fields(comment), " ") }

func typeName(t reflect.Type) string {
	switch t.String() {
	case "config.Secret":
		return "secret"
	case "time.Duration":
		return "duration"
	case "slog.Level":
		return "level"
	case "[]string":
		return "list"
	case "bool":
		return "boolean"
	case "string":
		return "text"
	default:
		return "integer"
	}
}

func reference(t *testing.T) string {
	t.Helper()
	said := comments(t)
	var b strings.Builder
	for _, s := range sections("", reflect.TypeFor[Config]()) {
		if len(s.fields) == 0 {
			continue
		}
		fmt.Fprintf(&b, "### `%s`\n\n%s\n\n", s.path, said[s.typeName])
		b.WriteString("| Setting | Type | Default | Allowed | Variable | Meaning |\n|---|---|---|---|---|---|\n")
		for _, field := range s.fields {
			meaning := said[s.typeName+"."+field.Name]
			if meaning == "" {
				t.Errorf("%s.%s has no comment", s.typeName, field.Name)
			}
			value := "–"
			if text, ok := field.Tag.Lookup("default"); ok {
				value = "`" + text + "`"
			} else if field.Tag.Get("required") != "" {
				value = "**required**"
			}
			allowed := "–"
			if low, high, ok := strings.Cut(field.Tag.Get("range"), ".."); ok {
				allowed = low + " to " + high
			}
			key := field.Tag.Get("yaml")
			fmt.Fprintf(
				&b, "| `%s` | %s | %s | %s | `%s` | %s |\n",
				key, typeName(field.Type), value, allowed, envName(concrete(join(s.path, key))), meaning,
			)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestReference keeps the tables of docs/configuration.md equal to the struct.
func TestReference(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(referencePath)
	if err != nil {
		t.Fatal(err)
	}
	generated := regexp.MustCompile(`(?s)(<!-- generated: make docs -->\n\n).*(<!-- end -->)`)
	if !generated.Match(text) {
		t.Fatalf("%s has no generated part", referencePath)
	}
	want := generated.ReplaceAllString(string(text), "${1}"+strings.ReplaceAll(reference(t), "$", "$$")+"${2}")
	if string(text) == want {
		return
	}
	if !*update {
		t.Fatalf("%s is stale: run make docs", referencePath)
	}
	if err := os.WriteFile(referencePath, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestExampleLoads(t *testing.T) {
	t.Parallel()
	c, err := Load(examplePath, []string{
		"FACILITATOR_DATABASE_URL=postgres://db.example/facilitator",
		"FACILITATOR_CHAINS_EIP155_8453_RPC_URL=https://rpc.example",
		"FACILITATOR_CHAINS_EIP155_8453_LANES_0_PRIVATE_KEY=" + keyA,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Chains) != 1 || len(c.Chains["eip155:8453"].Lanes) != 1 {
		t.Errorf("loaded %+v", c.Chains)
	}
}

// TestExampleListsEverySetting takes the "#" from every setting in the example
// and compares what it says with the defaults.
func TestExampleListsEverySetting(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^( *)#(\S.*)$`).ReplaceAll(text, []byte("$1$2"))

	_, err = Load("", nil, text)
	if err != nil && strings.Contains(err.Error(), "is no setting") {
		t.Errorf("the example has a setting that does not exist: %v", err)
	}

	var example map[string]any
	if err := yaml.Unmarshal(text, &example); err != nil {
		t.Fatal(err)
	}
	for _, s := range sections("", reflect.TypeFor[Config]()) {
		for _, field := range s.fields {
			path := concrete(join(s.path, field.Tag.Get("yaml")))
			if isSecret(field.Type) {
				if at(example, path+fileSuffix) == nil {
					t.Errorf("the example lacks %s%s", path, fileSuffix)
				}
				continue
			}
			got, want := at(example, path), field.Tag.Get("default")
			switch {
			case got == nil:
				t.Errorf("the example lacks %s", path)
			case s.typeName == "Asset" && field.Name == "Address":
				want = dollar("eip155:8453")
			case field.Type.Kind() == reflect.Slice:
				want = "[]"
			case field.Type.Kind() != reflect.String:
				want = strings.ReplaceAll(want, "_", "")
			}
			if got := fmt.Sprint(got); got != want {
				t.Errorf("the example says %s: %s, the default is %q", path, got, want)
			}
		}
	}
}

// at returns the value at path in what YAML was read into, or nil.
func at(v any, path string) any {
	for _, key := range strings.Split(strings.ReplaceAll(path, "[", "."), ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[key]
		case []any:
			v = in[0]
		default:
			return nil
		}
	}
	return v
}
