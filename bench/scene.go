package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

// The two processors: nothing of a tap runs where the sender does.
const (
	senderCPU = 0
	tapCPU    = 1
)

// scene is a network of two hosts. Taps watch host's interface.
type scene struct {
	name       string
	host, peer *nettest.Host
	received   bool // taps look at what host receives, not at what it sends
}

// The scenes. Frames are single and pass no queueing discipline but where the
// name says otherwise.
const (
	sending   = "sending"   // the peer throws frames away at once
	cabled    = "cabled"    // the peer's stack takes them, as in all other scenes
	queueing  = "queueing"  // a pfifo is the interface's queueing discipline
	receiving = "receiving" // GRO is on, or a veth would take no frames from XDP
	offload   = "offload"   // so are all other offloads
)

// bench has the scenes, each made when it is needed first.
type bench struct {
	opt      options
	say      func(format string, args ...any)
	scenes   map[string]*scene
	senders  map[string][]sender // by traffic
	counters [2]*counter         // without and with the clock; loaded once: see main.go
	tmp      string              // for logs: memory if possible
	repeated int                 // measurements
	cleanups []func()
}

// setupError is how nettest's complaints become an error of run.
type setupError struct{ error }

// Helper, Cleanup, Fatalf and Skipf make bench a nettest.TB.
func (b *bench) Helper() {}

// Cleanup runs f at the end, last first.
func (b *bench) Cleanup(f func()) { b.cleanups = append(b.cleanups, f) }

// Fatalf ends run.
func (b *bench) Fatalf(format string, args ...any) {
	panic(setupError{fmt.Errorf(format, args...)})
}

// Skipf ends run too: there is nothing else to do.
func (b *bench) Skipf(format string, args ...any) { b.Fatalf(format, args...) }

func (b *bench) cleanup() {
	for i := len(b.cleanups) - 1; i >= 0; i-- {
		b.cleanups[i]()
	}
}

func newBench(opt options) *bench {
	return &bench{
		opt: opt, scenes: map[string]*scene{}, senders: map[string][]sender{},
		say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
}

func (b *bench) setUp() {
	if runtime.NumCPU() < 2 {
		b.Fatalf("this machine has one processor: sender and tap need one each")
	}
	if _, err := os.Stat(b.opt.agent); err != nil {
		b.Fatalf("no agent to measure: %w (hint: make build)", err)
	}
	if err := pinProcess(tapCPU); err != nil {
		b.Fatalf("%w", err)
	}
	tmp, err := os.MkdirTemp("/dev/shm", "bench")
	if err != nil {
		tmp, err = os.MkdirTemp("", "bench")
	}
	if err != nil {
		b.Fatalf("%w", err)
	}
	b.tmp = tmp
	b.Cleanup(func() { os.RemoveAll(tmp) })
	for i := range b.counters {
		c, err := newCounter(i == 1)
		if err != nil {
			b.Fatalf("%w", err)
		}
		b.Cleanup(func() { c.close() })
		b.counters[i] = c
	}
}

// scene makes a scene, or gives the one that was made.
func (b *bench) scene(name string) *scene {
	if s := b.scenes[name]; s != nil {
		return s
	}
	s := &scene{name: name, received: name == receiving}
	s.host, s.peer = nettest.Pair(b)
	var err error
	switch name {
	case sending:
		if err := discard(b, s.peer); err != nil {
			b.say("the peer throws frames away later, as this kernel has no tcx: %v", err)
		}
	case queueing:
		err = queue(s.host)
	case receiving:
		err = s.host.SetFeatures(true, "rx-gro")
	case offload:
		err = errors.Join(s.host.SetOffloads(true), s.peer.SetOffloads(true))
	}
	if err != nil {
		b.Fatalf("scene %s: %w", name, err)
	}
	b.scenes[name] = s
	return s
}

// discard makes the peer throw away what it receives as early as it can. Its
// stack runs on the sender's processor, and would be half of what a frame costs.
func discard(b *bench, peer *nettest.Host) error {
	index, err := indexOf(peer)
	if err != nil {
		return err
	}
	prog, err := newDiscard()
	if err != nil {
		return err
	}
	var l link.Link
	peer.Do(func() {
		l, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: ebpf.AttachTCXIngress})
	})
	if err != nil {
		prog.Close()
		return err
	}
	b.Cleanup(func() { l.Close(); prog.Close() })
	return nil
}

