package embedded_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/batch"
	"github.com/pcapper/pcapper/internal/bus"
	"github.com/pcapper/pcapper/internal/bus/embedded"
	"github.com/pcapper/pcapper/wire"
)

// child is what the test program is when it is started as the process to kill.
const child = "PCAPPER_TEST_BUS_DIR"

// collector publishes to an embedded bus and writes what it takes, as fast as it
// can, until it is killed, or told to end by end of input. Each line of its output
// says how much was acknowledged of what stream: "AGENT/BOOT NUMBER".
func collector(dir string) error {
	s, err := embedded.Start(embedded.Config{Dir: dir + "/bus", Size: 256 << 20, Say: complain})
	if err != nil {
		return err
	}
	defer s.Stop()
	c, err := bus.Connect(bus.Config{InProcess: s, Say: complain})
	if err != nil {
		return err
	}
	defer c.Close()
	publishing, stopPublishing := context.WithCancel(context.Background())
	writing, stopWriting := context.WithCancel(context.Background())
	p := bus.NewPublisher(c, bus.PublisherConfig{})
	w := bus.NewWriter(c, bus.WriterConfig{
		Store: files{dir}, Streams: bus.Streams{Partitions: 1, MaxBytes: 200 << 20}, Purge: true, Rows: 20000, Age: 200 * time.Millisecond,
	})
	var g errgroup.Group
	g.Go(func() error { return w.Run(writing) })
	g.Go(func() error { return p.Run(publishing) })
	b := batch.Batch{Agent: "a host", Boot: rand.Uint64()}
	told := make(chan bool)
	go func() {
		bufio.NewReader(os.Stdin).ReadByte()
		close(told)
	}()
	for open := true; open; {
		select {
		case <-told:
			open = false
		case <-time.After(2 * time.Millisecond):
			if p.Status().Published-p.Status().Acknowledged > 100_000 {
				break
			}
			b.Records = numbered(b.Records[:0], b.First, 1+rand.IntN(500))
			p.Publish(&b)
			b.First = b.Next()
		}
		fmt.Printf("%s/%x %d\n", b.Agent, b.Boot, p.Status().Acknowledged)
	}
	stopPublishing()
	for p.Status().Acknowledged < p.Status().Published || w.Status().Records < p.Status().Acknowledged {
		time.Sleep(10 * time.Millisecond)
	}
	stopWriting()
	fmt.Printf("%s/%x %d\n", b.Agent, b.Boot, p.Status().Acknowledged)
	return g.Wait()
}

func numbered(list []wire.Record, first uint64, n int) []wire.Record {
	for i := range n {
		r := records(first, 1)[0]
		r.Flags |= wire.MGEN | wire.MGENHeader
		r.MGENSeq = uint32(first + uint64(i))
		list = append(list, r)
	}
	return list
}

func complain(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// TestKill: a collector that is killed at any moment loses nothing that was
// acknowledged, and has nothing twice.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/bus", 0o700); err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]uint64{}
	for range 5 {
		live(t, dir, acknowledged, true)
	}
	live(t, dir, acknowledged, false)
	check(t, kept(t, dir), acknowledged)
	if left, _ := os.ReadDir(dir); len(left) == 0 || len(files{dir}.Pending()) != 0 {
		t.Errorf("left: %v", left)
	}
}

// live runs a collector for a while, and notes what was acknowledged.
func live(t *testing.T, dir string, acknowledged map[string]uint64, kill bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), child+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Hour, func() {})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		at := strings.LastIndexByte(lines.Text(), ' ')
		var n uint64
		if _, err := fmt.Sscan(lines.Text()[at+1:], &n); err != nil {
			t.Fatal(err)
		}
		if stream := lines.Text()[:at]; n > acknowledged[stream] {
			if acknowledged[stream] == 0 { // it works: some time from now
				timer = time.AfterFunc(time.Duration(rand.IntN(1500))*time.Millisecond, func() {
					if kill {
						cmd.Process.Kill()
					} else {
						in.Close()
					}
				})
			}
			acknowledged[stream] = n
		}
	}
	timer.Stop()
	if err := cmd.Wait(); kill == (err == nil) {
		t.Errorf("killed: %v; it ended with %v", kill, err)
	}
}

// check checks that all was kept that was acknowledged, and nothing twice. What was
// published, but not acknowledged, may be there.
func check(t *testing.T, kept map[string]map[uint64]int, acknowledged map[string]uint64) {
	t.Helper()
	for stream, n := range acknowledged {
		lost, double := 0, 0
		for i := range n {
			if kept[stream][i] == 0 {
				lost++
			}
		}
		for _, times := range kept[stream] {
			double += times - 1
		}
		t.Logf("%s: %d acknowledged, %d kept, %d of the former lost, %d double", stream, n, len(kept[stream]), lost, double)
		if lost+double > 0 {
			t.Errorf("%s: %d records lost, %d double", stream, lost, double)
		}
	}
}
