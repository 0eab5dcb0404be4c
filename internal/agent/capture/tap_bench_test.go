package capture

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// BenchmarkTapProgram is what the kernel's half costs for a frame of 64 bytes,
// beside a program that only counts, in the kernel's own test run. The reader
// empties the ring between the runs.
func BenchmarkTapProgram(b *testing.B) {
	h, peer := nettest.Pair(b)
	f := udp(h, peer, make([]byte, 18))
	data := f.Ethernet()
	mac := []bpf.Instruction{ // -m src: see internal/agent/match
		bpf.LoadAbsolute{Off: 8, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0000000a, SkipFalse: 2},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0200, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 0x40000},
	}
	for _, test := range []struct {
		name   string
		filter []bpf.RawInstruction
		own    []uint16
		data   []byte
	}{
		{"none", nil, nil, data},
		{"src", assemble(b, mac...), []uint16{7073}, data},
		{"mgen", nil, nil, mgenFrame(h, peer)},
	} {
		b.Run(test.name, func(b *testing.B) {
			tap := openTap(b, h, Config{Ethernet: true, Filter: test.filter, OwnPorts: test.own})
			if err := tap.progs.setVar("egress", turnBeforeQueue); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(fastest(b, tap.progs.coll.Programs[progEgress], test.data, tap), "ns/frame")
		})
	}
	b.Run("count", func(b *testing.B) {
		counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			b.Fatal(err)
		}
		defer counter.Close()
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: asm.Instructions{
			asm.StoreImm(asm.R10, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, counter.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("out"), asm.Return(),
		}})
		if err != nil {
			b.Fatal(err)
		}
		defer prog.Close()
		b.ReportMetric(fastest(b, prog, data, nil), "ns/frame")
	})
}

func mgenFrame(from, to *nettest.Host) []byte {
	m := nettest.MGEN{Flow: 7, Dst: netip.AddrPortFrom(to.Interface.IPv4, 5001), Size: 100}
	f := udp(from, to, m.Payload())
	return f.Ethernet()
}

// fastest is the least time that the program took in any of b.N runs of some
// thousand frames: what slows it down is other work of the machine.
func fastest(b *testing.B, prog *ebpf.Program, data []byte, tap *Tap) float64 {
	const repeat = 10_000
	least := time.Hour
	for range max(b.N, 20) {
		_, d, err := prog.Benchmark(data, repeat, nil)
		if err != nil {
			b.Fatal(err)
		}
		least = min(least, d)
		if tap == nil {
			continue
		}
		for i := range tap.rings {
			tap.rings[i].hdr.tail = tap.rings[i].hdr.head
		}
	}
	if tap != nil {
		if s := tap.Stats(); s.Dropped > 0 {
			b.Errorf("%+v", s)
		}
	}
	b.ReportMetric(0, "ns/op")
	return float64(least.Nanoseconds())
}

// BenchmarkTapNext is what it costs to read a frame out of a ring.
func BenchmarkTapNext(b *testing.B) {
	h, peer := nettest.Pair(b)
	tap := attachTap(b, openTap(b, h, Config{Ethernet: true}))
	f := udp(h, peer, make([]byte, 18))
	const n = 20_000
	send(b, h, n, f.Ethernet())
	var got packet.Frame
	for b.Loop() {
		for i := range tap.rings {
			tap.rings[i].pos = tap.rings[i].hdr.tail // all of it once more
		}
		if !tap.load(false) {
			b.Fatal("no frames")
		}
		count := 0
		for tap.block.Next(&got) {
			count++
		}
		if count < n {
			b.Fatalf("%d frames", count)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/frame")
}
