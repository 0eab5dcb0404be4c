package capture

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

// BenchmarkDrops is what a datagram to a port without a socket costs, which the kernel drops:
// with nobody asking, on an interface that is not watched, and on one that is.
func BenchmarkDrops(b *testing.B) {
	from, to := nettest.Pair(b)
	if err := to.Sysctl("ipv4/icmp_ratelimit", "0"); err != nil {
		b.Log(err) // then fewer answers are sent
	}
	f := nettest.Between(from, to, 4000, 5001, make([]byte, 100))
	g, err := from.Generator(f.Ethernet())
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	send := func(b *testing.B) {
		b.ResetTimer()
		before := cpuTime(b)
		if sent, _, err := g.Send(b.Context(), b.N, 0); err != nil || sent != b.N {
			b.Fatal(sent, err)
		}
		b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	}
	b.Run("off", send)
	d := openDrops(b)
	b.Run("elsewhere", send)
	w, _ := watchDrops(b, d, to, to.Interface.Name)
	w.tell = func(*Drop) {}
	b.Run("on", func(b *testing.B) {
		send(b)
		s := w.Stats()
		b.ReportMetric(float64(s.Untold)/float64(b.N), "untold/op")
	})
	w.Stop()
}

// cpuTime of this process, which does the kernel's work for a veth as well, in ns.
func cpuTime(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(os.NewSyscallError("getrusage", err))
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
