package main

// The collector's tests of docs/guarantees.md; see cmd/pcapper/guarantee_test.go.

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// TestGuaranteeBadAgents: agents that send without end as fast as they can, or
// nothing, or rubbish, or a record now and then, or from 1970 and 2106. A good
// agent's records are all printed, memory is bounded, and what is wrong is said.
func TestGuaranteeBadAgents(t *testing.T) {
	period, pace := 4*time.Second, time.Second
	if os.Getenv("PCAPPER_LONG") != "" {
		period, pace = 10*time.Minute, time.Minute
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var conf strings.Builder
	// serve makes an agent that does the same with each connection.
	serve := func(label string, f func(conn net.Conn)) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&conf, "%s:%s\n", label, ln.Addr())
		wg.Go(func() { <-stop; ln.Close() })
		wg.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { <-stop; conn.Close() })
				wg.Go(func() { f(conn) })
			}
		})
	}
	record := func(seconds uint32, port uint16) []byte {
		r := wire.Record{Time: int64(seconds) * 1e9, DstPort: port, Length: 100, Proto: wire.ProtoUDP}
		r.SetSrc4([4]byte{10, 0, 0, 1})
		r.SetDst4([4]byte{10, 0, 0, 2})
		b, _ := wire.AppendBinary(nil, &r)
		return b
	}
	every := func(d time.Duration, b []byte) func(net.Conn) {
		return func(conn net.Conn) {
			for {
				if _, err := conn.Write(b); err != nil {
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(d):
				}
			}
		}
	}
	flood := bytes.Repeat(record(1_700_000_000, 5), 2000)
	good := 0
	serve("flood", every(time.Millisecond, flood)) // two million a second
	serve("silent", func(net.Conn) {})
	serve("rubbish", every(time.Millisecond, bytes.Repeat([]byte("rubbish\n"), 100)))
	serve("rare", every(pace, record(1_700_000_000, 6)))
	serve("past", every(50*time.Millisecond, record(0, 7)))
	serve("future", every(50*time.Millisecond, record(1<<32-1, 8)))
	serve("good", func(conn net.Conn) {
		b := record(1_700_000_001, 9)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			if _, err := conn.Write(b); err != nil {
				return
			}
			good++ // one connection, as nothing goes wrong with it
		}
	})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "collector.conf"), []byte(conf.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binDir, "recollect"))
	cmd.Dir = dir
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := map[string]int{}
	firsts := map[string]string{}
	read := make(chan struct{})
	go func() {
		defer close(read)
		scan := bufio.NewScanner(out)
		for scan.Scan() {
			at, rest, _ := bytes.Cut(scan.Bytes(), []byte(":"))
			label, _, _ := bytes.Cut(rest, []byte(":"))
			if lines[string(label)]++; lines[string(label)] == 1 {
				firsts[string(label)] = string(at)
			}
		}
	}()
	time.Sleep(period)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, hwm, _ := strings.Cut(string(status), "VmHWM:")
	var kb int
	fmt.Sscan(hwm, &kb)
	close(stop)
	wg.Wait() // all that was sent is with the kernel
	time.Sleep(500 * time.Millisecond)
	cmd.Process.Signal(syscall.SIGINT)
	<-read
	cmd.Wait()

	lost := 0
	if i := strings.LastIndex(said.String(), " lost\n"); i > 0 {
		_, line, _ := strings.Cut(said.String()[strings.LastIndex(said.String()[:i], "\n")+1:], "lines written, ")
		fmt.Sscan(line, &lost)
	}
	if lost == 0 && lines["good"] != good {
		t.Errorf("%d lines of the good agent, want %d", lines["good"], good)
	}
	if kb > 256<<10 {
		t.Errorf("peak memory %d kB", kb)
	}
	if firsts["past"] != "0.000000" || firsts["future"] != "4294967295.000000" {
		t.Errorf("the times of 1970 and 2106 are printed as %s and %s", firsts["past"], firsts["future"])
	}
	for _, label := range []string{"flood", "rare", "past", "future"} {
		if lines[label] == 0 {
			t.Errorf("no line of the agent %s", label)
		}
	}
	if lines["rubbish"] != 0 || !strings.Contains(said.String(), "this is no agent") {
		t.Errorf("rubbish gave %d lines, and said:\n%s", lines["rubbish"], said.String())
	}
	t.Logf("lines %v, good %d, peak memory %d MiB", lines, good, kb>>10)
}

// TestConfined: a collector of root keeps no capabilities but those for low
// ports and for reading, and tells a service manager how it does.
func TestConfined(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "collector.conf"), fmt.Appendf(nil, "a:%s\n", ln.Addr()), 0o644); err != nil {
		t.Fatal(err)
	}
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	hears := func(want string) {
		t.Helper()
		buf := make([]byte, 1000)
		manager.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := manager.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), want) {
			t.Errorf("the service manager hears %q, %v, want %q", buf[:n], err, want)
		}
	}
	cmd := exec.Command(filepath.Join(binDir, "recollect"), "-v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hears("READY=1\nSTATUS=collecting from 1 agent")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapPrm:\t0000000000000404", "CapBnd:\t0000000000000404", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	hears("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, said.String())
	}
	if !strings.Contains(said.String(), "landlock: version") || !strings.Contains(said.String(), "writes nowhere") {
		t.Errorf("it said\n%s", said.String())
	}
}
