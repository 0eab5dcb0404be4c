//go:build !(libpcap && cgo)

package match

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// tcpdumpDirs are searched after PATH, because services often run without sbin.
var tcpdumpDirs = []string{"/usr/sbin", "/usr/bin", "/sbin", "/usr/local/sbin", "/usr/local/bin"}

// findTcpdump returns the path of an installed tcpdump.
func findTcpdump() (string, error) {
	if path, err := exec.LookPath("tcpdump"); err == nil {
		return path, nil
	}
	for _, dir := range tcpdumpDirs {
		if path, err := exec.LookPath(filepath.Join(dir, "tcpdump")); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: pcap filter expressions need tcpdump, and there is none", errNoCompiler)
}

// compilePcap compiles an expression with tcpdump.
func compilePcap(ctx context.Context, src source) ([]bpf.RawInstruction, string, error) {
	path, err := findTcpdump()
	if err != nil {
		return nil, "", err
	}
	out, err := runTcpdump(ctx, path, src)
	if err != nil {
		return nil, "", err
	}
	prog, err := parseProgram(out)
	if err != nil {
		return nil, "", fmt.Errorf("%w: unexpected output of %s -ddd: %w", errNoCompiler, path, err)
	}
	return prog, "tcpdump -ddd", nil
}

// runTcpdump returns the program as tcpdump prints it.
func runTcpdump(ctx context.Context, path string, src source) ([]byte, error) {
	args := []string{"-ddd", "-s", strconv.Itoa(Snaplen)}
	if src.device != "" {
		// -p: opening an interface just to inspect it must not switch it to promiscuous
		// mode.
		args = append(args, "-p", "-i", src.device)
	}
	// After --, an expression that begins with - is not an option.
	args = append(args, "-y", src.link.name, "--", src.expression)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: inheritedCaps()}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case errors.As(err, &exit) && exit.Exited():
		return nil, complaint(stderr.String(), exit)
	}
	return nil, fmt.Errorf("%w: cannot run %s: %w", errNoCompiler, path, err)
}

// inheritedCaps lets tcpdump open the interface if this process may do so because of a
// file capability or a service manager rather than as root: such capabilities are not
// inherited automatically (capabilities(7)).
func inheritedCaps() []uintptr {
	if os.Geteuid() == 0 {
		return nil
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return nil
	}
	if data[0].Permitted&(1<<unix.CAP_NET_RAW) == 0 {
		return nil
	}
	return []uintptr{unix.CAP_NET_RAW}
}

// complaint returns tcpdump's error on stderr as one line, without its name and
// unrelated warnings.
func complaint(stderr string, exit error) error {
	var lines []string
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(strings.TrimPrefix(line, "tcpdump: "))
		if line != "" && !strings.HasPrefix(line, "Warning:") && !strings.HasPrefix(line, "data link type ") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return fmt.Errorf("tcpdump: %w", exit)
	}
	text := strings.Join(lines, " ")
	return errors.New(strings.TrimPrefix(text, "can't parse filter expression: "))
}

// parseProgram parses the output of tcpdump -ddd: the number of instructions, then one
// instruction per line as four decimal numbers.
func parseProgram(out []byte) ([]bpf.RawInstruction, error) {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	n, err := strconv.Atoi(lines[0])
	if err != nil || n != len(lines)-1 {
		return nil, fmt.Errorf("%d lines after the count %q", len(lines)-1, lines[0])
	}
	prog := make([]bpf.RawInstruction, n)
	for i := range prog {
		if prog[i], err = parseInstruction(lines[i+1]); err != nil {
			return nil, fmt.Errorf("line %q: %w", lines[i+1], err)
		}
	}
	return prog, nil
}

func parseInstruction(line string) (in bpf.RawInstruction, err error) {
	fields := strings.Fields(line)
	if len(fields) != 4 {
		return in, errors.New("not four numbers")
	}
	var v [4]uint64
	for i, bits := range [4]int{16, 8, 8, 32} {
		if v[i], err = strconv.ParseUint(fields[i], 10, bits); err != nil {
			return in, err
		}
	}
	return bpf.RawInstruction{Op: uint16(v[0]), Jt: uint8(v[1]), Jf: uint8(v[2]), K: uint32(v[3])}, nil
}
