// Package docs holds no code: its tests are of what the documents say.
package docs

import (
	"os"
	"path/filepath"
	"slices"
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
