// Package archtest checks ARCHITECTURE.md against the code. It has tests only.
package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../../.."
	module = "github.com/pcapper/pcapper"
)

// An arrow says that one package imports another. Both are directories below
// the root of the module.
type arrow struct{ from, to string }

// TestImports compares the imports of all files but tests with the arrows of
// ARCHITECTURE.md.
func TestImports(t *testing.T) {
	drawn := arrows(t, fence(t, "```imports"))
	used := map[arrow]bool{}
	for _, f := range goFiles(t) {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		for _, imp := range imports(t, f) {
			to, ok := strings.CutPrefix(imp, module+"/")
			if !ok {
				continue
			}
			a := arrow{path.Dir(f), to}
			used[a] = true
			if !drawn[a] {
				t.Errorf("%s imports %s: ARCHITECTURE.md has no arrow from %s", f, to, a.from)
			}
		}
	}
	for a := range drawn {
		if !used[a] {
			t.Errorf("ARCHITECTURE.md has an arrow from %s to %s that no code uses", a.from, a.to)
		}
	}
}

// TestLayers holds the arrows to the rules that the first diagram states.
func TestLayers(t *testing.T) {
	layer := func(dir string) int {
		for i, prefix := range []string{"wire", "internal/host", "internal/transport", "internal/agent", "internal/collector"} {
			if dir == prefix || strings.HasPrefix(dir, prefix+"/") {
				return i
			}
		}
		return 5 // commands, tests, and benchmarks
	}
	for a := range arrows(t, fence(t, "```imports")) {
		from, to := layer(a.from), layer(a.to)
		if from < to || from == 4 && to == 3 {
			t.Errorf("%s may not import %s", a.from, a.to)
		}
	}
}

// TestLayout compares the directories that have Go files with those that the
// layout in ARCHITECTURE.md names.
func TestLayout(t *testing.T) {
	named := layout(t, fence(t, "```\ncmd/pcapper/"))
	found := map[string]bool{}
	for _, f := range goFiles(t) {
		dir := path.Dir(f)
		if !found[dir] && !named[dir] {
			t.Errorf("the layout in ARCHITECTURE.md does not name %s", dir)
		}
		found[dir] = true
	}
	for dir := range named {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || !info.IsDir() {
			t.Errorf("the layout in ARCHITECTURE.md names %s, which is no directory", dir)
		}
	}
}

// TestWireIsStandardLibraryOnly keeps wire and wire/ipfix free of dependencies,
// since other programs import them.
func TestWireIsStandardLibraryOnly(t *testing.T) {
	for _, f := range goFiles(t) {
		if dir := path.Dir(f); dir != "wire" && dir != "wire/ipfix" || strings.HasSuffix(f, "_test.go") {
			continue
		}
		for _, imp := range imports(t, f) {
			if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") && !strings.HasPrefix(imp, module+"/wire") {
				t.Errorf("%s imports %s", f, imp)
			}
		}
	}
}

// fence returns the lines of the fenced block of ARCHITECTURE.md that begins
// with start.
func fence(t *testing.T, start string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(text), start)
	block, _, closed := strings.Cut(block, "\n```")
	if !found || !closed {
		t.Fatalf("ARCHITECTURE.md has no block that begins with %q", start)
	}
	_, first, _ := strings.Cut(start, "\n")
	return strings.Split(first+block, "\n")
}

// arrows parses lines of the form "a, b ──> c, d".
func arrows(t *testing.T, lines []string) map[arrow]bool {
	t.Helper()
	all := map[arrow]bool{}
	for _, line := range lines {
		if line == "" {
			continue
		}
		left, right, ok := strings.Cut(line, ">")
		if !ok {
			t.Fatalf("%q has no arrow", line)
		}
		for _, from := range strings.Split(strings.TrimRight(left, " ─"), ",") {
			for _, to := range strings.Split(right, ",") {
				a := arrow{directory(from), directory(to)}
				if all[a] {
					t.Errorf("the arrow from %s to %s is drawn twice", a.from, a.to)
				}
				all[a] = true
			}
		}
	}
	return all
}

// directory expands a name of the diagram, such as agent/capture.
func directory(name string) string {
	name = strings.TrimSpace(name)
	for _, top := range []string{"agent", "collector", "transport", "host", "test"} {
		if name == top || strings.HasPrefix(name, top+"/") {
			return "internal/" + name
		}
	}
	return name
}

// layout parses an indented tree of directories, each with a description.
func layout(t *testing.T, lines []string) map[string]bool {
	t.Helper()
	named := map[string]bool{}
	var parents []string
	for _, line := range lines {
		name, _, ok := strings.Cut(strings.TrimLeft(line, " "), "/ ")
		if !ok {
			name = strings.TrimSuffix(strings.TrimLeft(line, " "), "/")
		}
		depth := (len(line) - len(strings.TrimLeft(line, " "))) / 2
		if name == "" || depth > len(parents) {
			t.Fatalf("%q is no directory, or is too far to the right", line)
		}
		parents = append(parents[:depth], name)
		named[path.Join(parents...)] = true
	}
	return named
}

func goFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != root && (d.Name() == "testdata" || d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(p, ".go") {
			rel, err := filepath.Rel(root, p)
			files = append(files, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	if err != nil || len(files) < 20 {
		t.Fatalf("found %d files: %v", len(files), err)
	}
	return files
}

func imports(t *testing.T, file string) (list []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, imp := range f.Imports {
		p, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

// TestOnlyMainSetsProcessState keeps settings of the whole process, of which the
// last one set wins, out of packages.
func TestOnlyMainSetsProcessState(t *testing.T) {
	for _, f := range goFiles(t) {
		if !strings.HasPrefix(f, "internal/") && !strings.HasPrefix(f, "wire/") || strings.HasPrefix(f, "internal/test/") || strings.HasSuffix(f, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"debug.SetMemoryLimit(", "debug.SetGCPercent(", "os.Setenv(", "os.Chdir("} {
			if strings.Contains(string(text), call) {
				t.Errorf("%s calls %s...): only a main package sets the state of the process", f, call)
			}
		}
		for _, line := range strings.Split(string(text), "\n") {
			if strings.Contains(line, "runtime.GOMAXPROCS(") && !strings.Contains(line, "runtime.GOMAXPROCS(0)") {
				t.Errorf("%s: %q: only a main package sets the state of the process", f, strings.TrimSpace(line))
			}
		}
	}
}
