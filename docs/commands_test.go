package docs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A command is one that a document shows.
type command struct{ file, text string }

var (
	program = regexp.MustCompile(`^(sudo |PCAPPER\S* )*(pcapper|recollect|printf|echo|setcap|make|go|scripts/\S+|nfcapd|duckdb|pcapper-\S+|curl|systemctl) `)
	comment = regexp.MustCompile(`\s+# .*$`)
)

// commands returns the commands in the blocks of code of all documents: fenced
// or indented in Markdown, .Dl or .Bd in manual pages.
func commands(t *testing.T) (list []command) {
	t.Helper()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../man/*.[0-9]")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(append([]string{"../README.md"}, files...), pages...) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fenced := false
		for line := range strings.Lines(string(data)) {
			text, code := strings.TrimRight(line, "\n"), false
			switch {
			case strings.HasPrefix(text, "```"), strings.HasPrefix(text, ".Bd -literal"), fenced && strings.HasPrefix(text, ".Ed"):
				fenced = !fenced
			case fenced:
				code = true
			case strings.HasPrefix(text, "    "), strings.HasPrefix(text, ".Dl "):
				code = true
			}
			text = strings.TrimSpace(strings.TrimPrefix(comment.ReplaceAllString(text, ""), ".Dl "))
			if code && program.MatchString(text+" ") {
				list = append(list, command{strings.TrimPrefix(file, "../"), text})
			}
		}
	}
	return list
}

// notRun returns the patterns of notrun.txt and their reasons.
func notRun(t *testing.T) (patterns []*regexp.Regexp) {
	t.Helper()
	file, err := os.Open("notrun.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		text := lines.Text()
		if text == "" || text[0] == '#' {
			continue
		}
		pattern, reason, ok := strings.Cut(text, "\t")
		if !ok || strings.TrimSpace(reason) == "" {
			t.Fatalf("notrun.txt: no reason in %q", text)
		}
		patterns = append(patterns, regexp.MustCompile("^"+pattern))
	}
	return patterns
}

// TestCommands runs the commands that the documents show, one document's one by one, in a
// network of their own with interfaces eth0 to eth2: each must succeed, or run
// until it is asked to end, and then end well. Those that cannot be run here
// are in notrun.txt with the reason.
func TestCommands(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/bin/", "./cmd/pcapper", "./cmd/recollect")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	skip := notRun(t)
	used, ran := make([]bool, len(skip)), 0
	run := map[string][]string{} // by document
next:
	for _, c := range commands(t) {
		for i, pattern := range skip {
			if pattern.MatchString(c.text) {
				used[i] = true
				continue next
			}
		}
		ran++
		run[c.file] = append(run[c.file], c.text)
	}
	for file, list := range run {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			for _, text := range list { // which may use what those before them made
				if err := try(filepath.Join(dir, filepath.Base(file)), dir+"/bin", text); err != nil {
					t.Errorf("%s\n%v", text, err)
				}
			}
		})
	}
	for j, pattern := range skip {
		if !used[j] {
			t.Errorf("notrun.txt: no document shows a command like %s", pattern)
		}
	}
	if ran < 10 {
		t.Errorf("only %d commands were run", ran)
	}
}

// try runs a command in dir, which it makes and fills with what documents
// take for granted.
func try(dir, bin, text string) error {
	if _, err := os.Stat(dir); err != nil {
		if err := fill(dir); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const host = `mount -t tmpfs tmpfs /srv && mount -t tmpfs tmpfs /var/lib && mkdir -p -m 777 /var/lib/pcapper/eth0
ip link set lo up
for i in 0 1 2; do ip link add eth$i type veth peer name far$i && ip link set far$i up && ip addr add 192.168.10$i.1/24 dev eth$i && ip link set eth$i up; done
`
	cmd := exec.CommandContext(ctx, "unshare", "--net", "--mount", "sh", "-c", host+"exec timeout --preserve-status -s TERM 1 sh -c \"$0\"", text)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "TERM=xterm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 143 { // a shell that was asked to end
		err = nil
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// fill makes a directory with the files that documents take for granted.
func fill(dir string) error {
	capture, err := os.ReadFile("../internal/agent/pcapfile/testdata/ether.pcap")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o777); err != nil {
		return err
	}
	for name, data := range map[string]string{
		"collector.conf": "1=5000-6000\na:127.0.0.1:7073\n",
		"lab.conf":       "1=5000-6000\na:127.0.0.1:7073\n",
		"capture.pcap":   string(capture),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			return err
		}
	}
	// A log of an agent: what it prints of a capture file.
	out, err := exec.Command(filepath.Join(dir, "../bin/pcapper"), "-read", filepath.Join(dir, "capture.pcap")).Output()
	if err != nil {
		return fmt.Errorf("pcapper -read: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "logs/a.log"), out, 0o644)
}
