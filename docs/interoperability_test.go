package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInteroperability: each row of the tables names tests that there are, in the package that it says.
func TestInteroperability(t *testing.T) {
	text, err := os.ReadFile("interoperability.md")
	if err != nil {
		t.Fatal(err)
	}
	word := regexp.MustCompile("`([^`]+)`")
	rows, dir := 0, ""
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| program") {
			continue
		}
		rows++
		last := cells[len(cells)-1]
		if strings.Contains(line, "not tested:") {
			continue
		}
		if !strings.Contains(last, "Test") && !strings.HasPrefix(strings.TrimSpace(last), "the same") {
			t.Errorf("no test in %s", line)
		}
		for _, m := range word.FindAllStringSubmatch(last, -1) {
			name, isTest := strings.CutPrefix(m[1], "Test")
			if !isTest {
				dir = m[1]
				continue
			}
			if !hasTest(t, dir, "Test"+name) {
				t.Errorf("%s has no %s", dir, m[1])
			}
		}
	}
	if rows < 15 {
		t.Errorf("only %d rows", rows)
	}
	if hasTest(t, "docs", "TestNone") {
		t.Error("there is no TestNone in docs")
	}
}

// hasTest reports whether a directory of the repository has a test of this name.
func hasTest(t *testing.T, dir, name string) bool {
	files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %q: %v", dir, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(t ") {
			return true
		}
	}
	return false
}