func indexOf(h *nettest.Host) (int, error) {
	l, err := h.Netlink().LinkByName(h.Interface.Name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

func queue(h *nettest.Host) error {
	index, err := indexOf(h)
	if err != nil {
		return err
	}
	return h.Netlink().QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		QdiscType:  "pfifo",
	})
}

// traffic returns a traffic's senders, one for each processor that sends.
func (b *bench) traffic(t traffic) ([]sender, error) {
	if s := b.senders[t.name]; s != nil {
		return s, nil
	}
	var all []sender
	for range max(t.processors, 1) {
		s, err := t.make(b.scene(t.scene))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		b.Cleanup(func() { s.close() })
		all = append(all, s)
	}
	b.senders[t.name] = all
	return all, nil
}

// load is what senders did.
type load struct {
	tally
	elapsed time.Duration
	cpu     time.Duration // of the senders' threads
}

func (l load) rate() float64 { return float64(l.packets) / l.elapsed.Seconds() }

// send sends for a time, the first sender on its processor, the second on the
// taps': rate packets a second or, if that is 0, as many as they can.
func send(ctx context.Context, senders []sender, d time.Duration, rate float64) (load, error) {
	before, err := total(senders)
	if err != nil {
		return load{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	done := make([]load, len(senders))
	errs := make([]error, len(senders))
	var running sync.WaitGroup
	for i, s := range senders {
		running.Go(func() {
			s.host().Do(func() {
				if errs[i] = pinThread(senderCPU + i); errs[i] == nil {
					done[i], errs[i] = work(ctx, s, rate)
				}
			})
		})
	}
	running.Wait()
	after, err := total(senders)
	if err := errors.Join(append(errs, err)...); err != nil {
		return load{}, err
	}
	l := load{tally: after.minus(before)}
	for _, one := range done {
		l.elapsed = max(l.elapsed, one.elapsed)
		l.cpu += one.cpu
	}
	if l.packets == 0 {
		return l, errors.New("the sender sent nothing")
	}
	return l, nil
}

func total(senders []sender) (t tally, err error) {
	for _, s := range senders {
		one, err := s.count()
		if err != nil {
			return t, err
		}
		t = t.plus(one)
	}
	return t, nil
}

// work is one sender's thread.
func work(ctx context.Context, s sender, rate float64) (l load, err error) {
	cpu := threadCPU()
	begin := time.Now()
	// Once at least: on a busy machine the time may be over already.
	for pushed := 0; pushed == 0 || ctx.Err() == nil; {
		n := s.batch()
		if rate > 0 {
			due := int(time.Since(begin).Seconds()*rate) + 1 - pushed
			if due <= 0 {
				rest(time.Duration(float64(time.Second) / rate * float64(1-due)))
				continue
			}
			n = min(n, due)
		}
		k, err := s.push(n)
		if err != nil {
			return l, err
		}
		pushed += k
	}
	return load{elapsed: time.Since(begin), cpu: threadCPU() - cpu}, nil
}

// rest gives up the processor if the wait is long enough for it to come back in
// time. The runtime's timers would be late by up to a millisecond.
func rest(d time.Duration) {
	if d < 100*time.Microsecond {
		return
	}
	ts := unix.NsecToTimespec(int64(min(d, 10*time.Millisecond)))
	_ = unix.Nanosleep(&ts, nil)
}

// onCPU runs f on a thread that is bound to a processor, and so is all that f
// starts. The thread is not used again.
func onCPU(cpu int, f func(error)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f(pinThread(cpu))
	}()
	<-done
}

// pinProcess binds all threads of this process, and those to come.
func pinProcess(cpu int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := pin(tid, cpu); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
