package keep

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

func TestMain(m *testing.M) {
	code := m.Run()
	bustest.RemoveProgram()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// records are n that say which they are.
func records(from uint64, n int) (list []wire.Record) {
	for i := range n {
		r := wire.Record{Time: 1.7e18, Proto: wire.ProtoUDP, Length: 100, Flags: wire.Outgoing | wire.MGEN | wire.MGENHeader, MGENSeq: uint32(from) + uint32(i), MGENTime: 1}
		r.SetSrc4([4]byte{10, 0, 0, 1})
		r.SetDst4([4]byte{10, 0, 0, 2})
		list = append(list, r)
	}
	return list
}

// TestSpool: a collector ends while the bus is away. What it could not publish is
// published by its next life, under its numbers.
func TestSpool(t *testing.T) {
	s := bustest.Start(t, "")
	s.Kill()
	url := s.URL() + "?partitions=1&size=100000000"
	dir := filepath.Join(t.TempDir(), "spool")
	open := func() *Keeper {
		k, err := Open(Config{URL: url, Collect: true, Spool: spool.Spec{Dir: dir, Size: 10e6}, Say: t.Logf})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	run := func(k *Keeper, until func() bool) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()
		for n := 0; !until(); n++ {
			if n == 3000 {
				t.Fatalf("waited in vain: %s", k.Done())
			}
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	k := open()
	_, err := Open(Config{URL: url, Collect: true, Spool: spool.Spec{Dir: dir, Size: 10e6}, Say: t.Logf})
	if !strings.Contains(fault.Hint(err), "directory of its own") {
		t.Errorf("%v", err)
	}
	for life := range 2 {
		b := batch.Batch{Agent: "a", Boot: uint64(life)}
		for range 100 {
			b.Records = records(b.First, 50)
			k.Publish(&b)
			b.First = b.Next()
		}
		if life == 0 {
			run(k, func() bool { return true })
			if !strings.Contains(k.Done(), "5000 packets waiting in the spool, 0 dropped") {
				t.Error(k.Done())
			}
			k = open()
			s.Restart()
		}
	}
	var mu sync.Mutex
	got := map[string]bool{}
	target, _ := bus.Parse(url)
	conn, err := bus.Connect(bus.Config{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.EnsureStreams(t.Context(), target.Streams); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() {
		followed <- conn.Follow(ctx, target.Streams, func(b *batch.Batch) {
			mu.Lock()
			defer mu.Unlock()
			for i, r := range b.Records {
				got[fmt.Sprintf("%d/%d=%d", b.Boot, b.First+uint64(i), r.MGENSeq)] = true
			}
		})
	}()
	time.Sleep(300 * time.Millisecond) // it follows
	run(k, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) >= 10_000
	})
	stop()
	<-followed
	for boot := range 2 {
		for n := range 5000 {
			if !got[fmt.Sprintf("%d/%d=%d", boot, n, n)] {
				t.Fatalf("record %d of life %d is missing", n, boot)
			}
		}
	}
	if !strings.Contains(k.Done(), "0 packets waiting in the spool") {
		t.Error(k.Done())
	}
}
