package scripts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testsThatFail is a module whose tests fail in the ways that a run of go test can.
var testsThatFail = map[string]string{
	"go.mod": "module example.com/m\n\ngo 1.21\n",
	"good/good_test.go": `package good
import "testing"
func TestGood(t *testing.T) { t.Log("of one that passed") }
`,
	"bad/bad_test.go": `package bad
import "testing"
func TestBad(t *testing.T) {
	t.Log("of the bad one")
	t.Run("case", func(t *testing.T) { t.Error("why the case failed") })
}
func TestGood(t *testing.T) { t.Log("of one that passed") }
func TestWorse(t *testing.T) { t.Error("why it is worse") }
`,
	"panics/panics_test.go": `package panics
import "testing"
func TestPanics(t *testing.T) { panic("what it panicked with") }
`,
	"leaks/leaks_test.go": `package leaks
import ("os"; "testing")
func TestLeaks(t *testing.T) {}
func TestMain(m *testing.M) { m.Run(); println("goleak: a goroutine is left"); os.Exit(1) }
`,
	"broken/broken_test.go": "package broken\n\nfunc {\n",
	// It passes the second time.
	"unstable/unstable_test.go": `package unstable
import ("os"; "testing")
func TestUnstable(t *testing.T) {
	if _, err := os.Stat("been"); err != nil {
		os.WriteFile("been", nil, 0o644)
		t.Error("it is the first time")
	}
}
`,
}

// failing is a directory with that module.
func failing(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range testsThatFail {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// testLog is what scripts/test has logged of two phases of these packages.
func testLog(t *testing.T, dir string, packages ...string) string {
	t.Helper()
	var log bytes.Buffer
	for _, p := range packages {
		cmd := exec.Command("go", "test", "-v", "-count=1", "./"+p)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		log.Write(out)
		if err != nil {
			log.WriteString("FAIL: phase of " + p + "\n")
		}
		log.WriteString("# phase of " + p + ": 1 s, 2 s of processor time\n")
	}
	return log.String()
}

// inFailures runs a function of scripts/failures in a directory. The error is its exit code.
func inFailures(t *testing.T, dir, input, command string) (string, error) {
	t.Helper()
	script, err := filepath.Abs("failures")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-euc", ". "+script+"; "+command)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	out, err := cmd.Output()
	return string(out), err
}

// TestFailures: of a log of scripts/test, what failed is found, in its phase, and what it
// has printed, and nothing else.
func TestFailures(t *testing.T) {
	t.Parallel()
	dir := failing(t)
	log := testLog(t, dir, "good", "bad", "panics", "leaks", "broken", "good")
	log += "FAIL: scripts/test names TestGone, which is not in cmd/pcapper\nFAIL: lint\n# lint: 1 s, 0 s of processor time\nFAIL: vet\n# vet: 1 s, 0 s of processor time\n"
	got, err := inFailures(t, dir, log, "failures")
	want := "phase of bad\texample.com/m/bad\t^(TestBad|TestWorse)$\n" +
		"phase of panics\texample.com/m/panics\t-\n" +
		"phase of leaks\texample.com/m/leaks\t.\n" +
		"phase of broken\texample.com/m/broken\t-\n" +
		"lint\t-\t-\n" +
		"vet\t-\t-\n"
	if err != nil || got != want {
		t.Errorf("got failures %q, %v; want %q; of:\n%s", got, err, want, log)
	}
	said, err := inFailures(t, dir, log, "said_by_failed")
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"of the bad one", "why the case failed", "--- FAIL: TestBad ", "why it is worse", "what it panicked with", "panics_test.go:3"} {
		if !strings.Contains(said, want) {
			t.Errorf("got nothing about %q, want it among what failed tests said:\n%s", want, said)
		}
	}
	if strings.Contains(said, "of one that passed") {
		t.Errorf("got output of tests that passed, want that of failed ones alone:\n%s", said)
	}
}

// TestAgain: a test that passes when it is run again is named and is no failure; one that
// fails again is, and so is what cannot be run again.
func TestAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		packages []string
		want     string
		fails    bool
	}{
		"unstable": {[]string{"good", "unstable"}, "UNSTABLE, passed when run again: example.com/m/unstable ^(TestUnstable)$\n", false},
		"bad":      {[]string{"bad"}, "FAIL: phase of bad: example.com/m/bad ^(TestBad|TestWorse)$\n", true},
		"broken":   {[]string{"broken"}, "FAIL: phase of broken: example.com/m/broken -\n", true},
		"both": {[]string{"bad", "unstable"}, "FAIL: phase of bad: example.com/m/bad ^(TestBad|TestWorse)$\n" +
			"UNSTABLE, passed when run again: example.com/m/unstable ^(TestUnstable)$\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := failing(t)
			got, err := inFailures(t, dir, testLog(t, dir, c.packages...), "failures | again log")
			if got != c.want || (err != nil) != c.fails {
				t.Errorf("got %q, %v; want %q, failing: %v", got, err, c.want, c.fails)
			}
			log, err := os.ReadFile(filepath.Join(dir, "log"))
			if name != "broken" && (err != nil || !bytes.Contains(log, []byte("=== RUN"))) {
				t.Errorf("got %q, %v in the log of the second run, want the tests' output", log, err)
			}
		})
	}
}
