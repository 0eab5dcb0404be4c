package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// agentBuilt makes the agent's program beside the collector's.
var agentBuilt = sync.OnceValue(func() error {
	build := exec.Command("go", "build", "-o", binDir, "../pcapper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
})

func buildAgent(t *testing.T) {
	t.Helper()
	if err := agentBuilt(); err != nil {
		t.Fatal(err)
	}
}

// alive reports whether a process is there, and is no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// childOf is the process that another one has started, or 0.
func childOf(pid int) int {
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, name := range tasks {
		data, _ := os.ReadFile(name)
		if fields := strings.Fields(string(data)); len(fields) > 0 {
			child, _ := strconv.Atoi(fields[0])
			return child
		}
	}
	return 0
}

// TestWatch: one command in a namespace captures a download from port 443, says of which
// flow it is and serves the page; the agent has given up root, and ends with it, also
// when it is killed.
func TestWatch(t *testing.T) {
	t.Parallel()
	here, there := nettest.Pair(t)
	buildAgent(t)
	l, err := there.Listen("tcp", ":443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Write(make([]byte, 200_000))
			conn.Close()
		}
	}()
	server := l.Addr().(*net.TCPAddr).Port
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := here.Command(ctx, filepath.Join(binDir, "recollect"), "watch", here.Interface.Name, "-numeric", "-http", "127.0.0.1:0")
		var stderr lockedBuffer
		out, in := io.Pipe()
		cmd.Stdout, cmd.Stderr = in, &stderr
		cmd.Dir = t.TempDir()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if !nettest.Eventually(30*time.Second, func() bool { return strings.Contains(stderr.String(), "connected") }) {
			t.Fatalf("no agent is connected:\n%s", stderr.String())
		}
		agent := childOf(cmd.Process.Pid)
		if status, _ := os.ReadFile("/proc/" + strconv.Itoa(agent) + "/status"); agent == 0 || !regexp.MustCompile(`(?m)^Uid:\t([1-9]\d*)`).Match(status) {
			t.Errorf("the agent, process %d, is root:\n%s", agent, status)
		}
		lines := make(chan string, 1)
		go func() { // more than once: the agent captures a little after it is connected
			for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
				download(here, netip.AddrPortFrom(there.Interface.IPv4, uint16(server)))
			}
		}()
		go func() {
			all := make([]byte, 0, 1<<20)
			buf := make([]byte, 64<<10)
			for {
				n, err := out.Read(buf)
				all = append(all, buf[:n]...)
				if bytes.Count(all, []byte(":1:")) > 20 || err != nil {
					lines <- string(all)
					io.Copy(io.Discard, out)
					return
				}
			}
		}()
		select {
		case text := <-lines:
			bits := 0
			for _, m := range regexp.MustCompile(`(?m)^[\d.]+:[^:]+:1:(\d+):0$`).FindAllStringSubmatch(text, -1) {
				n, _ := strconv.Atoi(m[1])
				bits += n
			}
			if bits < 100_000 { // what is sent to port 443 alone has no more than some headers
				t.Errorf("%d bits of flow 1, in\n%s", bits, text)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("no download is seen:\n%s", stderr.String())
		}
		cmd.Process.Signal(end)
		cmd.Wait()
		in.Close()
		cancel()
		if !nettest.Eventually(5*time.Second, func() bool { return !alive(agent) }) {
			t.Errorf("after %v the agent, process %d, is there still", end, agent)
		}
		if left, _ := os.ReadDir(cmd.Dir); len(left) != 0 {
			t.Errorf("files are left: %v", left)
		}
		if end == syscall.SIGTERM && !strings.Contains(stderr.String(), "pcapper: summary:") {
			t.Errorf("the agent's summary is missing:\n%s", stderr.String())
		}
	}
}

// lockedBuffer is a buffer that is read while somebody writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// download gets everything from a server, if it is there.
func download(from *nettest.Host, server netip.AddrPort) {
	conn, err := from.Dial("tcp", server.String())
	if err != nil {
		return
	}
	defer conn.Close()
	io.Copy(io.Discard, conn)
}

// TestWatchWithout: without the agent's program, the right to capture, or the interface, it
// says what to do.
func TestWatchWithout(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(uid uint32, args ...string) string {
		cmd := exec.Command(filepath.Join(dir, "recollect"), append([]string{"watch"}, args...)...)
		cmd.Env, cmd.Dir = []string{"PATH=/nowhere"}, "/"
		if uid != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("watch %q ends without an error:\n%s", args, out)
		}
		return string(out)
	}
	link := func(name string) {
		if err := exec.Command("cp", filepath.Join(binDir, name), dir).Run(); err != nil {
			t.Fatal(err)
		}
	}
	link("recollect")
	if text := run(0); !strings.Contains(text, "cannot find the agent") || !strings.Contains(text, "hint: ") {
		t.Errorf("without an agent:\n%s", text)
	}
	buildAgent(t)
	link("pcapper")
	if text := run(0, "nosuch0"); !strings.Contains(text, `"nosuch0": no such interface`) {
		t.Errorf("without the interface:\n%s", text)
	}
	if text := run(0, "a", "b"); !strings.Contains(text, "want one interface") {
		t.Errorf("with two interfaces:\n%s", text)
	}
	if os.Geteuid() != 0 {
		return
	}
	if text, want := run(65534, "lo"), "sudo setcap cap_net_raw=ep "+filepath.Join(dir, "pcapper"); !strings.Contains(text, want) {
		t.Errorf("without privileges there is no %q in\n%s", want, text)
	}
}

// TestHostLabel: whatever this host is called, a label may be that.
func TestHostLabel(t *testing.T) {
	t.Parallel()
	label := hostLabel()
	if f := collector.Parse("f", []byte(label+":127.0.0.1:1\n")); len(f.Hosts) != 1 || f.Hosts[0].Label != label || len(f.Notes) != 0 {
		t.Errorf("%q: %+v", label, f)
	}
}
