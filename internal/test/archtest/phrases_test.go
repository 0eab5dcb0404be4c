package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// prose are the names of files with text that people read.
var prose = regexp.MustCompile(`\.(c|go|h|html|md|py|service|sh|ts|txt|txtar|[1-8])$|^(Makefile|[a-z-]+)$`)

// mark is what begins a line of a comment, and the end of the line before.
var mark = regexp.MustCompile(`\s*\n[ \t]*(?://+|#+|\*)?[ \t]*|[ \t]+`)

// TestRetiredPhrases looks in all text for the phrases that CONTRIBUTING.md
// lists as retired.
func TestRetiredPhrases(t *testing.T) {
	retired := retiredPhrases(t)
	read := 0
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, name)
		switch {
		case err != nil:
			return err
		case e.IsDir() && slices.Contains([]string{".git", "bin", "dist", "node_modules", "images"}, e.Name()):
			return filepath.SkipDir
		case !e.Type().IsRegular() || !prose.MatchString(e.Name()) || rel == "CONTRIBUTING.md" || strings.HasSuffix(rel, "phrases_test.go"):
			return nil
		}
		text, err := os.ReadFile(name)
		read++
		for _, found := range find(retired, string(text)) {
			t.Errorf("%s: %q is retired: see \"Retired phrases\" in CONTRIBUTING.md", rel, found)
		}
		return err
	})
	if err != nil || read < 300 {
		t.Fatalf("%d files read, %v", read, err)
	}
}

// TestRetiredPhrasesAreFound checks find: over the ends of lines in comments,
// in either case, and whole words only.
func TestRetiredPhrasesAreFound(t *testing.T) {
	retired := retiredPhrases(t)
	for text, want := range map[string]int{
		"// It tells\n\t// whether": 1, "Tells whether": 1, "# retried for ever\n": 1,
		"for everything": 0, "It reports whether": 0, "on the\n * way": 0, "lost on\n * the way": 1,
	} {
		if got := len(find(retired, text)); got != want {
			t.Errorf("%q: %d phrases, want %d", text, got, want)
		}
	}
}

// retiredPhrases returns the first column of CONTRIBUTING.md's table.
func retiredPhrases(t *testing.T) (list []*regexp.Regexp) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Retired phrases\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, m := range regexp.MustCompile(`(?m)^\| "(.+?)" \|`).FindAllStringSubmatch(table, -1) {
		list = append(list, regexp.MustCompile(`(?i)\b`+regexp.QuoteMeta(m[1])+`(?:\b|$|\s)`))
	}
	if len(list) < 5 {
		t.Fatalf("%d retired phrases in CONTRIBUTING.md", len(list))
	}
	return list
}

// find returns the retired phrases in a text, also those that a line break
// or the mark of a comment divides.
func find(retired []*regexp.Regexp, text string) (found []string) {
	text = mark.ReplaceAllString(text, " ")
	for _, r := range retired {
		if m := r.FindString(text); m != "" {
			found = append(found, m)
		}
	}
	return found
}
