package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// Offsets of data and data_end in a program's context (linux/bpf.h).
const (
	skbMark, skbData, skbDataEnd = 8, 76, 80 // struct __sk_buff
	skbSize                      = 192
	xdpData, xdpDataEnd          = 0, 4 // struct xdp_md
)

// Of an IPv4 UDP frame without tags.
const (
	udpAt    = 14 + 20
	headers  = udpAt + 8
	checksum = udpAt + 6
)

// A flow's ports: more flows than portsPerFlow have other destination ports,
// too. The UDP checksum is left out (0, RFC 768), so that ports can change.
const (
	firstPort    = 1024
	portsPerFlow = 50_000
)

// Offsets in the value of a program's only map entry.
const (
	cellNext = 0 // the next frame's flow
	cellSent = 8
	cellSize = 16
)

// injector is a program that the kernel runs again and again with one frame
// (BPF_PROG_RUN), and that sends it. It is the fastest sender there is: no
// system call, no memory and no copy for each packet.
type injector struct {
	cells *ebpf.Map
	prog  *ebpf.Program
	// opts are for as many frames as one system call can send of n.
	opts func(frame []byte, n int) (*ebpf.RunOptions, int)
}

func newCells(kind ebpf.MapType) (*ebpf.Map, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	return ebpf.NewMap(&ebpf.MapSpec{Type: kind, KeySize: 4, ValueSize: cellSize, MaxEntries: 1})
}

// clonesPerRun is how many frames a run of the cloning program sends at most:
// the context's mark says how many. The receiving stack, which runs when a run
// ends, then costs little more than half.
const clonesPerRun = 16

// newCloner makes a sender whose frames pass everything that looks at what the
// interface sends: traffic control, AF_PACKET sockets, queueing discipline. It
// is for the interface's namespace. 3 million frames a second.
func newCloner(ifindex, flows int) (*injector, error) {
	cells, err := newCells(ebpf.Array)
	if err != nil {
		return nil, err
	}
	ins := append(begin(cells), asm.LoadMem(asm.R8, asm.R6, skbMark, asm.Word))
	for i := range clonesPerRun {
		ins = append(ins, asm.JEq.Imm(asm.R8, 0, "out"), asm.Sub.Imm(asm.R8, 1))
		ins = append(ins, nextFlow(flows, i, skbData, skbDataEnd)...)
		ins = append(ins,
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, int32(ifindex)),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnCloneRedirect.Call(),
			// What is above 0 (NET_XMIT_DROP) the receiver has dropped: taps
			// on the sender's side have seen it.
			asm.JSLT.Imm(asm.R0, 0, "out"),
		)
		ins = append(ins, count()...)
	}
	ins = append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return())
	return newInjector(ebpf.SchedCLS, cells, ins, func(frame []byte, n int) (*ebpf.RunOptions, int) {
		each := min(n, clonesPerRun)
		ctx := make([]byte, skbSize)
		binary.NativeEndian.PutUint32(ctx[skbMark:], uint32(each))
		return &ebpf.RunOptions{Data: frame, Context: ctx, Repeat: uint32(n / each)}, n / each * each
	})
}

// xdpLiveFrames is BPF_F_TEST_XDP_LIVE_FRAMES, of Linux 5.18: what the program
// says is done with the frame, for as many as it is run.
const (
	xdpLiveFrames = 1 << 1
	xdpAborted    = 0
)

// newShooter makes a sender of frames that the peer of a veth receives. It is
// for the namespace of the other end, whose index this is; the receiving end
// must poll (NAPI: GRO is on).
func newShooter(ifindex, flows int) (*injector, error) {
	cells, err := newCells(ebpf.Array)
	if err != nil {
		return nil, err
	}
	ins := append(begin(cells), asm.Mov.Imm(asm.R0, xdpAborted))
	ins = append(ins, nextFlow(flows, 0, xdpData, xdpDataEnd)...)
	ins = append(ins, count()...)
	ins = append(ins,
		asm.Mov.Imm(asm.R1, int32(ifindex)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return().WithSymbol("out"),
	)
	return newInjector(ebpf.XDP, cells, ins, func(frame []byte, n int) (*ebpf.RunOptions, int) {
		return &ebpf.RunOptions{Data: frame, Repeat: uint32(n), Flags: xdpLiveFrames}, n
	})
}

func newInjector(kind ebpf.ProgramType, cells *ebpf.Map, ins asm.Instructions, opts func([]byte, int) (*ebpf.RunOptions, int)) (*injector, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, Instructions: ins, License: "BSD"})
	if err != nil {
		cells.Close()
		return nil, fmt.Errorf("load the generator's program: %w", err)
	}
	return &injector{cells: cells, prog: prog, opts: opts}, nil
}

