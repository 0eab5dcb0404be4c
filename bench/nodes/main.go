// Nodes measures what it costs to watch the nodes of an emulation: by one agent
// for all, or by one for each. The nodes are network namespaces on a bridge; each
// sends so many packets a second, and has one collector.
//
// Programs of agents are started and ended a few a second: the kernel frees eBPF
// programs at leisure.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/bench/process"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
)

var (
	nodes   = flag.Int("nodes", 200, "how many nodes, at most 200")
	each    = flag.Int("each", 50, "how many of them are also watched by an agent each")
	rate    = flag.Float64("rate", 10, "packets a second of each node")
	measure = flag.Duration("t", 20*time.Second, "time of each measurement")
	agent   = flag.String("agent", "bin/pcapper", "the agent's program")
)

func main() {
	flag.Parse()
	b := &bench{}
	err := b.run()
	for i := len(b.cleanup) - 1; i >= 0; i-- {
		b.cleanup[i]()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nodes:", err)
		os.Exit(1)
	}
}

// bench is a nettest.TB.
type bench struct{ cleanup []func() }

func (b *bench) Helper()                   {}
func (b *bench) Cleanup(f func())          { b.cleanup = append(b.cleanup, f) }
func (b *bench) Skipf(f string, a ...any)  { b.Fatalf(f, a...) }
func (b *bench) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

func (b *bench) run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	if *nodes < 1 || *each > *nodes || *rate <= 0 || *measure < time.Second || flag.NArg() > 0 {
		return errors.New("want 1 to 200 nodes, no more agents, packets, a second at least, and no other arguments")
	}
	hosts := nettest.Bridge(b, *nodes)
	fmt.Printf("| %s, %g packets/s each | agents | CPU, %% of one processor | RSS, MiB | PSS, MiB | records lost |\n|---|---|---|---|---|---|\n", "nodes", *rate)
	one, err := b.one(hosts)
	if err != nil {
		return err
	}
	one.print("one agent for all")
	if *each == 0 {
		return nil
	}
	many, err := b.many(hosts[:*each])
	if err != nil {
		return err
	}
	many.print("an agent for each")
	scale := float64(one.nodes) / float64(many.nodes)
	fmt.Printf("\nOne agent takes %.3f of the CPU time and %.3f of the memory (PSS) that an agent for each takes, for the same number of nodes.\n",
		one.cpu/(many.cpu*scale), one.pss/(many.pss*scale))
	return nil
}

// result is what agents took.
type result struct {
	nodes, agents int
	cpu           float64 // processors
	rss, pss      float64 // MiB
	sent, got     uint64
}

func (r *result) print(what string) {
	fmt.Printf("| %d: %s | %d | %.2f | %.1f | %.1f | %d of %d |\n", r.nodes, what, r.agents, 100*r.cpu, r.rss, r.pss, int64(r.sent-r.got), r.sent)
}

// one measures one agent that watches all.
func (b *bench) one(hosts []*nettest.Host) (*result, error) {
	dir, err := os.MkdirTemp("", "nodes")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	args := []string{"-p", "17073", "-listen", "127.0.0.1"}
	for i, h := range hosts {
		// A namespace's label is the last part of its path.
		path := filepath.Join(dir, fmt.Sprintf("n%d", i+1))
		if err := os.Symlink(h.Path(), path); err != nil {
			return nil, err
		}
		args = append(args, "-netns", path)
	}
	a, err := startAgent(exec.Command(*agent, args...))
	if err != nil {
		return nil, err
	}
	defer a.end()
	if err := a.await("listening on TCP port", len(hosts)); err != nil {
		return nil, err
	}
	return run([]*running{a}, hosts, func(i int) (net.Conn, error) {
		return net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", 17073+i))
	})
}

// many measures an agent for each.
func (b *bench) many(hosts []*nettest.Host) (*result, error) {
	var agents []*running
	defer func() {
		for _, a := range agents {
			a.end()
			time.Sleep(200 * time.Millisecond)
		}
	}()
	for _, h := range hosts {
		cmd := h.Command(context.Background(), *agent, "-f", os.DevNull)
		a := &running{cmd: cmd.Cmd}
		if err := a.start(cmd.Start); err != nil {
			return nil, err
		}
		agents = append(agents, a)
		if err := a.await("listening on TCP port", 1); err != nil {
			return nil, err
		}
		time.Sleep(200 * time.Millisecond)
	}
	return run(agents, hosts, func(i int) (net.Conn, error) { return hosts[i].Dial("tcp", "127.0.0.1:7073") })
}

