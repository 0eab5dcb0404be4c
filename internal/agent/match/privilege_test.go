package match

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv is set in a child process of these tests.
const childEnv = "PCAPPER_TEST_CHILD"

// TestWithoutRoot compiles an expression that needs the interface in a child
// process that is not root: with CAP_NET_RAW it works, without it is refused
// with the way out, and expressions that do not need it work in any case.
func TestWithoutRoot(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		report(t)
		return
	}
	needCompiler(t)
	enter(t)
	veth(t)
	tests := []struct {
		caps []uintptr
		want string
	}{
		{[]uintptr{unix.CAP_NET_RAW}, "vlan compiled, udp compiled"},
		{nil, "vlan refused, udp compiled"},
	}
	for _, tt := range tests {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestWithoutRoot$", "-test.v")
		cmd.Env = append(os.Environ(), childEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: tt.caps,
		}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), tt.want) {
			t.Errorf("with capabilities %v: %v, want %q\n%s", tt.caps, err, tt.want, out)
		}
	}
}

// report says in the child what can be compiled.
func report(t *testing.T) {
	target := Interface{Name: "a", Ethernet: true, MAC: macMine}
	verdict := "compiled"
	_, err := Compile(t.Context(), "vlan 5", target)
	if errors.Is(err, ErrNoCompiler) && strings.Contains(err.Error(), "permission") {
		verdict = "refused"
	} else if err != nil {
		verdict = err.Error()
	}
	t.Logf("vlan 5: %v", err)
	_, err = Compile(t.Context(), "udp port 53", target)
	must(t, err)
	t.Logf("vlan %s, udp compiled", verdict)
}
