package store_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"
)

// statements evaluates the constants of this package's source that begin with sql.
func statements(t *testing.T) map[string]string {
	t.Helper()
	consts := map[string]ast.Expr{}
	files, err := fs.Glob(os.DirFS("."), "*.go")
	must(t, err)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok {
				for i, name := range spec.Names {
					if i < len(spec.Values) {
						consts[name.Name] = spec.Values[i]
					}
				}
			}
			return true
		})
	}
	var text func(e ast.Expr) string
	text = func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			s, err := strconv.Unquote(e.Value)
			must(t, err)
			return s
		case *ast.BinaryExpr:
			return text(e.X) + text(e.Y)
		case *ast.Ident:
			return text(consts[e.Name])
		case *ast.ParenExpr:
			return text(e.X)
		default:
			t.Fatalf("a statement is made of %T", e)
			return ""
		}
	}
	found := map[string]string{}
	for name, value := range consts {
		if strings.HasPrefix(name, "sql") {
			found[name] = text(value)
		}
	}
	return found
}

func TestEveryStatementPrepares(t *testing.T) {
	t.Parallel()
	r := open(t)
	all := statements(t)
	if len(all) < 30 {
		t.Errorf("found only %d statements", len(all))
	}
	for name, sql := range all {
		if _, err := r.conn.Prepare(t.Context(), name, sql); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryUpdateNamesTheStateItLeaves(t *testing.T) {
	t.Parallel()
	for name, sql := range statements(t) {
		at := strings.Index(sql, "SET state = ")
		if at < 0 {
			continue
		}
		where := strings.Index(sql[at:], "WHERE")
		if where < 0 || !strings.Contains(sql[at+where:], "state ") {
			t.Errorf("%s changes the state of any row:\n%s", name, sql)
		}
	}
}
