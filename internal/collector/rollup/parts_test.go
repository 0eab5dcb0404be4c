package rollup

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// parts of the package, by the beginnings of their files' names; each may use those before it.
// The first is what all share.
var parts = []string{"", "archive", "query", "store"}

// TestParts: no part uses what is declared in a later one.
func TestParts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	parsed := make(map[*ast.File]int) // -> its part
	home := make(map[string]int)
	counts := make([]int, len(parts))
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		prefix, _, _ := strings.Cut(strings.TrimSuffix(name, ".go"), "_")
		part := max(slices.Index(parts, prefix), 0)
		parsed[f] = part
		counts[part]++
		for declared := range f.Scope.Objects {
			home[declared] = part
		}
	}
	if slices.Contains(counts, 0) {
		t.Fatalf("got %v files of the parts %q, want some of each", counts, parts)
	}
	for f, part := range parsed {
		for _, id := range f.Unresolved { // by this file: another one declares it
			if home[id.Name] > part {
				t.Errorf("%v: %q uses %s, which belongs to %q", set.Position(id.Pos()), parts[part], id.Name, parts[home[id.Name]])
			}
		}
	}
}
