// Package docs holds no code: its tests are of what the documents say.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/test/doclinks"
)

// TestLinks: the links of all documents lead to a file and a heading in it.
func TestLinks(t *testing.T) {
	broken, err := doclinks.Broken("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range broken {
		t.Error(b)
	}
}

// TestIndex: docs/README.md links to each page and manual page.
func TestIndex(t *testing.T) {
	index, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("*.md")
	if err != nil || len(pages) < 10 {
		t.Fatal(pages, err)
	}
	manual, err := filepath.Glob("../man/*.[0-9]")
	if err != nil || len(manual) == 0 {
		t.Fatal(manual, err)
	}
	for _, page := range append(pages, manual...) {
		if page != "README.md" && !strings.Contains(string(index), "]("+page+")") {
			t.Errorf("README.md does not link to %s", page)
		}
	}
}

// TestNamedPaths: files and packages that documents name as internal/... or cmd/... are there.
func TestNamedPaths(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil || len(pages) < 10 {
		t.Fatal(pages, err)
	}
	path := regexp.MustCompile("`((?:internal|cmd)/[^`\\s]*)`")
	found := 0
	for _, page := range append(pages, "../ARCHITECTURE.md", "../CONTRIBUTING.md", "../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range path.FindAllSubmatch(text, -1) {
			name := string(m[1])
			found++
			if name == "cmd/recollect/output_NAME.go" { // a pattern
				continue
			}
			if _, err := os.Stat(filepath.Join("..", name)); err != nil {
				t.Errorf("%s names %s, which is not there", page, name)
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d paths, want 20 or more", found)
	}
}

// TestLinksFindsBroken: the check itself.
func TestLinksFindsBroken(t *testing.T) {
	dir := t.TempDir()
	text := "# A b: `c`!\n[good](#a-b-c) [bad](#a-b) [good](x.md) [bad](y.md) [bad](x.md#z) [other](https://example.org/none)\n```\n[code](none)\n```\n"
	for name, text := range map[string]string{"README.md": text, "x.md": "# X\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"README.md: #a-b", "README.md: y.md", "README.md: x.md#z"}
	if got, err := doclinks.Broken(dir); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
