package wire

// Stat is the kind of a host statistic, named as collectors print it.
type Stat byte

const (
	// NotStat means that the record is a packet.
	NotStat Stat = 0
	// CPU means that Length is the busy time per CPU during the last second, in ticks
	// of 1/100 s.
	CPU Stat = 'C'
	// Memory means that Length is the memory in use in kB, shifted right by 8.
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

// CPUStat returns the record that reports the CPU load during the second before t
// (nanoseconds since the epoch): busy ticks of 1/100 s per CPU, 0 to 100.
func CPUStat(t int64, ticks uint32) Record {
	return stat(t, addrCPU, 1, flowCPU, ticks)
}

// MemoryStat returns the record that reports the memory in use at t, in kB. The unit of
// the record is 256 kB in 16 bits; more than 16 GiB is reported as the largest value.
func MemoryStat(t int64, kB uint64) Record {
	return stat(t, addrMemory, 2, flowMemory, uint32(min(kB>>8, 0xffff)))
}

func stat(t int64, addr [16]byte, port uint16, flow, value uint32) Record {
	return Record{
		Time: t, Src: addr, Dst: addr, SrcPort: port, DstPort: port,
		Length: value, FlowID: flow, Proto: ProtoHostStat, Flags: HostStat,
	}
}

// Stat returns the kind of host statistic that r is, or NotStat.
func (r *Record) Stat() Stat {
	switch {
	case r.Flags&HostStat == 0:
		return NotStat
	case r.FlowID == flowCPU:
		return CPU
	}
	return Memory
}

// isHostStat recognizes a statistic by all of its fixed fields, because protocol 61
// alone may be real traffic.
func (r *Record) isHostStat() bool {
	if r.Proto != ProtoHostStat || r.Src != r.Dst || r.SrcPort != r.DstPort {
		return false
	}
	return r.Src == addrCPU && r.SrcPort == 1 && r.FlowID == flowCPU ||
		r.Src == addrMemory && r.SrcPort == 2 && r.FlowID == flowMemory
}
