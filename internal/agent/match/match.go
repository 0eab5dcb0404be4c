package match

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"golang.org/x/net/bpf"
)

// Interface is the interface whose frames are filtered.
type Interface struct {
	Name  string
	Index int
	// Ethernet means that frames begin with an Ethernet header (SOCK_RAW); otherwise
	// they begin with the network header (SOCK_DGRAM).
	Ethernet bool
	// WiFi is packet.IEEE80211 or packet.Radiotap if frames begin with such a header,
	// as on interfaces in monitor mode; otherwise 0.
	WiFi packet.LinkType
	// Loopback means that every packet is seen twice, outgoing and then incoming.
	Loopback bool
	// MAC is the interface's Ethernet address, 6 bytes. If there is none (nil or all
	// zero), on loopback interfaces, and on interfaces whose frames have none, the
	// direction is used instead. In 802.11 frames it is compared with the source
	// address (SA), which is the one in the Ethernet frame that a station makes of it.
	MAC net.HardwareAddr
	// Addrs are all addresses of this host, IPv4 and IPv6, for mode spoof.
	Addrs []netip.Addr
	// IPv4 is the value of %i: the interface's first IPv4 address. It may be invalid.
	IPv4 netip.Addr
}

// Filter decides which frames are wanted. It is safe for concurrent use.
type Filter struct {
	// Text describes for users what passes.
	Text string
	// Compiler names the compiler of the program: "built in", "libpcap 1.10.3",
	// "tcpdump -ddd".
	Compiler string
	// Limit describes the frames that the filter cannot test properly, or is "".
	Limit string

	prog   []bpf.RawInstruction
	test   tester
	narrow *machine // see Wanted; nil if fragments need no separate test
}

// tester is the filter in Go.
type tester interface {
	match(*packet.Frame) bool
}

// Instructions returns the program for the kernel. The caller owns the slice.
func (f *Filter) Instructions() []bpf.RawInstruction { return slices.Clone(f.prog) }

// Match reports whether the kernel would accept the frame; for fragments, see Wanted.
// It does not allocate and keeps no reference to the frame. Bytes beyond the snapshot
// length are treated as absent, as libpcap does with files.
func (f *Filter) Match(frame *packet.Frame) bool { return f.test.match(frame) }

// Judge returns the test in Go that is equivalent to a Filter's program, for frames of
// that link type on the interface with that index. The test does not allocate. The
// error says what is wrong with the program.
func Judge(prog []bpf.RawInstruction, link packet.LinkType, index int) (func(*packet.Frame) bool, error) {
	if err := verify(prog); err != nil {
		return nil, err
	}
	return (&machine{slices.Clone(prog), link, uint32(index)}).match, nil
}

// Same reports whether two filters have the same program, so that one need not be
// replaced with the other. Comparing their texts is not enough.
func (f *Filter) Same(o *Filter) bool { return slices.Equal(f.prog, o.prog) }

// Snaplen is the number of bytes that a filter asks the kernel to keep: all of any
// frame. The capture decides how many it keeps.
const Snaplen = 0x40000

// builtIn is the compiler of all modes that are not expressions.
const builtIn = "built in"

// Compile compiles the filter for one of the modes src, dst, spoof, and none; any other
// mode is a pcap filter expression. In an expression, %m is replaced with the
// interface's MAC address and %i with its IPv4 address, and % before any other
// character is removed. An empty expression is the same as none.
//
// Errors are of type *Error. Compile blocks while a compiler runs, up to ten seconds or
// until ctx ends, because an expression may contain host names.
func Compile(ctx context.Context, mode string, t Interface) (*Filter, error) {
	s := scope{
		name: t.Name, link: packet.Network, index: t.Index, live: true,
		addrs: t.Addrs, ipv4: t.IPv4, loopback: t.Loopback,
	}
	switch {
	case t.Ethernet:
		s.link = packet.Ethernet
	case t.WiFi != 0:
		s.link = t.WiFi
	}
	if s.link.HasMAC() && !t.Loopback {
		s.mac = usableMAC(t.MAC)
	}
	return s.compile(ctx, mode)
}

// CompileFile is Compile for the frames of a capture file of the given link type, which
// was captured on an interface with the given MAC and IP addresses; either may be
// missing if the mode does not need it. Frames without a link header are distinguished
// by direction, if the file records it.
func CompileFile(ctx context.Context, mode string, mac net.HardwareAddr, addrs []netip.Addr, link packet.LinkType) (*Filter, error) {
	s := scope{name: "the capture file", link: link, mac: usableMAC(mac), addrs: addrs}
	if i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Unmap().Is4() }); i >= 0 {
		s.ipv4 = addrs[i].Unmap()
	}
	return s.compile(ctx, mode)
}

