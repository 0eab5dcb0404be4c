// Package agent assembles the program pcapper: an interface, a filter, a capture, a
// decoder, and a hub whose readers are the attached collectors and the log.
package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/agent/match"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/transport/spool"
)

// Exit codes of the program. Those before Usage have the same meaning in the C program.
const (
	ExitSocket        = 1
	ExitBind          = 2
	ExitListen        = 3
	ExitDevice        = 4
	ExitFilterSyntax  = 6
	ExitFilterRefused = 7
	ExitUsage         = 12
	ExitNoInterface   = 13 // -i without value
	ExitNoPort        = 14 // -p without value
	ExitBadPort       = 15 // also for another bad number or address of the feed
	ExitNoAddress     = 16
	ExitNoLogFile     = 18 // -f without value; with -check, a log that cannot be written
	ExitNoMode        = 20 // -m without value
	ExitNoMAC         = 22
	// ExitRemoved: the interface was removed while being watched.
	ExitRemoved = 5
	// ExitCerts: the files for TLS cannot be used.
	ExitCerts = 9
	// ExitConfine: privileges cannot be dropped.
	ExitConfine = 10
	// ExitSpool: the directory of -spool cannot be used.
	ExitSpool = 11
)

// Defaults of the command line.
const (
	DefaultInterface = "eth0"
	AutoInterface    = "auto" // the interface of the default route
	DefaultPort      = 7073
	DefaultLog       = "pcapper.conf" // the name documented since the first release
	DefaultMode      = "src"
	DefaultEngine    = "auto"
	DefaultTLSPort   = 7443
	// DefaultIPFIXTLSPort is for -ipfix-port with certificates (IANA: ipfixs).
	DefaultIPFIXTLSPort = 4740
	// DefaultMaxPerSource is far more than a host with collectors needs, and far less
	// than the number of files that an agent may open.
	DefaultMaxPerSource = 4096
)

// Config is the configuration from the command line.
type Config struct {
	Interface   string // interface to watch
	MACFrom     string // interface whose MAC address to use instead, if not ""
	Mode        string // src, dst, spoof, none or a pcap filter expression
	Port        int    // to listen on, 1 to 65,535; 0 disables the plain feed
	Log         string // path of the text log
	Engine      string // auto, ring or libpcap
	IncludeSelf bool   // report the feed's own packets too
	Stats       bool   // report CPU and memory once a second
	RingBytes   int    // size of the kernel's buffer, 0 for the default
	Fragments   string // which fragments to report: every (or "") or first
	MarkRelayed bool   // flag relayed packets in the 28-byte record
	BMF         bool   // report the packets inside BMF encapsulation
	Inner       bool   // report the packets inside tunnels
	Drops       bool   // report packets that the kernel drops, where possible
	Point       string // after (or ""), before, or both: the side of a queue on which packets are observed
	Members     bool   // report multicast groups that the interface has joined
	// ExcludeFeeds is a collector.conf, or a directory of such files: the feeds of the
	// agents listed there are not reported. "" excludes none.
	ExcludeFeeds string

	// Listen is the address of the feeds' ports; the zero Addr means all addresses.
	Listen netip.Addr
	// TLS are the certificate, key, and client authorities of the TLS feed on TLSPort.
	// If no file is named, there is no TLS feed.
	TLS     certs.Files
	TLSPort int
	// IPFIXPort is the port where IPFIX is served, and IPFIXTLSPort the port where it
	// is served over TLS; 0 disables them. PEN is the enterprise number of PCapper's
	// own elements, 0 for ipfix.DefaultPEN.
	IPFIXPort, IPFIXTLSPort int
	PEN                     uint32
	// Exports are receivers of IPFIX that do not connect to the agent.
	Exports []export.Target
	// Spool is where records are queued for exports over TCP and TLS whose receiver is
	// away. Valid iff its Dir is not "".
	Spool spool.Spec
	// Allow are the networks that collectors may connect from; nil allows any.
	Allow []netip.Prefix
	// MaxPerSource is the maximum number of connections from one address; 0 means no
	// limit.
	MaxPerSource int

	// User is the user that a root agent switches to after startup; "" chooses one, see
	// sandbox.Config. Unconfined keeps all privileges.
	User       string
	Unconfined bool
	// Verbose reports more at startup.
	Verbose bool

	// Metrics is the host:port where metrics are served over HTTP, or "".
	Metrics string

	// Read is a capture file to print instead of watching an interface; "-" is standard
	// input. MAC and Addrs are then the addresses of the host on which it was captured,
	// as far as the mode needs them.
	Read  string
	MAC   net.HardwareAddr
	Addrs []netip.Addr

	// Stderr receives all messages of the agent, line by line; Stdout receives Check's
	// report.
	Stderr, Stdout io.Writer

	// Netns are network namespaces to watch instead of the program's own: names of
	// ip-netns(8), process IDs, paths, AllCORE, or AllNamespaces. Interfaces are the
	// names and patterns of interfaces to watch there; see Several. The ports of each
	// interface are offsets from Port, IPFIXPort, IPFIXTLSPort, and TLSPort, recorded
	// in PortsFile.
	Netns, Interfaces []string
	PortsFile         string

	// wait is how long to wait for an interface to become ready.
	wait time.Duration
}

