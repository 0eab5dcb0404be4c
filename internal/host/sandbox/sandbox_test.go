package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// confined is this test's program without cgo, as users get theirs; it runs
// TestChild in it.
var confined = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "confine")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "confine.test")
	cmd := exec.Command("go", "test", "-c", "-o", name, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return name, os.Chmod(dir, 0o755)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv("CONFINE_CHILD") == "" {
		if name, err := confined(); err == nil {
			os.RemoveAll(filepath.Dir(name))
		}
	}
	os.Exit(code)
}

// child runs what children has under a name and gives what it prints.
func child(t *testing.T, name, dir string) string {
	t.Helper()
	program, err := confined()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run", "^TestChild$")
	cmd.Env = append(os.Environ(), "CONFINE_CHILD="+name, "CONFINE_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// children are what runs confined, each in a process of its own.
var children = map[string]func(dir string){
	"everything": func(dir string) {
		for range 20 { // threads that exist before
			go func() { time.Sleep(50 * time.Millisecond); select {} }()
		}
		open, _ := os.OpenFile(filepath.Join(dir, "open"), os.O_CREATE|os.O_WRONLY, 0o666)
		ln, _ := net.Listen("tcp", "127.0.0.1:0")
		report, err := Apply(Config{
			User: "nobody", Keep: []int{unix.CAP_NET_RAW}, Write: []string{filepath.Join(dir, "log")}, Read: []string{filepath.Join(dir, "certs", "cert")},
		})
		fmt.Println(strings.Join(report, "\n"), err)
		try("threads", threads())
		_, err = open.WriteString("x")
		try("write to what is open", err)
		try("write in the log directory", os.WriteFile(filepath.Join(dir, "log", "a"), nil, 0o644))
		try("append there", os.WriteFile(filepath.Join(dir, "log", "a"), []byte("x"), 0o644))
		try("write elsewhere", os.WriteFile(filepath.Join(dir, "b"), nil, 0o644))
		_, err = os.ReadFile(filepath.Join(dir, "certs", "cert"))
		try("read the certificate", err)
		_, err = os.ReadFile(filepath.Join(dir, "secret"))
		try("read a secret", err)
		_, err = os.ReadFile("/proc/stat")
		try("read /proc", err)
		fds, err := os.ReadDir("/proc/self/fd")
		try(fmt.Sprintf("list own files: %v", len(fds) > 3), err)
		try("run a program", exec.Command("/bin/true").Run())
		go func() {
			c, err := ln.Accept()
			if err == nil {
				c.Close()
			}
		}()
		_, err = net.Dial("tcp", ln.Addr().String())
		try("connect", err)
		_, err = net.Listen("tcp", "127.0.0.1:0")
		try("listen", err)
		_, err = net.ListenPacket("udp", "127.0.0.1:0")
		try("use UDP", err)
		_, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		try("open a packet socket", err)
		try("stop another", unix.Kill(os.Getppid(), 0))
		try("signal itself", unix.Kill(os.Getpid(), 0))
		try("become root", unix.Setuid(0))
		try("mount", unix.Mount("x", dir, "tmpfs", 0, ""))
		_, err = unix.PtraceGetEventMsg(1)
		try("ptrace", err)
		done := make(chan error)
		for range 20 { // threads that come after
			go func() { done <- os.WriteFile(filepath.Join(dir, "c"), nil, 0o644) }()
		}
		for range 20 {
			if err := <-done; err == nil {
				fmt.Println("a new thread may write")
			}
		}
	},
	"exec": func(dir string) {
		_, err := Apply(Config{Exec: true, Network: true, User: "nobody"})
		try("confine", err)
		try("run a program", exec.Command("/bin/true").Run())
		out, err := exec.Command("sh", "-c", "grep ^CapEff /proc/self/status; id -u; echo x >"+dir+"/b").CombinedOutput()
		try(fmt.Sprintf("what it can: %q", out), err)
		_, err = net.Listen("tcp", "127.0.0.1:0")
		try("listen", err)
	},
	"root": func(dir string) {
		os.Chmod(dir, 0o700)
		report, err := Apply(Config{Write: []string{dir}})
		fmt.Println(strings.Join(report, "\n"), err)
		try("write", os.WriteFile(filepath.Join(dir, "b"), nil, 0o644))
	},
	"owner": func(dir string) {
		os.Chmod(dir, 0o700)
		os.Chown(dir, 12345, 12345)
		report, err := Apply(Config{Write: []string{dir}})
		fmt.Println(strings.Join(report, "\n"), err)
		try("write", os.WriteFile(filepath.Join(dir, "b"), nil, 0o644))
	},
	"existing file": func(dir string) {
		log := filepath.Join(dir, "log", "a")
		os.WriteFile(log, nil, 0o644) // of root, in a directory for all
		report, err := Apply(Config{Write: []string{filepath.Join(dir, "log")}, Append: []string{log}})
		fmt.Println(strings.Join(report, "\n"), err)
		f, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		try("append", err)
		f.Close()
	},
	"only root with everything": func(dir string) {
		log := filepath.Join(dir, "a")
		os.WriteFile(log, nil, 0o600)
		os.Chown(log, 23456, 23456) // and the directory is another's
		os.Chmod(dir, 0o700)
		os.Chown(dir, 12345, 12345)
		report, err := Apply(Config{Write: []string{dir}, Append: []string{log}})
		fmt.Println(strings.Join(report, "\n"), err)
		f, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		try("append", err)
		f.Close()
		try("write elsewhere", os.WriteFile(dir+"x", nil, 0o644))
	},
	"a user that cannot": func(dir string) {
		os.Chmod(dir, 0o700)
		_, err := Apply(Config{Write: []string{dir}, User: "nobody"})
		try("nobody", err)
		_, err = Apply(Config{User: "no-such-user"})
		try("no such user", err)
	},
}

func try(what string, err error) {
	switch {
	case err == nil:
		fmt.Println(what+":", "yes")
	case errors.Is(err, fs.ErrPermission):
		fmt.Println(what+":", "denied")
	default:
		fmt.Println(what+":", err)
	}
}

// threads is an error unless all threads have the same rights.
func threads() error {
	list, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return err
	}
	first := ""
	want := regexp.MustCompile(`(?m)^(Uid|Gid|Groups|Cap\w+|NoNewPrivs|Seccomp):.*`)
	for _, name := range list {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rights := string(bytes.Join(want.FindAll(data, -1), []byte("; ")))
		if first == "" {
			first = rights
			fmt.Println(rights)
		}
		if rights != first {
			return fmt.Errorf("%s: %s", name, rights)
		}
	}
	if len(list) < 3 {
		return fmt.Errorf("only %d threads", len(list))
	}
	return nil
}

func TestChild(t *testing.T) {
	if f := children[os.Getenv("CONFINE_CHILD")]; f != nil {
		f(os.Getenv("CONFINE_DIR"))
	}
}

// openDir is a directory that anyone can get to and write in.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "confine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, err := range []error{
		os.Chmod(dir, 0o777), os.Mkdir(filepath.Join(dir, "log"), 0o755), os.Chmod(filepath.Join(dir, "log"), 0o777),
		os.Mkdir(filepath.Join(dir, "certs"), 0o755), os.WriteFile(filepath.Join(dir, "certs", "cert"), nil, 0o644), os.WriteFile(filepath.Join(dir, "secret"), nil, 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestEverything(t *testing.T) {
	dir := openDir(t)
	out := child(t, "everything", dir)
	for _, want := range []string{
		"no_new_privs: yes", "user: nobody", "capabilities: cap_net_raw\n", "landlock: version ", "writes in " + dir + "/log only",
		"system calls allowed", "threads: yes", "CapEff:\t0000000000002000", "CapBnd:\t0000000000002000", "NoNewPrivs:\t1", "Seccomp:\t2",
		"write to what is open: yes", "write in the log directory: yes", "append there: yes", "write elsewhere: denied",
		"read the certificate: yes", "read a secret: denied", "read /proc: yes", "list own files: true: yes", "run a program: denied",
		"connect: denied", "listen: denied", "use UDP: yes", "open a packet socket: yes", "become root: denied", "stop another: denied", "signal itself: yes", "mount: denied",
		"ptrace: denied",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q", want)
		}
	}
	if strings.Contains(out, "a new thread may") {
		t.Error("threads that come later have more rights")
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestExec(t *testing.T) {
	dir := openDir(t)
	out := child(t, "exec", dir)
	for _, want := range []string{"confine: yes", "run a program: yes", `CapEff:\t0000000000000000\n`, "cannot create", "listen: yes"} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}
}

func TestStaysRootWithoutItsCapabilities(t *testing.T) {
	out := child(t, "root", openDir(t))
	for _, want := range []string{"user: root without its capabilities: user nobody may not write in", "capabilities: none", "write: yes"} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}
}

// TestLogsOfOthers: a root that logs into the directory of whoever called sudo,
// or goes on with an old log, still can.
func TestLogsOfOthers(t *testing.T) {
	for name, wants := range map[string][]string{
		"owner":                     {"user: 12345\n", "capabilities: none", "write: yes"},
		"existing file":             {"user: root without its capabilities: user nobody may not write to", "capabilities: none", "append: yes"},
		"only root with everything": {"user: root without", "capabilities: cap_dac_override\n", "append: yes", "write elsewhere: denied"},
	} {
		out := child(t, name, openDir(t))
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%s: does not say %q:\n%s", name, want, out)
			}
		}
	}
}