// running is an agent.
type running struct {
	cmd  *exec.Cmd
	mu   sync.Mutex
	said strings.Builder
}

func startAgent(cmd *exec.Cmd) (*running, error) {
	a := &running{cmd: cmd}
	return a, a.start(cmd.Start)
}

func (a *running) start(start func() error) error {
	pipe, err := a.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := start(); err != nil {
		return err
	}
	go func() {
		for scan := bufio.NewScanner(pipe); scan.Scan(); {
			a.mu.Lock()
			a.said.WriteString(scan.Text() + "\n")
			a.mu.Unlock()
		}
	}()
	return nil
}

func (a *running) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.said.String()
}

func (a *running) await(text string, times int) error {
	if !nettest.Eventually(60*time.Second, func() bool { return strings.Count(a.text(), text) >= times }) {
		return fmt.Errorf("the agent did not say %q %d times:\n%s", text, times, a.text())
	}
	return nil
}

func (a *running) end() {
	a.cmd.Process.Signal(syscall.SIGINT)
	a.cmd.Wait()
}

// run attaches the collectors, sends, and measures meanwhile.
func run(agents []*running, hosts []*nettest.Host, dial func(int) (net.Conn, error)) (*result, error) {
	r := &result{nodes: len(hosts), agents: len(agents)}
	var got atomic.Uint64
	for i := range hosts {
		conn, err := dial(i)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("bulk\n")); err != nil { // as recollect does
			return nil, err
		}
		go func() {
			buf := make([]byte, 64<<10)
			left := 0
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				got.Add(uint64((left + n) / wire.Size))
				left = (left + n) % wire.Size
			}
		}()
	}
	for _, a := range agents {
		if err := a.await(": attached", len(hosts)/len(agents)); err != nil {
			return nil, err
		}
	}
	time.Sleep(time.Second)
	before, err := sum(agents, cpuTime)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if r.sent, err = send(hosts); err != nil {
		return nil, err
	}
	after, err := sum(agents, cpuTime)
	if err != nil {
		return nil, err
	}
	r.cpu = (after - before) / time.Since(begin).Seconds()
	if r.rss, err = sum(agents, mebibytes(process.Memory)); err != nil {
		return nil, err
	}
	if r.pss, err = sum(agents, mebibytes(process.Proportional)); err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	r.got = got.Load()
	return r, nil
}

// send sends from each node in turn, for the time of the measurement.
func send(hosts []*nettest.Host) (sent uint64, err error) {
	generators := make([]*nettest.Generator, len(hosts))
	for i, h := range hosts {
		f := nettest.Between(h, hosts[(i+1)%len(hosts)], 4001, 5001, make([]byte, 60))
		f.DstMAC = nettest.MAC{2, 0, 0, 0, 0, 0xcc} // nobody answers
		if generators[i], err = h.Generator(f.Ethernet()); err != nil {
			return 0, err
		}
		defer generators[i].Close()
	}
	pause := time.Duration(float64(time.Second) / *rate / float64(len(hosts)))
	begin := time.Now()
	for next := begin; time.Since(begin) < *measure; next = next.Add(pause) {
		time.Sleep(time.Until(next))
		n, _, err := generators[sent%uint64(len(hosts))].Send(context.Background(), 1, 0)
		if err != nil {
			return 0, err
		}
		sent += uint64(n)
	}
	return sent, nil
}

func sum(agents []*running, of func(pid int) (float64, error)) (total float64, err error) {
	for _, a := range agents {
		v, err := of(a.cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		total += v
	}
	return total, nil
}

// cpuTime is in seconds.
func cpuTime(pid int) (float64, error) {
	t, err := process.CPU(pid)
	return t.Seconds(), err
}

func mebibytes(of func(pid int) (int64, error)) func(int) (float64, error) {
	return func(pid int) (float64, error) {
		n, err := of(pid)
		return float64(n) / (1 << 20), err
	}
}
