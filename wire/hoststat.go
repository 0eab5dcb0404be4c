package wire

// Stat is the kind of a host statistic, named as collectors print it.
type Stat byte

const (
	// NotStat: the record is a packet.
	NotStat Stat = 0
	// CPU: Length is busy ticks of 1/100 s, per CPU, in the last second.
	CPU Stat = 'C'
	// Memory: Length is memory in use in kB, shifted right by 8.
	Memory Stat = 'M'
)

const (
	flowCPU    = 0xFFFFFFFF
	flowMemory = 0xFFFFFFFE
)

var (
	addrCPU    = mapped([4]byte{1, 0, 0, 0})
	addrMemory = mapped([4]byte{2, 0, 0, 0})
)

// CPUStat is the record that says how busy the host was in the second before
// t (nanoseconds since the epoch): ticks of 1/100 s per CPU, 0 to 100.
func CPUStat(t int64, ticks uint32) Record {
	return stat(t, addrCPU, 1, flowCPU, ticks)
}

// MemoryStat is the record that says how much memory the host uses at t, in
// kB. The record's unit is 256 kB; what is above 16 bits of it (16 GiB) is
// shown as the most it can hold.
func MemoryStat(t int64, kB uint64) Record {
	return stat(t, addrMemory, 2, flowMemory, uint32(min(kB>>8, 0xffff)))
}

func stat(t int64, addr [16]byte, port uint16, flow, value uint32) Record {
	return Record{
		Time: t, Src: addr, Dst: addr, SrcPort: port, DstPort: port,
		Length: value, FlowID: flow, Proto: ProtoHostStat, Flags: HostStat,
	}
}

// Stat reports whether r is a host statistic, and which.
func (r *Record) Stat() Stat {
	switch {
	case r.Flags&HostStat == 0:
		return NotStat
	case r.FlowID == flowCPU:
		return CPU
	}
	return Memory
}

// isHostStat recognises a statistic by all of its fixed fields, since protocol
// 61 alone may be real traffic.
func (r *Record) isHostStat() bool {
	if r.Proto != ProtoHostStat || r.Src != r.Dst || r.SrcPort != r.DstPort {
		return false
	}
	return r.Src == addrCPU && r.SrcPort == 1 && r.FlowID == flowCPU ||
		r.Src == addrMemory && r.SrcPort == 2 && r.FlowID == flowMemory
}
