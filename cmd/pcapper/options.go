package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pcapper/pcapper/internal/agent"
)

// action is what one call of the program does.
type action int

const (
	actionRun action = iota
	actionHelp
	actionVersion
	actionList
	actionCheck
	actionRead
)

// command is a parsed command line.
type command struct {
	action action
	cfg    agent.Config
}

// usageError carries the exit code of a wrong command line.
type usageError struct{ error }

func (usageError) Hint() string { return "pcapper -h explains all flags" }

// missingValue has the exit codes of flags without their value.
var missingValue = map[string]int{
	"f": agent.ExitNoLogFile,
	"i": agent.ExitNoInterface,
	"m": agent.ExitNoMode,
	"p": agent.ExitNoPort,
}

// options is the flag set, and what its flags set.
type options struct {
	*flag.FlagSet
	cmd                        command
	port, obsolete, mac, ip    string
	help, version, list, check bool
}

func newOptions() *options {
	o := &options{FlagSet: flag.NewFlagSet("pcapper", flag.ContinueOnError)}
	cfg := &o.cmd.cfg
	o.SetOutput(io.Discard)
	o.StringVar(&cfg.Interface, "i", agent.DefaultInterface, "watch this `interface`")
	o.StringVar(&o.port, "p", strconv.Itoa(agent.DefaultPort), "listen for collectors on this TCP `port`, on all addresses")
	o.StringVar(&cfg.Mode, "m", agent.DefaultMode, "`mode`: which packets; see below")
	o.StringVar(&cfg.Log, "f", agent.DefaultLog, "log every packet to this `file` while anyone collects")
	o.StringVar(&cfg.MACFrom, "r", "", "take the MAC address from this other `interface` (the bridge of a bridge port)")
	o.StringVar(&cfg.Engine, "engine", agent.DefaultEngine, "capture `engine`: auto, ring, or libpcap in a build that has it")
	o.BoolVar(&cfg.IncludeSelf, "include-self", false, "report the feed's own packets too")
	o.StringVar(&cfg.Fragments, "fragments", "every", "`which` fragments of a datagram to report: every, or first")
	o.BoolVar(&cfg.MarkRelayed, "mark-relayed", false, "mark packets that this host sent for others, in the record's last byte")
	o.BoolVar(&cfg.BMF, "bmf", false, "look into BMF encapsulation (olsrd): report the packet inside")
	o.StringVar(&cfg.Read, "read", "", "print the packets of a capture `file` (- is standard input) and exit")
	o.StringVar(&o.mac, "mac", "", "with -read: the `address` that -m calls MAC")
	o.StringVar(&o.ip, "ip", "", "with -read: the `addresses` that -m calls IP, separated by commas")
	o.BoolVar(&cfg.Stats, "stats", false, "also report this host's CPU and memory once a second")
	o.StringVar(&o.obsolete, "s", "", "obsolete server `interface`; accepted, warned of, and ignored")
	o.BoolVar(&o.check, "check", false, "try everything, report engine, filter and addresses, and exit")
	o.BoolVar(&o.list, "D", false, "list the interfaces with their state and addresses, and exit")
	o.BoolVar(&o.version, "version", false, "print the version and exit")
	o.BoolVar(&o.help, "h", false, "print this help and exit")
	return o
}

// parse reads the command line. Warnings go to stderr.
func parse(args []string, stderr io.Writer) (command, error) {
	o := newOptions()
	if err := o.Parse(args); err != nil && !errors.Is(err, flag.ErrHelp) {
		return command{}, flagError(err)
	} else if err != nil {
		o.help = true // -help, --help
	}
	if o.help {
		return command{action: actionHelp}, nil
	}
	if o.NArg() > 0 {
		return command{}, wrong(agent.ExitUsage, "unexpected argument %q: a filter expression is one argument of -m", o.Arg(0))
	}
	port, err := strconv.ParseUint(o.port, 10, 16)
	if err != nil || port == 0 {
		return command{}, wrong(agent.ExitBadPort, "-p %q: want a port from 1 to 65535", o.port)
	}
	o.cmd.cfg.Port = int(port)
	for name, code := range missingValue {
		if o.Lookup(name).Value.String() == "" && name != "m" {
			return command{}, wrong(code, "-%s needs a value", name)
		}
	}
	given := map[string]bool{}
	o.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if given["s"] {
		fmt.Fprintf(stderr, "pcapper: warning: -s is obsolete and does nothing: collectors are served on all interfaces\n")
	}
	if err := o.file(given); err != nil {
		return command{}, err
	}
	if f := o.cmd.cfg.Fragments; f != "every" && f != "first" {
		return command{}, wrong(agent.ExitUsage, "-fragments %q: want every or first", f)
	}
	switch {
	case o.version:
		o.cmd.action = actionVersion
	case o.list:
		o.cmd.action = actionList
	case o.check:
		o.cmd.action = actionCheck
	case given["read"]:
		o.cmd.action = actionRead
	}
	return o.cmd, nil
}

