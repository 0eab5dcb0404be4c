// Site measures a whole site: so many simulated agents, collectors that share them,
// three servers of NATS, and a reader of all that is published. For each number of
// agents it says what the collectors and the servers cost, and how old records are
// when they are read.
//
// Agents are one process, this one, each with an address of its own (127.1.0.0 and
// on) and connections over loopback, and speak the 28-byte feed. Collectors are
// recollect -bus, servers nats-server, each a process of its own. All share the
// processors of this machine: figures are processor time, and the lag of a machine
// that is not saturated.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/pcapper/pcapper/bench/process"
)

type options struct {
	agents             string
	rate, collectors   int
	every              time.Duration
	warm, measure      time.Duration
	recollect, servers string
	logs               bool
}

func main() {
	runtime.LockOSThread() // see start
	var o options
	flag.StringVar(&o.agents, "agents", "100,1000,10000", "how many agents, one measurement for each number")
	flag.IntVar(&o.rate, "rate", 10, "records a second of each agent")
	flag.DurationVar(&o.every, "every", time.Second, "time between an agent's messages")
	flag.IntVar(&o.collectors, "collectors", 3, "how many collectors share them")
	flag.DurationVar(&o.warm, "warm", 5*time.Second, "time before the measurement, once all are connected")
	flag.DurationVar(&o.measure, "t", 20*time.Second, "time of the measurement")
	flag.StringVar(&o.recollect, "recollect", "", "the collector's program; built if not given")
	flag.StringVar(&o.servers, "nats-server", "", "the server's program; built if not given")
	flag.BoolVar(&o.logs, "logs", false, "keep the processes' messages, and say where")
	flag.Parse()
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, "site:", err)
		os.Exit(1)
	}
}

func (o *options) run() error {
	if flag.NArg() > 0 || o.rate < 1 || o.collectors < 1 || o.every <= 0 || o.measure <= 0 {
		return errors.New("want positive numbers, and no other arguments")
	}
	if err := process.RaiseFiles(1 << 18); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/var/tmp", "site") // /tmp may be memory
	if err != nil {
		return err
	}
	if o.logs {
		fmt.Println("messages are in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	if err := o.build(dir); err != nil {
		return err
	}
	var rows []row
	fmt.Print(head)
	for text := range strings.SplitSeq(o.agents, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1<<18 {
			return fmt.Errorf("%q: not a number of agents", text)
		}
		r, err := o.measureOne(filepath.Join(dir, text), n)
		if err != nil {
			return fmt.Errorf("%d agents: %w", n, err)
		}
		r.print()
		rows = append(rows, r)
	}
	printSlope(rows, o.collectors)
	return nil
}

// build builds the programs that were not given.
func (o *options) build(dir string) error {
	for _, p := range []struct {
		path           *string
		name, package_ string
	}{{&o.recollect, "recollect", "github.com/pcapper/pcapper/cmd/recollect"}, {&o.servers, "nats-server", "github.com/nats-io/nats-server/v2"}} {
		if *p.path != "" {
			continue
		}
		*p.path = filepath.Join(dir, p.name)
		build := exec.Command("go", "build", "-o", *p.path, p.package_)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", build, err, out)
		}
	}
	return nil
}

// measureOne is one row: everything is started anew.
func (o *options) measureOne(dir string, n int) (r row, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return r, err
	}
	a, err := newAgents(n, o.rate, o.every)
	if err != nil {
		return r, err
	}
	defer a.close()
	// From the start: thousands of idle connections would all be probed (keepalive)
	// at one moment, which is more than loopback's queue takes.
	a.quiet.Go(a.send)
	defer a.stop()
	servers, url, err := startServers(dir, o.servers)
	defer stopAll(servers)
	if err != nil {
		return r, err
	}
	collectors, err := o.startCollectors(dir, url, a)
	defer stopAll(collectors)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	reader, err := newReader(ctx, url, 4)
	if err != nil {
		return r, err
	}
	defer reader.conn.Close()
	for a.attached() < n {
		if ctx.Err() != nil {
			fmt.Printf("%d of %d agents have a collector after three minutes; going on\n", a.attached(), n)
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	r, err = o.watch(a, reader, servers, collectors)
	a.stop()
	if err != nil {
		return r, err
	}
	r.settle(a, reader)
	stopAll(collectors)
	return r, nil
}

func (o *options) startCollectors(dir, url string, a *agents) (list []*child, err error) {
	config := filepath.Join(dir, "collector.conf")
	if err := os.WriteFile(config, []byte(a.config()), 0o600); err != nil {
		return nil, err
	}
	for i := range o.collectors {
		c, err := start(dir, fmt.Sprintf("collector%d", i+1), o.recollect, "-c", config, "-lines", "-bus", url)
		if err != nil {
			return list, err
		}
		list = append(list, c)
	}
	return list, nil
}

func stopAll(list []*child) {
	for _, c := range list {
		if c.cmd.ProcessState == nil {
			c.stop()
		}
	}
}

// watch measures while agents send.
func (o *options) watch(a *agents, reader *reader, servers, collectors []*child) (r row, err error) {
	time.Sleep(o.warm)
	reader.clear()
	before, err := costs(servers, collectors)
	if err != nil {
		return r, err
	}
	sent, batches, bytes, begun := a.sent.Load(), reader.batches.Load(), reader.bytes.Load(), time.Now()
	time.Sleep(o.measure)
	after, err := costs(servers, collectors)
	if err != nil {
		return r, err
	}
	seconds := time.Since(begun).Seconds()
	r = row{
		agents: len(a.list), rate: float64(a.sent.Load()-sent) / seconds, batches: float64(reader.batches.Load()-batches) / seconds,
		bytes: float64(reader.bytes.Load()-bytes) / seconds, median: reader.lag(0.5), worst: reader.lag(0.99), late: a.late.Load(),
		servers: after[0].since(before[0], seconds), collectors: after[1].since(before[1], seconds), own: after[2].since(before[2], seconds),
	}
	return r, nil
}

// cost is what processes took so far.
type cost struct {
	cpu  time.Duration
	peak int64 // the largest one's memory
}

// costs are of servers, collectors, and this process.
func costs(servers, collectors []*child) (list [3]cost, err error) {
	pids := [3][]int{2: {os.Getpid()}}
	for i, children := range [][]*child{servers, collectors} {
		for _, c := range children {
			pids[i] = append(pids[i], c.cmd.Process.Pid)
		}
	}
	for i := range list {
		for _, pid := range pids[i] {
			cpu, err := process.CPU(pid)
			if err != nil {
				return list, err
			}
			peak, err := process.PeakMemory(pid)
			if err != nil {
				return list, err
			}
			list[i].cpu += cpu
			list[i].peak = max(list[i].peak, peak)
		}
	}
	return list, nil
}

// share is processors, and the largest process's memory.
type share struct {
	processors float64
	peak       int64
}

func (c cost) since(before cost, seconds float64) share {
	return share{(c.cpu - before.cpu).Seconds() / seconds, c.peak}
}
