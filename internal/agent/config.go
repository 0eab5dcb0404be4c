// Package agent assembles the program pcapper: an interface, a filter, a
// capture, a decoder and a hub, whose readers are the attached collectors and
// the log.
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

// Exit codes of the program. Those before Usage are the C program's, where
// they are taken for the same reasons.
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
	// ExitRemoved: the interface was removed while it was watched.
	ExitRemoved = 5
	// ExitCerts: the files for TLS cannot be used.
	ExitCerts = 9
	// ExitConfine: privileges cannot be given up.
	ExitConfine = 10
	// ExitSpool: the directory of -spool cannot be used.
	ExitSpool = 11
)

// Defaults of the command line.
const (
	DefaultInterface = "eth0"
	AutoInterface    = "auto" // that of the default route
	DefaultPort      = 7073
	DefaultLog       = "pcapper.conf" // documented so since the first release
	DefaultMode      = "src"
	DefaultEngine    = "auto"
	DefaultTLSPort   = 7443
	// DefaultIPFIXTLSPort is for -ipfix-port with certificates (IANA: ipfixs).
	DefaultIPFIXTLSPort = 4740
	// DefaultMaxPerSource is far more than a host with collectors needs, and
	// far less than the files that an agent may open.
	DefaultMaxPerSource = 4096
)

// Config is what the command line says.
type Config struct {
	Interface   string // to watch
	MACFrom     string // take the MAC address from this one instead, if not ""
	Mode        string // src, dst, spoof, none or a pcap filter expression
	Port        int    // to listen on, 1 to 65,535; 0 is no plain feed
	Log         string // path of the text log
	Engine      string // auto, ring or libpcap
	IncludeSelf bool   // report the feed's own packets too
	Stats       bool   // report CPU and memory once a second
	RingBytes   int    // of the kernel's buffer, 0 for the default
	Fragments   string // every (or "") or first: what to report of fragments
	MarkRelayed bool   // say in the 28-byte record which packets were relayed
	BMF         bool   // look into BMF encapsulation
	Inner       bool   // look into tunnels
	Drops       bool   // report packets that the kernel drops, where that is possible
	Point       string // after (or ""), before or both: where packets are seen that a queue may drop
	Members     bool   // report multicast groups that the interface has joined
	// ExcludeFeeds is a collector.conf, or a directory of such files: the feeds of the agents in
	// it are not reported. "" is none.
	ExcludeFeeds string

	// Listen is the address that the feeds' ports are on; the zero Addr is all.
	Listen netip.Addr
	// TLS are the certificate, key and client authorities of the feed by TLS
	// on TLSPort. There is none if no file is named.
	TLS     certs.Files
	TLSPort int
	// IPFIXPort is where IPFIX is served, IPFIXTLSPort by TLS; 0 is nowhere.
	// PEN is the enterprise number of our own elements, 0 for ipfix.DefaultPEN.
	IPFIXPort, IPFIXTLSPort int
	PEN                     uint32
	// Exports are collectors of IPFIX that do not dial us.
	Exports []export.Target
	// Spool is where records wait for exports by TCP and TLS whose receiver is
	// away. Valid iff its Dir is not "".
	Spool spool.Spec
	// Allow are the networks that collectors may connect from; nil is any.
	Allow []netip.Prefix
	// MaxPerSource is the most connections from one address, 0 any number.
	MaxPerSource int

	// User is who a root agent becomes once it is set up, "" a choice of its
	// own; see sandbox.Config. Unconfined leaves everything as it is.
	User       string
	Unconfined bool
	// Verbose says more at the start.
	Verbose bool

	// Metrics is the host:port to serve metrics on by HTTP, "" for none.
	Metrics string

	// Read is a capture file to print instead of watching an interface; "-" is
	// standard input. MAC and Addrs are then those of the host that it was
	// taken on, as far as the mode asks for them.
	Read  string
	MAC   net.HardwareAddr
	Addrs []netip.Addr

	// Stderr takes everything the agent says, line by line; Stdout takes
	// Check's report.
	Stderr, Stdout io.Writer

	// Netns are network namespaces to watch instead of the own one: names of
	// ip-netns(8), numbers of processes, paths, AllCORE, or AllNamespaces.
	// Interfaces are names and patterns of those to watch there; see Several. Each interface's ports
	// are above Port, IPFIXPort, IPFIXTLSPort and TLSPort, as PortsFile says.
	Netns, Interfaces []string
	PortsFile         string

	// wait is how long an interface may take to become ready.
	wait time.Duration
}

// Several reports whether interfaces are watched that are looked for, in namespaces or by
// patterns, rather than the one that Interface names.
func (cfg *Config) Several() bool { return len(cfg.Netns) > 0 || len(cfg.Interfaces) > 0 }

// ports are those that the feeds are on.
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

// decoder is how the command line wants packets decoded.
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

// lookInside reports whether the decoder needs what UDP datagrams carry.
func (cfg *Config) lookInside() bool {
	c := cfg.decoder()
	return c.Inside()
}

// spoofInside: whether a packet has one of our addresses as its source can be
// told only after decoding, since it may be inside BMF encapsulation or a tunnel.
func (cfg *Config) spoofInside() bool { return cfg.lookInside() && match.IsSpoof(cfg.Mode) }

// kernelMode is the mode that the kernel, or a file's filter, applies.
func (cfg *Config) kernelMode() string {
	if cfg.spoofInside() {
		return "dst" // the half of it that the Ethernet header tells
	}
	return cfg.Mode
}

// interfaceWait is how long the C program waits for addresses.
const interfaceWait = 60 * time.Second

// captureCode is the exit code for a capture that cannot be opened.
func captureCode(err error) int {
	if errors.Is(err, capture.ErrFilter) {
		return ExitFilterRefused
	}
	return ExitDevice
}

// printer writes whole lines for several goroutines.
type printer struct {
	mu     sync.Mutex
	w      io.Writer
	prefix string // behind the program's name
}

// Write is for printers that write to this one.
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
