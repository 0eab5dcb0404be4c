package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/pcapper/pcapper/internal/nettest"
)

// The two processors: nothing of a tap runs where the sender does.
const (
	senderCPU = 0
	tapCPU    = 1
)

const (
	srcPort = 4001
	dstPort = 5001
	// payload makes frames of 60 bytes: 14 Ethernet, 20 IPv4, 8 UDP.
	payload = 18
	// burst is the frames that the sender hands to the kernel as one; it cuts
	// them apart before the taps. One by one the sender would be slower than
	// what is to be measured.
	burst = 32
	// warmUp is how long a tap is fed slowly before it is measured.
	warmUp = 200 * time.Millisecond
	// settle is the time without progress after which what is missing is lost.
	settle = 1500 * time.Millisecond
	// everything is more frames than any measurement sends.
	everything = 1 << 40
)

// bench has the network, in which host runs sender and taps.
type bench struct {
	opt      options
	host     *nettest.Host
	gen      *nettest.Generator
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

func (b *bench) setUp() {
	if runtime.NumCPU() < 2 {
		b.Fatalf("this machine has one processor: sender and tap need one each")
	}
	if _, err := os.Stat(b.opt.agent); err != nil {
		b.Fatalf("no agent to measure: %w (hint: make build)", err)
	}
	a, peer := nettest.Pair(b)
	b.host = a
	frame := nettest.Between(a, peer, srcPort, dstPort, make([]byte, payload*burst))
	// To nobody: the receiving stack drops it at once, and answers nothing.
	frame.DstMAC = nettest.MAC{2, 0, 0, 0, 0, 0xcc}
	gen, err := a.Burst(frame, payload)
	if err != nil {
		b.Fatalf("%w", err)
	}
	b.gen = gen
	b.Cleanup(func() { gen.Close() })
}

// load is what a sender did.
type load struct {
	frames  uint64 // that passed the taps of its host
	elapsed time.Duration
}

func (l load) rate() float64 { return float64(l.frames) / l.elapsed.Seconds() }

// send sends for a time on the sender's processor, rate frames a second or, if
// that is 0, as many as it can.
func (b *bench) send(ctx context.Context, d time.Duration, rate float64) (l load, err error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	onCPU(senderCPU, func(pinned error) {
		if err = pinned; err != nil {
			return
		}
		refused := b.gen.Refused
		var sent int
		sent, l.elapsed, err = b.gen.Send(ctx, everything, rate)
		l.frames = uint64(sent) + b.gen.Refused - refused
	})
	if err == nil && l.frames == 0 {
		err = errors.New("the sender sent nothing")
	}
	return l, err
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
