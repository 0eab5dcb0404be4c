package collector

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/internal/test/screentest"
	"github.com/pcapper/pcapper/wire"
)

// patience is the most that a test waits for anything.
const patience = 30 * time.Second

// testRun is a collector under test between agents of the test and pipes.
type testRun struct {
	stdout  *bufio.Reader // what it prints
	pipe    *os.File      // the same, to close it
	stderr  string        // valid after wait
	said    chan string   // its lines, as they come
	summary chan os.Signal
	agents  []*net.TCPListener
	cancel  func()
	wait    func() error // for the end of Run
}

// startRun starts a collector with so many agents, labelled h0, h1 ..., and
// the given flow lines. Its stdout is a pipe unless set says otherwise.
func startRun(t *testing.T, agents int, flows string, set func(*Config)) *testRun {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	r := &testRun{summary: make(chan os.Signal, 1)}
	var conf strings.Builder
	fmt.Fprintln(&conf, flows)
	for i := range agents {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		r.agents = append(r.agents, l.(*net.TCPListener))
		fmt.Fprintf(&conf, "h%d:%v\n", i, l.Addr())
	}
	file := Parse("test.conf", []byte(conf.String()))
	out, in := testPipe(t)
	r.pipe, r.stdout = out, bufio.NewReader(out)
	errOut, errIn := testPipe(t)
	cfg := Config{File: file, Stdout: in, Stderr: errIn, Summary: r.summary, Unconfined: true} // this process is the test
	if set != nil {
		set(&cfg)
	}
	stderr := make(chan string, 1)
	r.said = make(chan string, 1<<10)
	go func() {
		var all strings.Builder
		for lines := bufio.NewScanner(errOut); lines.Scan(); {
			fmt.Fprintln(&all, lines.Text())
			r.said <- lines.Text()
		}
		stderr <- all.String()
	}()
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	done := make(chan error, 1)
	go func() {
		err := Run(ctx, cfg)
		in.Close()
		errIn.Close()
		done <- err
	}()
	r.wait = func() error {
		t.Helper()
		select {
		case err := <-done:
			r.stderr = <-stderr
			goleak.VerifyNone(t, leaks)
			return err
		case <-time.After(patience):
			t.Fatal("the collector does not end")
			return nil
		}
	}
	return r
}

func testPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// accept takes the collector's connection to an agent, and what it announces:
// unread, it would turn the agent's orderly close into a reset.
func (r *testRun) accept(t *testing.T, agent int) *net.TCPConn {
	t.Helper()
	r.agents[agent].SetDeadline(time.Now().Add(patience))
	conn, err := r.agents[agent].AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(conn, make([]byte, len("bulk\n"))); err != nil {
		t.Fatal(err)
	}
	return conn
}

// expect reads lines from stdout and compares them.
func (r *testRun) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, line := range want {
		got, err := r.stdout.ReadString('\n')
		if err != nil || got != line+"\n" {
			t.Fatalf("line is %q (%v), want %q", got, err, line)
		}
	}
}

