// Package archtest holds no code: its test is the drawing in ARCHITECTURE.md.
package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/pcapper/pcapper"
)

// allowed are the arrows of ARCHITECTURE.md: what a package may import of this
// module, tests excepted.
var allowed = map[string][]string{
	"wire":                               nil,
	"wire/ipfix":                         {"wire"},
	"internal/packet":                    nil,
	"internal/netns":                     nil,
	"internal/capture":                   {"internal/netns", "internal/packet"},
	"internal/pcapfile":                  {"internal/packet"},
	"internal/match":                     {"internal/packet"},
	"internal/mgen":                      nil,
	"internal/decode":                    {"internal/packet", "internal/mgen", "wire"},
	"internal/iface":                     nil,
	"internal/hub":                       nil,
	"internal/feed":                      {"wire", "wire/ipfix"},
	"internal/certs":                     nil,
	"internal/confine":                   nil,
	"internal/service":                   nil,
	"internal/batch":                     {"wire", "wire/ipfix"},
	"internal/bus":                       {"internal/batch"},
	"internal/keep":                      {"internal/batch", "internal/bus", "internal/bus/embedded", "internal/clickhouse", "internal/history", "internal/spool"},
	"internal/clickhouse":                {"internal/batch", "wire"},
	"internal/clickhouse/clickhousetest": nil, // tests only
	"internal/kafka":                     {"internal/batch"},
	"internal/bus/embedded":              nil,
	"internal/history":                   {"internal/batch", "wire"},
	"internal/bus/bustest":               {"internal/batch", "internal/bus", "internal/bus/embedded", "internal/history", "wire"}, // tests and the bench only
	"internal/publish":                   {"internal/batch", "internal/bus", "internal/flow", "wire"},
	"internal/flow":                      {"wire"},
	"internal/degrade":                   {"internal/batch", "internal/flow", "wire"},
	"internal/export":                    {"internal/flow", "wire", "wire/ipfix"},
	"internal/sink":                      {"wire"},
	"internal/spool":                     nil,
	"internal/replay":                    {"wire", "wire/ipfix"},
	"internal/rollup":                    {"wire"},
	"internal/screen":                    {"wire"},
	"internal/screen/screentest":         nil, // a pseudo-terminal, for tests
	"internal/agent":                     {"internal/netns", "internal/bus", "internal/capture", "internal/certs", "internal/confine", "internal/decode", "internal/export", "internal/feed", "internal/hub", "internal/iface", "internal/match", "internal/packet", "internal/pcapfile", "internal/publish", "internal/service", "internal/sink", "internal/spool", "wire", "wire/ipfix"},
	"internal/web":                       {"internal/rollup"},
	"internal/collect":                   {"internal/batch", "internal/certs", "internal/confine", "internal/degrade", "internal/feed", "internal/hub", "internal/replay", "internal/rollup", "internal/screen", "internal/service", "internal/sink", "wire", "wire/ipfix"},
	"cmd/pcapper":                        {"internal/agent", "internal/certs", "internal/export", "internal/iface", "internal/spool", "wire/ipfix"},
	"cmd/recollect":                      {"internal/batch", "internal/certs", "internal/clickhouse", "internal/collect", "internal/degrade", "internal/feed", "internal/history", "internal/kafka", "internal/keep", "internal/rollup", "internal/spool", "internal/web", "wire"},
	"internal/nettest":                   nil, // tests and the bench only
	"core":                               nil, // tests of what is no Go
	"bench":                              {"internal/nettest", "wire"},
	"bench/fleet":                        {"bench/process", "internal/collect", "wire"},
	"bench/nodes":                        {"bench/process", "internal/nettest", "wire"},
	"bench/process":                      nil,
	"bench/site":                         {"bench/process", "internal/batch", "wire"},
	"bench/siege":                        {"internal/bus/bustest"},
	"bench/encoders":                     nil, // a module of its own
	"internal/archtest":                  nil,
	"packaging":                          nil, // tests only
	"packaging/sbom":                     nil,
	"packaging/completions":              nil,
}

func TestArrows(t *testing.T) {
	found := map[string]bool{}
	for _, f := range goFiles(t) {
		dir := filepath.ToSlash(filepath.Dir(f))
		found[dir] = true
		targets, known := allowed[dir]
		if !known {
			t.Errorf("%s: package is not in the drawing; add it to ARCHITECTURE.md and here", dir)
			continue
		}
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		for _, imp := range imports(t, f) {
			own, ok := strings.CutPrefix(imp, module+"/")
			if ok && !slices.Contains(targets, own) {
				t.Errorf("%s imports %s: no such arrow in ARCHITECTURE.md", f, own)
			}
		}
	}
	for dir := range allowed {
		if !found[dir] && dir != "internal/archtest" {
			t.Errorf("%s is in the drawing, but does not exist", dir)
		}
	}
}

// TestWireIsStandardLibraryOnly: anyone may import wire.
func TestWireIsStandardLibraryOnly(t *testing.T) {
	for _, f := range goFiles(t) {
		if !strings.HasPrefix(f, "wire/") || strings.HasSuffix(f, "_test.go") {
			continue
		}
		for _, imp := range imports(t, f) {
			if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") && imp != module+"/wire" {
				t.Errorf("%s imports %s", f, imp)
			}
		}
	}
}

// TestDrawingNamesEveryPackage: ARCHITECTURE.md is true.
func TestDrawingNamesEveryPackage(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	for dir := range allowed {
		if name := path.Base(dir) + "/"; !strings.Contains(string(text), name) {
			t.Errorf("ARCHITECTURE.md does not name %s", name)
		}
	}
}

func goFiles(t *testing.T) (files []string) {
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && p != root) {
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
