package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/demo"
	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/test/openapi"
	"github.com/pcapper/pcapper/internal/test/screentest"
	"github.com/pcapper/pcapper/wire"
)

// startShown runs a command of the program on a terminal, and as another user if uid
// is not 0.
func startShown(t *testing.T, tty *screentest.Terminal, uid uint32, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir, "recollect"), args...)
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty.TTY, tty.TTY, tty.TTY
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if uid != 0 {
		cmd.Dir = "/"
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// lintMetrics has Prometheus's promtool check what a page says in /metrics.
func lintMetrics(t *testing.T, page string) {
	t.Helper()
	answer, err := http.Get(page + "metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = answer.Body
	if out, err := lint.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// checkAPI compares everything that a page's server answers in JSON with openapi.json.
func checkAPI(t *testing.T, page string) {
	t.Helper()
	type answer struct {
		Path   string          `json:"path"`
		Status int             `json:"status"`
		Body   json.RawMessage `json:"body"`
	}
	var lines []byte
	ask := func(path, address string) {
		r, err := http.Get(strings.TrimSuffix(page, "/") + address)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		line, err := json.Marshal(answer{path, r.StatusCode, body})
		if err != nil {
			t.Fatalf("%s: %v: %s", address, err, body)
		}
		lines = append(append(lines, line...), '\n')
	}
	for _, e := range openapi.Endpoints() {
		switch {
		case e.Method != "" || e.Type != "":
			continue
		case strings.Contains(e.Path, "{digest}"):
			ask(e.Path, strings.Replace(e.Path, "{digest}", "1", 1))
		case strings.HasSuffix(e.Path, "/mgen/history"):
			ask(e.Path, e.Path+"?id=1&src=10.0.0.1&srcPort=1&dst=10.0.0.2&dstPort=2&proto=17")
		default:
			ask(e.Path, e.Path)
		}
		ask(e.Path, strings.Replace(e.Path, "{digest}", "x", 1)+"?no=1") // 400
	}
	check := exec.Command("node", "openapi.mjs")
	check.Dir, check.Stdin = "../../web", bytes.NewReader(lines)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("answers are not what openapi.json says: %v\n%s", err, out)
	}
}

// TestDemo: without root, hosts with rates come to the terminal, keys work, and the page has the agents.
func TestDemo(t *testing.T) {
	uid := uint32(0)
	if os.Geteuid() == 0 {
		uid = 65534
		for dir := binDir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	tty := screentest.New(t, 120, 40)
	begin := time.Now()
	cmd := startShown(t, tty, uid, "demo", "-http", "127.0.0.1:0")
	rate := regexp.MustCompile(`camera-1\b.*[1-9][0-9]* kbit/s`)
	for !rate.MatchString(tty.Output()) {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("no traffic of camera-1 on the terminal:\n%s", tty.Output())
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("traffic on the terminal after %v", time.Since(begin)) // a second, on a machine that is not busy
	url := regexp.MustCompile(`page at (http://[^/]+/)`).FindStringSubmatch(tty.Output())
	if url == nil {
		t.Fatalf("no address of the page:\n%s", tty.Output())
	}
	answer, err := http.Get(url[1] + "healthz")
	if err != nil {
		t.Fatal(err)
	}
	lintMetrics(t, url[1])
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	if !strings.Contains(strings.ReplaceAll(string(body), " ", ""), `"connected":20`) {
		t.Errorf("the page says %s", body)
	}
	checkAPI(t, url[1])
	tty.Type(t, "c")
	tty.Expect(t, 0, "maps.example")
	tty.Type(t, "q")
	if err := cmd.Wait(); err != nil {
		t.Errorf("after q: %v\n%s", err, tty.Output())
	}
}

// TestDemoOnce: with -once the records end after a while, all of them given out once.
func TestDemoOnce(t *testing.T) {
	d := &demonstration{hosts: 20, once: true, length: 300 * time.Millisecond}
	n := 0
	begin := time.Now()
	if err := d.play(t.Context(), func(int, []wire.Record) { n++ }); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); n < 100 || took < d.length {
		t.Errorf("%d records in %v", n, took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&demonstration{hosts: 20}).play(ctx, func(int, []wire.Record) {}); err != nil {
		t.Errorf("told to end: %v", err)
	}
}

// TestDemoPaths: the demo's packets can be followed: the video changes its way, and a
// member of the group receives nothing.
func TestDemoPaths(t *testing.T) {
	t.Parallel()
	e := path.New(path.Config{})
	network := demo.New(20)
	hosts := network.Hosts()
	var numbers []int
	noon := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for _, h := range hosts {
		numbers = append(numbers, e.Agent(h.Name))
		e.Watch(numbers[len(numbers)-1], noon.Add(-time.Second).UnixNano(), true)
	}
	for _, m := range network.Members() {
		e.Join(0, e.Agent(hosts[m.Agent].Name), m.Group.As16(), true)
	}
	for at := noon; at.Before(noon.Add(demo.Period)); at = at.Add(50 * time.Millisecond) {
		for _, r := range network.Records(nil, at, at.Add(50*time.Millisecond)) {
			e.AddOne(at.UnixNano(), numbers[r.Agent], &r.Record)
		}
		e.Tick(at.UnixNano())
	}
	e.Flush()
	video := demo.Video
	report := e.Report(path.Query{MGEN: &video}, 10)
	if len(report.Flows) != 1 {
		t.Fatalf("flows of the video: %+v", report.Flows)
	}
	f := &report.Flows[0]
	var ways []string
	for _, p := range f.Paths {
		if p.Packets > 100 {
			ways = append(ways, strings.Join(p.Nodes, " "))
		}
	}
	slices.Sort(ways)
	if want := []string{"camera-1 relay-1 base", "camera-1 relay-2 base"}; !slices.Equal(ways, want) {
		t.Errorf("the video's ways are %q, want %q", ways, want)
	}
	if f.Changed != 1 || f.Lost == 0 || f.Lost > f.Packets/20 {
		t.Errorf("the video: %d changes, %d of %d lost", f.Changed, f.Lost, f.Packets)
	}
	group := e.Report(path.Query{Dst: network.Members()[0].Group}, 20)
	silent := false
	for i := range group.Flows {
		for _, n := range group.Flows[i].Nodes {
			silent = silent || n.Node == hosts[demo.Silent].Name && n.Role == "member" && n.Received == 0
		}
	}
	if !silent {
		t.Errorf("nothing says that %s is a member and receives nothing: %+v", hosts[demo.Silent].Name, group.Flows)
	}
	reports := demo.Reports
	drops := uint64(0)
	for _, f := range e.Report(path.Query{MGEN: &reports}, 10).Flows {
		drops += f.Drops["QDISC_DROP"]
	}
	if drops == 0 {
		t.Error("no report was dropped")
	}
}