func send(t *testing.T, conn net.Conn, records ...wire.Record) {
	t.Helper()
	var b []byte
	for i := range records {
		b, _ = wire.AppendBinary(b, &records[i])
	}
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

const testTime = 1560390672_895279000

// udp is a record of a UDP packet.
func udp(port uint16, flow, length uint32, flags wire.Flags) wire.Record {
	r := wire.Record{Time: testTime, DstPort: port, Proto: wire.ProtoUDP, Length: length, FlowID: flow, Flags: flags}
	r.SetSrc4([4]byte{10, 0, 0, 1})
	r.SetDst4([4]byte{10, 0, 0, 2})
	if flow != 0 {
		r.Flags |= wire.MGEN
	}
	return r
}

// TestRunLines: the contract's lines, word by word.
func TestRunLines(t *testing.T) {
	r := startRun(t, 2, "5=2000\n2=M7\n3=2000-2001\n5=M7\n5=2000", nil)
	a, b := r.accept(t, 0), r.accept(t, 1)
	const relayed = wire.Relayed | wire.MarkRelayed
	icmp := udp(2000, 0, 84, 0)
	icmp.Proto = wire.ProtoICMP
	send(t, a, udp(2001, 0, 100, 0), udp(2000, 7, 65535, 0), udp(1, 7, 0, 0))
	r.expect(t,
		"1560390672.895279:h0:3:800:0",
		"1560390672.895279:h0:5:524280:0",
		"1560390672.895279:h0:2:524280:1",
		"1560390672.895279:h0:3:524280:1",
		"1560390672.895279:h0:5:524280:1",
		"1560390672.895279:h0:5:524280:1",
		"1560390672.895279:h0:2:0:0",
		"1560390672.895279:h0:5:0:1")
	send(t, b, udp(9, 0, 28, 0), icmp, udp(9, 0, 28, relayed), udp(2001, 0, 28, relayed),
		wire.CPUStat(testTime, 37), wire.MemoryStat(testTime, 1_000_000))
	r.expect(t,
		"1560390672.895279:h1:X:224:0",
		"1560390672.895279:h1:X:672:0",
		"1560390672.895279:h1:X:224:1",
		"1560390672.895279:h1:3:224:1",
		"1560390672.895279:h1:C:37:0",
		"1560390672.895279:h1:M:1023934464:0")
	r.summary <- syscall.SIGUSR1
	a.Close()
	r.accept(t, 0) // it comes back
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	r.expectStderr(t, []string{
		"h0 (A): connected",
		"h1 (B): connected",
		"9 records from 2 agents in T; 14 lines written, 0 records lost",
		"  h0 (A): 3 records, 1 connection",
		"  h1 (B): 6 records, 1 connection",
		"h0 (A): connection lost: closed by the agent; trying again, at longest every 10 s",
		"h0 (A): connected",
		"9 records from 2 agents in T; 14 lines written, 0 records lost",
		"  h0 (A): 3 records, 2 connections",
		"  h1 (B): 6 records, 1 connection",
	})
}

// expectStderr compares the lines on stderr, sorted since those about two
// agents come in any order, with A and B for the agents' addresses and T for a
// time.
func (r *testRun) expectStderr(t *testing.T, want []string) {
	t.Helper()
	text := regexp.MustCompile(` in \S+s;`).ReplaceAllString(r.stderr, " in T;")
	for i, l := range r.agents {
		text = strings.ReplaceAll(text, l.Addr().String(), string(rune('A'+i)))
	}
	got := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := range want {
		want[i] = Prefix + want[i]
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("stderr, sorted:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestRunOneLineAtOnce: a lone record is not kept until more come.
func TestRunOneLineAtOnce(t *testing.T) {
	r := startRun(t, 1, "1=2000", nil)
	conn := r.accept(t, 0)
	var delays []time.Duration
	for range 50 {
		start := time.Now()
		send(t, conn, udp(2000, 0, 100, 0))
		r.expect(t, "1560390672.895279:h0:1:800:0")
		delays = append(delays, time.Since(start))
	}
	slices.Sort(delays)
	if median := delays[len(delays)/2]; median > 50*time.Millisecond {
		t.Errorf("median delay from record to line is %v", median)
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

// TestRunSlowStdout: nobody reads stdout while the agent sends more than the
// hub keeps. The agent is not stopped, and every record is printed or counted
// as lost.
func TestRunSlowStdout(t *testing.T) {
	r := startRun(t, 1, "1=2000", nil)
	conn := r.accept(t, 0)
	const batch, batches = 10_000, 130
	const sent = batch * batches
	records := slices.Repeat([]wire.Record{udp(2000, 0, 100, 0)}, batch)
	for range batches {
		send(t, conn, records...) // fails after patience if the collector does not read
	}
	send(t, conn, udp(9, 0, 1, 0))
	conn.CloseWrite()
	if _, err := io.Copy(io.Discard, conn); err != nil { // it has read all and closed
		t.Fatal(err)
	}
	r.expectSaid(t, "stdout takes lines too slowly: ")
	lines := 0
	for {
		line, err := r.stdout.ReadString('\n')
		if err != nil {
			t.Fatalf("after %d lines: %v", lines, err)
		}
		if lines++; line == "1560390672.895279:h0:X:8:0\n" {
			break
		}
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	lost := sent + 1 - lines
	// The hub keeps a million records; some thousand more are in the pipe, the
	// buffer and the chunk that is being printed.
	if least, most := sent-hubChunk*hubChunks-8_000, sent-hubChunk*(hubChunks-1); lost < least || lost > most {
		t.Errorf("%d lost of %d, want %d to %d", lost, sent, least, most)
	}
	if want := fmt.Sprintf("%d lines written, %d records lost", lines, lost); !strings.Contains(r.stderr, want) {
		t.Errorf("no %q on stderr:\n%s", want, r.stderr)
	}
}

// expectSaid waits for a line on stderr that contains text.
func (r *testRun) expectSaid(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line := <-r.said:
			if strings.Contains(line, text) {
				return
			}
		case <-timeout:
			t.Fatalf("nobody says %q", text)
		}
	}
}

func TestLossReport(t *testing.T) {
	start := time.Unix(1000, 0)
	l := lossReport{every: 10 * time.Second}
	for _, tt := range []struct {
		seconds    float64
		lost, want uint64
	}{
		{0, 0, 0}, {1, 5, 5}, {2, 9, 0}, {10.9, 9, 0}, {11, 9, 4}, {12, 9, 0}, {40, 9, 0}, {41, 10, 1},
	} {
		now := start.Add(time.Duration(tt.seconds * float64(time.Second)))
		if got := l.news(now, tt.lost); got != tt.want {
			t.Errorf("after %v s with %d lost: tells of %d, want %d", tt.seconds, tt.lost, got, tt.want)
		}
	}
}

// TestRunEndsWithBlockedStdout: a reader that has stopped for good does not
// keep the collector from ending when it is told to.
func TestRunEndsWithBlockedStdout(t *testing.T) {
	r := startRun(t, 1, "1=2000", nil)
	conn := r.accept(t, 0)
	send(t, conn, slices.Repeat([]wire.Record{udp(2000, 0, 100, 0)}, 20_000)...)
	conn.CloseWrite()
	if _, err := io.Copy(io.Discard, conn); err != nil { // it has read all and closed
		t.Fatal(err)
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	counts := regexp.MustCompile(`: 20000 records from 1 agent in .*; (\d+) lines written, (\d+) not taken, (\d+) records lost`).
		FindStringSubmatch(r.stderr)
	if counts == nil {
		t.Fatalf("the summary does not count what was not printed:\n%s", r.stderr)
	}
	sum := 0
	for _, text := range counts[1:] {
		n, _ := strconv.Atoi(text)
		sum += n
	}
	if sum != 20_000 {
		t.Errorf("%v are %d records, want 20000", counts[1:], sum)
	}
	printed, err := io.ReadAll(r.stdout)
	if got := strings.Count(string(printed), "\n"); err != nil || strconv.Itoa(got) != counts[1] {
		t.Errorf("%d lines printed (%v), %s counted", got, err, counts[1])
	}
}

// TestRunStdoutClosed: the reader's end is ours, with and without traffic,
// quietly.
func TestRunStdoutClosed(t *testing.T) {
	for _, traffic := range []bool{false, true} {
		r := startRun(t, 1, "1=2000", nil)
		conn := r.accept(t, 0)
		if traffic {
			send(t, conn, udp(2000, 0, 100, 0))
			r.expect(t, "1560390672.895279:h0:1:800:0")
		}
		r.pipe.Close()
		if err := r.wait(); err != nil {
			t.Errorf("traffic %v: %v", traffic, err)
		}
		if strings.Contains(r.stderr, "records") {
			t.Errorf("traffic %v: not quiet:\n%s", traffic, r.stderr)
		}
	}
}

// TestRunStdoutFails: a full disk is an error.
func TestRunStdoutFails(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	r := startRun(t, 1, "1=2000", func(cfg *Config) { cfg.Stdout = full })
	conn := r.accept(t, 0)
	send(t, conn, udp(2000, 0, 100, 0))
	err = r.wait()
	if err == nil || !strings.HasSuffix(err.Error(), "no space left on device") {
		t.Errorf("a full disk gives %v", err)
	}
}

// TestRunFile: stdout may be a file.
func TestRunFile(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r := startRun(t, 1, "1=2000", func(cfg *Config) { cfg.Stdout = file })
	conn := r.accept(t, 0)
	send(t, conn, udp(2000, 0, 100, 0), udp(2001, 0, 100, 0))
	const want = "1560390672.895279:h0:1:800:0\n1560390672.895279:h0:X:800:0\n"
	for deadline := time.Now().Add(patience); ; {
		got, err := os.ReadFile(file.Name())
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("got %q, %v", got, err)
		}
		if string(got) == want {
			break
		}
		time.Sleep(time.Millisecond) // nothing tells when a file has grown
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

// TestRunLive: on a terminal the live view is shown and followed by a summary
// on a terminal that is as it was.
func TestRunLive(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	term := screentest.New(t, 100, 20)
	r := startRun(t, 2, "1=2000\n2=M7", func(cfg *Config) { cfg.Stdout, cfg.Stderr = term.TTY, term.TTY })
	term.Expect(t, 0, "\x1b[?1049h")
	if term.Echoes(t) {
		t.Error("what is typed is shown in the view")
	}
	conn := r.accept(t, 0)
	r.agents[1].Close() // whether dialled or not: it is lost or unreachable
	term.Expect(t, 0, "trying again")
	term.Expect(t, 0, "no traffic yet")
	send(t, conn, udp(2000, 7, 125, 0), udp(2000, 0, 125, 0), udp(9, 0, 125, 0), wire.CPUStat(testTime, 37))
	out := term.Expect(t, 0, "37 %")
	for _, want := range []string{"1 of 2 agents", "4 records", "■ 1  2000 ", "■ 2  M7 ", "■ X  no flow"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the view", want)
		}
	}
	term.Resize(t, 60, 4)
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	term.Expect(t, len(out), "+5 more")
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	out = term.Expect(t, 0, "4 records from 2 agents")
	if end := strings.Index(out, "\x1b[?1049l"); end < 0 || strings.Contains(out[:end], Prefix) {
		t.Errorf("messages in the view, or no end of it:\n%q", out)
	}
	if !term.Echoes(t) {
		t.Error("the terminal does not echo any more")
	}
}

// TestRunLinesOnTerminal: -lines prints lines on a terminal, too.
func TestRunLinesOnTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	term := screentest.New(t, 80, 24)
	r := startRun(t, 1, "1=2000", func(cfg *Config) { cfg.Stdout, cfg.Lines = term.TTY, true })
	send(t, r.accept(t, 0), udp(2000, 0, 100, 0))
	if out := term.Expect(t, 0, "\n"); out != "1560390672.895279:h0:1:800:0\r\n" {
		t.Errorf("the terminal got %q", out)
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

// TestGuardedPanics: a panic leaves the terminal in order.
func TestGuardedPanics(t *testing.T) {
	t.Setenv("TERM", "xterm")
	term := screentest.New(t, 80, 24)
	c := &collector{file: &File{}, say: newPrinter(io.Discard)}
	c.hub = newHub()
	c.classes.Store(mustClassify(t, nil))
	out, err := newLiveView(c, Config{Stdout: term.TTY, Stderr: term.TTY})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("the panic is gone")
		}
		term.Expect(t, 0, "\x1b[?1049l")
		if !term.Echoes(t) {
			t.Error("the terminal does not echo any more")
		}
	}()
	guarded(out, func() error { panic("test") })()
}

// TestLinesOfFlows: a record of several packets of one second has as many lines
// in what is left of that second, and together they have its bits; of more than
// anyone can draw there are fewer lines.
func TestLinesOfFlows(t *testing.T) {
	var out bytes.Buffer
	c, w := benchCollector(t, &out)
	flow := func(packets, length uint32) []string {
		r := udp(9, 0, length, 0)
		r.Time, r.Packets = 1560390672_700000_000, packets
		out.Reset()
		item := Item{Record: r, match: c.classes.Load().match(&r)}
		if err := w.write(&item); err != nil {
			t.Fatal(err)
		}
		w.graph.Flush()
		return slices.Collect(strings.Lines(out.String()))
	}
	want := []string{
		"1560390672.700000:h1:X:264:0\n", "1560390672.800000:h1:X:264:0\n", "1560390672.900000:h1:X:272:0\n",
	}
	if got := flow(3, 100); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	bits := 0
	lines := flow(1_000_000, 4_000_000_001)
	for _, line := range lines {
		n, err := strconv.Atoi(strings.Split(line, ":")[3])
		if err != nil || !strings.HasPrefix(line, "1560390672.") {
			t.Fatal(line, err)
		}
		bits += n
	}
	if len(lines) != maxSplit || bits != 8*4_000_000_001 {
		t.Errorf("%d lines of %d bits", len(lines), bits)
	}
}

// TestTakeDoesNotAllocate: from records to the hub, and from the hub to lines.
func TestTakeDoesNotAllocate(t *testing.T) {
	c, w := benchCollector(t, io.Discard)
	records := benchRecords()
	allocs := testing.AllocsPerRun(100, func() {
		c.all()[0].take(records)
		for w.reader.Status().Pending > 0 {
			items := w.reader.Items()
			for i := range items {
				if err := w.write(&items[i]); err != nil {
					t.Fatal(err)
				}
			}
			w.reader.Advance(len(items))
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per %d records", allocs, len(records))
	}
}
