// Fleet measures a collector: so many agents send so many records a second each
// over TCP on loopback, and it says what CPU time and memory the collector took,
// and whether it got everything.
//
// The collector is a process of its own, on one processor: recollect's code
// with lines to /dev/null and a view beside them, as for a page; or any program
// that takes -c FILE, such as the C recollect, with -program.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/bench/process"
	"github.com/pcapper/pcapper/internal/collector"
)

// childEnv names the configuration in the environment of the collector that this
// program starts of itself.
const (
	childEnv   = "PCAPPER_FLEET_CONFIG"
	ballastEnv = childEnv + "_BALLAST"
)

// frameSize is what a second of history takes with a thousand agents.
const frameSize = 28 << 10

type options struct {
	agents, rate  int
	warm, measure time.Duration
	program, args string
	noView        bool
	ballast       int
	pages         int
}

func main() {
	var err error
	if config := os.Getenv(childEnv); config != "" {
		err = child(config, os.Getenv(childEnv+"_VIEW") != "")
	} else {
		err = bench()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func bench() error {
	var opt options
	flag.IntVar(&opt.agents, "agents", 1000, "how many agents")
	flag.IntVar(&opt.rate, "rate", 1000, "records a second of each")
	flag.DurationVar(&opt.warm, "warm", 5*time.Second, "time before the measurement, once all are connected")
	flag.DurationVar(&opt.measure, "t", 20*time.Second, "time of the measurement")
	flag.StringVar(&opt.program, "program", "", "measure this program, started with -c FILE, instead of our own code")
	flag.StringVar(&opt.args, "args", "", "more arguments of -program, separated by blanks")
	flag.BoolVar(&opt.noView, "no-view", false, "our own code without the view: lines alone")
	flag.IntVar(&opt.ballast, "ballast", 0, "let our own code hold so many MiB more, as a history of a day would")
	flag.IntVar(&opt.pages, "pages", 0, "open so many pages of -program, which must be our recollect")
	flag.Parse()
	if opt.pages > 0 && opt.program == "" {
		return fmt.Errorf("-pages needs -program, a recollect that serves the page")
	}
	if opt.agents < 1 || opt.rate < 1 || opt.measure <= 0 || flag.NArg() > 0 {
		return fmt.Errorf("want at least one agent, one record a second and some time, and no other arguments")
	}
	return measure(opt)
}

func measure(opt options) error {
	if err := process.RaiseFiles(1 << 18); err != nil {
		return err
	}
	f, err := newFleet(opt.agents, opt.rate)
	if err != nil {
		return err
	}
	defer f.close()
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	config := filepath.Join(dir, "collector.conf")
	if err := os.WriteFile(config, []byte(f.config()), 0o600); err != nil {
		return err
	}
	child, err := start(opt, config)
	if err != nil {
		return err
	}
	defer child.Process.Kill()
	if err := f.connect(time.Minute); err != nil {
		return err
	}
	browsers := openPages(opt.pages)
	defer browsers.done.Wait()
	defer browsers.stop()
	go f.send()
	time.Sleep(opt.warm)
	before, err := process.CPU(child.Process.Pid)
	if err != nil {
		return err
	}
	waited := process.RunDelay(child.Process.Pid)
	framesBefore, bytesBefore := browsers.counts()
	sent, begun := f.sent.Load(), time.Now()
	time.Sleep(opt.measure)
	after, err := process.CPU(child.Process.Pid)
	if err != nil {
		return err
	}
	elapsed := time.Since(begun)
	waited = process.RunDelay(child.Process.Pid) - waited
	framesAfter, bytesAfter := browsers.counts()
	records := f.sent.Load() - sent
	peak, err := process.PeakMemory(child.Process.Pid)
	if err != nil {
		return err
	}
	fmt.Printf("%d agents, %.0f records/s together, %.0f s: %.1f %% of one processor, %.0f ns per record, %d MiB at most\n",
		opt.agents, float64(records)/elapsed.Seconds(), elapsed.Seconds(),
		100*(after-before).Seconds()/elapsed.Seconds(), float64((after-before).Nanoseconds())/float64(records), peak>>20)
	if share := waited.Seconds() / elapsed.Seconds(); share > 0.2 {
		fmt.Printf("the collector's threads waited %.1f s in all for their processor: the machine is not idle, and losses may be its fault\n", waited.Seconds())
	}
	if opt.pages > 0 {
		browsers.report(framesBefore, framesAfter, bytesAfter-bytesBefore, elapsed)
	}
	browsers.stop()
	f.stop()
	fmt.Printf("%d records sent since the start, %d of them later than they should be\n", f.sent.Load(), f.late.Load())
	time.Sleep(time.Second)
	child.Process.Signal(syscall.SIGTERM)
	return child.Wait() // what it says on stderr is the rest of the report
}

// start runs the collector on the last processor, and ourselves on the others.
func start(opt options, config string) (*exec.Cmd, error) {
	last := runtime.NumCPU() - 1
	var rest unix.CPUSet
	for cpu := range max(last, 1) {
		rest.Set(cpu)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"-c", strconv.Itoa(last), self}
	if opt.program != "" {
		args = append([]string{"-c", strconv.Itoa(last), opt.program, "-c", config}, strings.Fields(opt.args)...)
	}
	if opt.pages > 0 {
		args = append(args, "-lines", "-http", pageAddress)
	}
	child := exec.Command("taskset", args...)
	child.Env = append(os.Environ(), "GOMAXPROCS=1")
	if opt.program == "" {
		child.Env = append(child.Env, childEnv+"="+config)
		if !opt.noView {
			child.Env = append(child.Env, childEnv+"_VIEW=1")
		}
		child.Env = append(child.Env, ballastEnv+"="+strconv.Itoa(opt.ballast))
	}
	child.Stderr = &summary{w: os.Stderr}
	if err := child.Start(); err != nil {
		return nil, err
	}
	for _, task := range tasks() {
		_ = unix.SchedSetaffinity(task, &rest) // a thread may be gone
	}
	return child, nil
}

// summary lets through what a collector says in all, not of each agent.
type summary struct{ w *os.File }

func (s *summary) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " agents in ") || strings.Contains(line, "stdout") {
			fmt.Fprint(s.w, line)
		}
	}
	return len(b), nil
}

func tasks() (ids []int) {
	entries, _ := os.ReadDir("/proc/self/task")
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// child is the collector under test.
func child(config string, view bool) error {
	mib, _ := strconv.Atoi(os.Getenv(ballastEnv))
	ballast := make([][]byte, mib<<20/frameSize)
	for i := range ballast {
		ballast[i] = bytes.Repeat([]byte{1}, frameSize)
	}
	defer runtime.KeepAlive(ballast)
	file, err := collector.ReadFile(config)
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg := collector.Config{File: file, Stdout: null, Stderr: os.Stderr, Lines: true}
	if view {
		debug.SetMemoryLimit(400 << 20) // as recollect -http does
		cfg.View = func(ctx context.Context, v *collector.View) error {
			<-ctx.Done()
			n, snap := v.Counting(), v.Store().Snapshot()
			fmt.Fprintf(os.Stderr, "view: %d records counted, %d lost, of %d agents in %d KiB of history; stdout's are below\n",
				n.Records, n.Lost, len(v.Agents()), snap.Memory>>10)
			return nil
		}
	}
	return collector.Run(ctx, cfg)
}