func TestUserThatCannot(t *testing.T) {
	out := child(t, "a user that cannot", openDir(t))
	for _, want := range []string{"nobody: user nobody may not write in", `no such user: no user "no-such-user"`} {
		if !strings.Contains(out, want) {
			t.Errorf("does not say %q:\n%s", want, out)
		}
	}
}

// TestFilterProgram: the binary search allows what is listed and nothing else,
// on this architecture only.
func TestFilterProgram(t *testing.T) {
	list := slices.Sorted(slices.Values(slices.Concat(calls, legacyCalls)))
	list = slices.Compact(list)
	raw := program(unix.AUDIT_ARCH_X86_64, list, true)
	if _, err := bpf.Assemble(raw); err != nil {
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(raw)
	if err != nil {
		t.Fatal(err)
	}
	run := func(arch uint32, number int) uint32 {
		// The VM loads in network byte order.
		data := make([]byte, 64)
		for i, v := range []uint32{uint32(number), arch} {
			data[4*i], data[4*i+1], data[4*i+2], data[4*i+3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
		}
		verdict, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(verdict)
	}
	for number := range 600 {
		want := uint32(actionErrno)
		if slices.Contains(list, number) {
			want = actionAllow
		}
		if got := run(unix.AUDIT_ARCH_X86_64, number); got != want {
			t.Errorf("call %d: %#x, want %#x", number, got, want)
		}
	}
	if got := run(unix.AUDIT_ARCH_I386, 1); got != actionKill {
		t.Errorf("another architecture: %#x", got)
	}
	if got := run(unix.AUDIT_ARCH_X86_64, 0x40000001); got != actionErrno {
		t.Errorf("x32: %#x", got)
	}
}