// file settles what belongs to -read.
func (o *options) file(given map[string]bool) error {
	cfg := &o.cmd.cfg
	if !given["read"] {
		if given["mac"] || given["ip"] {
			return wrong(agent.ExitUsage, "-mac and -ip belong to -read; an interface has its own")
		}
		return nil
	}
	if cfg.Read == "" {
		return wrong(agent.ExitUsage, "-read needs a value")
	}
	if !given["m"] {
		cfg.Mode = "none"
	}
	if o.mac != "" {
		mac, err := net.ParseMAC(o.mac)
		if err != nil || len(mac) != 6 {
			return wrong(agent.ExitUsage, "-mac %q: want an Ethernet address such as 02:00:00:00:00:0a", o.mac)
		}
		cfg.MAC = mac
	}
	for _, text := range strings.FieldsFunc(o.ip, func(r rune) bool { return r == ',' }) {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return wrong(agent.ExitUsage, "-ip %q: want IP addresses, separated by commas", o.ip)
		}
		cfg.Addrs = append(cfg.Addrs, a)
	}
	return nil
}

func wrong(code int, format string, args ...any) error {
	return &agent.Error{Code: code, Err: usageError{fmt.Errorf(format, args...)}}
}

// flagError gives the flag package's errors their exit codes.
func flagError(err error) error {
	if name, ok := strings.CutPrefix(err.Error(), "flag needs an argument: -"); ok {
		code, known := missingValue[name]
		if !known {
			code = agent.ExitUsage
		}
		return wrong(code, "-%s needs a value", name)
	}
	return wrong(agent.ExitUsage, "%w", err)
}

// usage is the help text. The flags' part is made from their definitions, so
// that it cannot differ from them.
func usage() string {
	var b strings.Builder
	b.WriteString(`Usage: pcapper [-f file] [-p port] [-i interface] [-m mode] [options]

Watches one network interface, turns each packet into a small record (time,
addresses, ports, length, MGEN flow ID, protocol) and sends it to every
collector that connects, such as recollect.

Options:
`)
	newOptions().VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		head := "  -" + f.Name
		if value != "" {
			head += " " + value
		}
		if f.DefValue != "" && f.DefValue != "false" {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(&b, "%-19s %s\n", head, text)
	})
	b.WriteString(`
Modes of -m, MAC and IP being those of the watched interface:
  src                what this host sends: ether src MAC
  dst                what it receives: ether src not MAC
  spoof              what others send with its address: src IP and ether src not MAC
  none               everything
  expression         any pcap filter, see pcap-filter(7); %m stands for the MAC, %i for the
                     IPv4 address, and % before any other character is dropped

Examples:
  pcapper -i eth1                      report what this host sends on eth1
  pcapper -i eth1 -m dst -p 7074       report what it receives, to collectors on port 7074
  pcapper -i wlan0 -m none -f all.log  report everything, and keep it in all.log
  pcapper -i eth0 -m 'udp and not ether src %m'
                                       report the UDP packets of others
  pcapper -i br0 -check                see whether it would work, and how

Try it: recollect with the line "1:127.0.0.1:7073" in collector.conf, or
  printf 'text\n' | nc 127.0.0.1 7073
Signals: HUP reopens the log, USR1 prints a summary, INT and TERM end with one.
`)
	return b.String()
}
