// Package docs holds no code: its tests are of what the documents say.
package docs

import (
	"os"
	"path/filepath"
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