// Several reports whether the interfaces to watch are found by search, in namespaces or
// by patterns, instead of being the one in Interface.
func (cfg *Config) Several() bool { return len(cfg.Netns) > 0 || len(cfg.Interfaces) > 0 }

// ports returns the ports of the feeds.
func (cfg *Config) ports() (list []uint16) {
	if cfg.Port != 0 {
		list = append(list, uint16(cfg.Port))
	}
	if cfg.TLS.Any() {
		list = append(list, uint16(cfg.TLSPort))
	}
	for _, port := range []int{cfg.IPFIXPort, cfg.IPFIXTLSPort} {
		if port != 0 {
			list = append(list, uint16(port))
		}
	}
	for _, t := range cfg.Exports {
		if t.Repair != 0 {
			list = append(list, t.Repair)
		}
	}
	return list
}

// decoder returns the configuration of the decoder.
func (cfg *Config) decoder() decode.Config {
	c := decode.Config{
		BMF: cfg.BMF, Inner: cfg.Inner, MarkRelayed: cfg.MarkRelayed,
		// The 28-byte feed, lines of text and the log do not carry digests.
		NoDigest: cfg.IPFIXPort == 0 && cfg.IPFIXTLSPort == 0 && len(cfg.Exports) == 0,
	}
	if cfg.Fragments == "first" {
		c.Fragments = decode.FirstOnly
	}
	return c
}

// lookInside reports whether the decoder looks into the payload of UDP datagrams.
func (cfg *Config) lookInside() bool {
	c := cfg.decoder()
	return c.Inside()
}

// spoofInside reports whether packets with one of our addresses as source can only be
// recognized after decoding, because they may be inside BMF encapsulation or a tunnel.
func (cfg *Config) spoofInside() bool { return cfg.lookInside() && match.IsSpoof(cfg.Mode) }

// kernelMode returns the mode that the kernel's filter, or a file's, applies.
func (cfg *Config) kernelMode() string {
	if cfg.spoofInside() {
		return "dst" // the half that the Ethernet header decides
	}
	return cfg.Mode
}

// interfaceWait is how long the C program waits for an address.
const interfaceWait = 60 * time.Second

// captureCode returns the exit code for a capture that cannot be opened.
func captureCode(err error) int {
	if errors.Is(err, capture.ErrFilter) {
		return ExitFilterRefused
	}
	return ExitDevice
}

// printer writes whole lines on behalf of several goroutines.
type printer struct {
	mu     sync.Mutex
	w      io.Writer
	prefix string // after the program's name
}

// Write serves printers that write to this one.
func (p *printer) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.w.Write(line)
}

func (p *printer) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, "pcapper: "+p.prefix+format+"\n", args...)
}