func usableMAC(mac net.HardwareAddr) net.HardwareAddr {
	if len(mac) != 6 || [6]byte(mac) == [6]byte{} {
		return nil
	}
	return slices.Clone(mac)
}

// scope is what a filter is compiled for: an interface or a file.
type scope struct {
	name     string // for messages and, if live, for compilers
	link     packet.LinkType
	live     bool // an interface, not a file
	loopback bool
	index    int // of the interface
	mac      net.HardwareAddr
	addrs    []netip.Addr
	ipv4     netip.Addr
}

func (s *scope) compile(ctx context.Context, mode string) (*Filter, error) {
	if m, ok := parseMode(mode); ok {
		return s.compileMode(m)
	}
	return s.compileExpression(ctx, mode)
}

// mode is one of the modes with a name.
type mode uint8

const (
	none mode = iota
	src
	dst
	spoof
)

func (m mode) String() string { return [...]string{"none", "src", "dst", "spoof"}[m] }

func parseMode(text string) (mode, bool) {
	switch text = strings.TrimSpace(text); text {
	case "", "none":
		return none, true
	case "src":
		return src, true
	case "dst":
		return dst, true
	case "spoof":
		return spoof, true
	}
	return 0, false
}

// IsSpoof reports whether a mode is spoof, which needs the host's own addresses.
func IsSpoof(mode string) bool {
	m, ok := parseMode(mode)
	return ok && m == spoof
}

func (s *scope) compileMode(m mode) (*Filter, error) {
	if err := s.canTell(m); err != nil {
		return nil, err
	}
	own := newOwn(s.addrs)
	if m == spoof && s.live && s.wifi() {
		return nil, &Error{Kind: ErrNoAddress, Filter: m.String(), Reason: "the kernel does not look for addresses in 802.11 frames",
			hint: "use dst, or capture to a file and read that"}
	}
	if m == spoof && own.len() == 0 {
		return nil, &Error{Kind: ErrNoAddress, Filter: m.String(), Reason: s.noAddress(),
			hint: s.hint("give it an address, or use dst", "give the addresses with -ip")}
	}
	insns := s.program(m, own)
	if len(insns) > maxInstructions {
		return nil, &Error{Kind: ErrTooLong, Filter: m.String(), Reason: fmt.Sprintf(
			"%d own addresses need %d instructions, and the kernel takes %d", own.len(), len(insns), maxInstructions),
			hint: "use dst, or an expression that names the networks"}
	}
	prog, err := bpf.Assemble(insns)
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", m, err)
	}
	test := &modeTest{mode: m, link: s.link, once: s.seenTwice(), byMAC: s.byMAC(), own: own}
	copy(test.mac[:], s.mac)
	return &Filter{Text: s.text(m, own), Compiler: builtIn, prog: prog, test: test}, nil
}

// canTell rejects modes that need the sender of a frame if neither the frame nor the
// kernel provides it.
func (s *scope) canTell(m mode) error {
	if m == none || s.live || s.byMAC() || s.link == packet.Network {
		return nil
	}
	if s.link.HasMAC() {
		return &Error{Kind: ErrNoMAC, Filter: m.String(),
			Reason: "the capture file does not say which MAC address was the host's own", hint: "give it with -mac"}
	}
	return &Error{Kind: ErrNoMAC, Filter: m.String(),
		Reason: "the frames of this capture file have no MAC addresses", hint: "use none, or an expression such as \"src host ADDRESS\""}
}

func (s *scope) wifi() bool { return s.link == packet.IEEE80211 || s.link == packet.Radiotap }

// byMAC reports whether frames contain the MAC address of their source.
func (s *scope) byMAC() bool { return s.mac != nil && s.link.HasMAC() }

// seenTwice reports whether each packet is seen outgoing and incoming, as on loopback
// interfaces.
func (s *scope) seenTwice() bool { return s.live && s.loopback }

func (s *scope) noAddress() string {
	if s.live {
		return "this host has no IP address"
	}
	return "no IP address is known to be the host's own"
}

func (s *scope) hint(live, file string) string {
	if s.live {
		return live
	}
	return file
}

// text describes what a mode accepts.
func (s *scope) text(m mode, own *own) string {
	mine, other, why := "ether src "+s.mac.String(), "not ether src "+s.mac.String(), ""
	if !s.byMAC() {
		mine, other = "outgoing", "not outgoing"
		why = fmt.Sprintf(" (%s has no MAC address)", s.name)
		if !s.live {
			why = ""
		}
	}
	switch m {
	case src:
		return mine + why
	case dst:
		return other + why
	case spoof:
		return fmt.Sprintf("source IP %s, and %s%s", own.describe(), other, why)
	}
	return "everything" + s.onceText()
}

func (s *scope) onceText() string {
	if s.seenTwice() {
		return fmt.Sprintf(" (incoming: %s shows each packet twice)", s.name)
	}
	return ""
}