// begin leaves the context in R6 and the map entry's address in R7.
func begin(cells *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapValue(asm.R7, cells.FD(), 0),
	}
}

func count() asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R7, cellSent, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R7, cellSent, asm.R1, asm.DWord),
	}
}

// nextFlow gives each frame other ports than the one before it. Where it stands
// in a program several times, each has its own number.
func nextFlow(flows, number int, data, dataEnd int16) asm.Instructions {
	if flows <= 1 {
		return nil
	}
	next := fmt.Sprintf("next%d", number)
	return asm.Instructions{
		asm.LoadMem(asm.R5, asm.R6, data, asm.Word),
		asm.LoadMem(asm.R9, asm.R6, dataEnd, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R5),
		asm.Add.Imm(asm.R1, headers),
		asm.JGT.Reg(asm.R1, asm.R9, "out"),

		asm.LoadMem(asm.R2, asm.R7, cellNext, asm.DWord),
		asm.Mov.Reg(asm.R3, asm.R2),
		asm.Add.Imm(asm.R3, 1),
		asm.JLT.Imm(asm.R3, int32(flows), next),
		asm.Mov.Imm(asm.R3, 0),
		asm.StoreMem(asm.R7, cellNext, asm.R3, asm.DWord).WithSymbol(next),

		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Mod.Imm(asm.R4, portsPerFlow),
		asm.Add.Imm(asm.R4, firstPort),
		asm.HostTo(asm.BE, asm.R4, asm.Half),
		asm.StoreMem(asm.R5, udpAt, asm.R4, asm.Half),
		asm.Div.Imm(asm.R2, portsPerFlow),
		asm.Add.Imm(asm.R2, dstPort),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.StoreMem(asm.R5, udpAt+2, asm.R2, asm.Half),
	}
}

// run sends a frame n times, or a few times more. It is for the namespace that
// the injector was made for.
func (i *injector) run(frame []byte, n int) error {
	for n > 0 {
		opts, sent := i.opts(frame, n)
		if _, err := i.prog.Run(opts); err != nil {
			return fmt.Errorf("generator: %w", err)
		}
		n -= sent
	}
	return nil
}

// sent is how many frames there were.
func (i *injector) sent() (uint64, error) {
	var cell [cellSize / 8]uint64
	if err := i.cells.Lookup(uint32(0), &cell); err != nil {
		return 0, fmt.Errorf("generator's counter: %w", err)
	}
	return cell[cellSent/8], nil
}

func (i *injector) close() error { return errors.Join(i.prog.Close(), i.cells.Close()) }

// newDiscard makes a tcx program that drops all that an interface receives.
func newDiscard() (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "BSD", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 2), // TCX_DROP
		asm.Return(),
	}})
}

// counter is a program that does nothing but count, for each processor apart,
// where the agent's would run: what it costs is the least that a tap can cost.
type counter struct {
	cells *ebpf.Map
	prog  *ebpf.Program
	link  link.Link
}

// newCounter makes one that also reads the clock, if it is to: less a tap that
// reports packets cannot do.
func newCounter(clock bool) (*counter, error) {
	cells, err := newCells(ebpf.PerCPUArray)
	if err != nil {
		return nil, err
	}
	ins := asm.Instructions{
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, -4, asm.R1, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, cells.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Reg(asm.R7, asm.R0),
	}
	ins = append(ins, count()...)
	if clock {
		ins = append(ins, asm.FnKtimeGetNs.Call(), asm.StoreMem(asm.R7, cellNext, asm.R0, asm.DWord))
	}
	ins = append(ins, asm.Mov.Imm(asm.R0, -1).WithSymbol("out"), asm.Return()) // TCX_NEXT
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "BSD", Instructions: ins})
	if err != nil {
		cells.Close()
		return nil, fmt.Errorf("load the counting program: %w", err)
	}
	return &counter{cells: cells, prog: prog}, nil
}

// attach needs Linux 6.6 and is for the interface's namespace.
func (c *counter) attach(ifindex int, received bool) (err error) {
	where := ebpf.AttachTCXEgress
	if received {
		where = ebpf.AttachTCXIngress
	}
	c.link, err = link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: c.prog, Attach: where})
	return err
}

func (c *counter) detach() error {
	if c.link == nil {
		return nil
	}
	l := c.link
	c.link = nil
	return l.Close()
}

func (c *counter) total() (n uint64, err error) {
	var cells [][cellSize / 8]uint64
	if err := c.cells.Lookup(uint32(0), &cells); err != nil {
		return 0, fmt.Errorf("counting program: %w", err)
	}
	for _, cell := range cells {
		n += cell[cellSent/8]
	}
	return n, nil
}

func (c *counter) close() error {
	return errors.Join(c.detach(), c.prog.Close(), c.cells.Close())
}
