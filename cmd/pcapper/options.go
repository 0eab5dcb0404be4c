package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pcapper/pcapper/internal/agent"
	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// action is what one invocation of the program does.
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
	action   action
	cfg      agent.Config
	untilEOF bool // end when standard input does
}

// missingValue holds the exit codes for flags without their value.
var missingValue = map[string]int{
	"f": agent.ExitNoLogFile,
	"i": agent.ExitNoInterface,
	"m": agent.ExitNoMode,
	"p": agent.ExitNoPort,
}

// options is the flag set, and the variables that its flags set.
type options struct {
	*flag.FlagSet
	cmd                        command
	port, obsolete, mac, ip    string
	tlsPort, listen, allow     string
	ipfixPort, ipfixTLSPort    string
	pen                        uint
	help, version, list, check bool
	interfaces                 lastOf
}

// lastOf is the value of -i. A repeated -i overrides the previous one, as in the C
// agent, because wrappers rely on that.
type lastOf struct {
	value *string
	all   []string // all values given
}

func (l *lastOf) String() string {
	if l.value == nil { // the flag package calls it on a zero value
		return ""
	}
	return *l.value
}

func (l *lastOf) Set(v string) error {
	*l.value, l.all = v, append(l.all, v)
	return nil
}

// note says that earlier values were overridden, or returns "".
func (l *lastOf) note() string {
	if len(slices.Compact(slices.Sorted(slices.Values(l.all)))) < 2 {
		return ""
	}
	return fmt.Sprintf("-i is given %d times: watching %s, the last one; -i %s watches all",
		len(l.all), *l.value, strings.Join(l.all, ","))
}

func newOptions() *options {
	o := &options{FlagSet: flag.NewFlagSet("pcapper", flag.ContinueOnError)}
	cfg := &o.cmd.cfg
	o.SetOutput(io.Discard)
	cfg.Interface = agent.DefaultInterface
	o.interfaces.value = &cfg.Interface
	o.Var(&o.interfaces, "i", "watch this `interface`, or several: eth*, eth0,lo; auto: see below")
	o.Func("netns", "watch this network `namespace`: a name, a process ID, "+agent.AllCORE+", or "+agent.AllNamespaces+"; repeatable", func(v string) error {
		if v == "" {
			return errors.New("want a name of ip-netns, a process's number, a path, " + agent.AllCORE + ", or " + agent.AllNamespaces)
		}
		cfg.Netns = append(cfg.Netns, v)
		return nil
	})
	o.StringVar(&cfg.PortsFile, "ports", "", "record each interface's port in this `file`, a collector.conf")
	o.StringVar(&o.port, "p", strconv.Itoa(agent.DefaultPort), "listen for collectors on this TCP `port`; 0: no plain feed")
	o.StringVar(&o.listen, "listen", "", "listen on this `address` of this host instead of all")
	o.StringVar(&o.allow, "allow", "", "accept collectors only from these `networks`, such as 10.0.0.0/8,192.168.1.7")
	o.IntVar(&cfg.MaxPerSource, "max-per-source", agent.DefaultMaxPerSource, "accept at most this `number` of connections from one address")
	o.StringVar(&cfg.TLS.Cert, "tls-cert", "", "serve collectors over TLS with this certificate `file`")
	o.StringVar(&cfg.TLS.Key, "tls-key", "", "`file` with the certificate's key")
	o.StringVar(&cfg.TLS.CA, "tls-client-ca", "", "`file` with the authorities that must have signed collectors' certificates")
	o.StringVar(&o.tlsPort, "tls-port", strconv.Itoa(agent.DefaultTLSPort), "listen for collectors over TLS on this TCP `port`")
	o.StringVar(&cfg.Metrics, "metrics", "", "serve metrics for Prometheus on this `address`, such as 127.0.0.1:9173")
	o.StringVar(&o.ipfixPort, "ipfix-port", "0", "serve IPFIX on this TCP `port` (4739 is usual); 0: don't")
	o.StringVar(&o.ipfixTLSPort, "ipfix-tls-port", "0", "serve IPFIX over TLS on this TCP `port`; 4740 with -ipfix-port")
	o.UintVar(&o.pen, "pen", ipfix.DefaultPEN, "private enterprise `number` of PCapper's IPFIX elements")
	o.StringVar(&cfg.User, "user", "", "`user` to switch to after startup (default: pcapper or nobody, if possible)")
	o.BoolVar(&cfg.Unconfined, "unconfined", false, "keep all privileges")
	o.BoolVar(&cfg.Verbose, "v", false, "report at startup which privileges were dropped")
	o.Func("export", "send records to this `URL`, such as ipfix+udp://10.0.0.9, see below; repeatable", func(v string) error {
		t, err := export.Parse(v)
		cfg.Exports = append(cfg.Exports, t)
		return err
	})
	o.Func("spool", "queue records in `DIR:SIZE`, such as /var/spool/x:2GB, while receivers are away", func(v string) (err error) {
		cfg.Spool, err = spool.Parse(v)
		return err
	})
	o.StringVar(&cfg.Mode, "m", agent.DefaultMode, "`mode`: which packets; see below")
	o.StringVar(&cfg.Log, "f", agent.DefaultLog, "log packets to this `file` while a collector is attached")
	o.StringVar(&cfg.MACFrom, "r", "", "take the MAC address from this other `interface` (the bridge of a bridge port)")
	o.StringVar(&cfg.Engine, "engine", agent.DefaultEngine, "capture `engine`: auto, ebpf, ring, or libpcap if built in")
	o.BoolVar(&cfg.IncludeSelf, "include-self", false, "report the feed's own packets too")
	o.StringVar(&cfg.ExcludeFeeds, "exclude-feeds", "", "do not report the feeds of the agents in this `file`, a collector.conf")
	o.StringVar(&cfg.Fragments, "fragments", "every", "`which` fragments of a datagram to report: every, or first")
	o.BoolVar(&cfg.MarkRelayed, "mark-relayed", false, "mark packets that this host relayed, in the record's last byte")
	o.BoolVar(&cfg.BMF, "bmf", false, "look into BMF encapsulation (olsrd): report the packet inside")
	o.BoolVar(&cfg.Inner, "inner", false, "look into tunnels (VXLAN, Geneve, GRE, IP in IP, MPLS): report the packet inside")
	o.BoolVar(&cfg.Drops, "drops", true, "tell IPFIX collectors which packets the kernel drops, and why")
	o.StringVar(&cfg.Point, "point", "after", "see sent packets after a queue, before it, or both: `where`")
	o.BoolVar(&cfg.Members, "members", true, "tell IPFIX collectors the multicast groups of the interface")
	o.StringVar(&cfg.Read, "read", "", "print the packets of a capture `file` (- is standard input) and exit")
	o.StringVar(&o.mac, "mac", "", "with -read: the `address` that -m calls MAC")
	o.StringVar(&o.ip, "ip", "", "with -read: the `addresses` that -m calls IP, separated by commas")
	o.BoolVar(&cfg.Stats, "stats", false, "also report CPU and memory, the host's or the PID namespace's, once a second")
	o.StringVar(&o.obsolete, "s", "", "obsolete server `interface`; ignored with a warning")
	o.BoolVar(&o.cmd.untilEOF, "until-eof", false, "end when standard input does, as when the program that started this one ends")
	o.BoolVar(&o.check, "check", false, "check whether everything works, report engine, filter, and addresses, and exit")
	o.BoolVar(&o.list, "D", false, "list the interfaces with their state and addresses, and exit")
	o.BoolVar(&o.version, "version", false, "print the version and exit")
	o.BoolVar(&o.help, "h", false, "print this help and exit")
	return o
}

// parse parses the command line. Warnings are printed to stderr.
func parse(args []string, stderr io.Writer) (command, error) {
	o := newOptions()
	err := o.Parse(args)
	if again, ok := withoutEmptyR(o, args, err); ok {
		fmt.Fprintln(stderr, "pcapper: warning: -r has no value and is ignored: want the interface to take the MAC address from")
		return parse(again, stderr)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return command{}, flagError(o.FlagSet, err)
	} else if err != nil {
		o.help = true // -help, --help
	}
	if o.help {
		return command{action: actionHelp}, nil
	}
	if o.NArg() > 0 {
		return command{}, wrong(agent.ExitUsage, "unexpected argument %q: a filter expression is one argument of -m", o.Arg(0))
	}
	for name, code := range missingValue {
		if o.Lookup(name).Value.String() == "" && name != "m" && name != "f" {
			return command{}, wrong(code, "-%s needs a value", name)
		}
	}
	if note := o.interfaces.note(); note != "" {
		fmt.Fprintf(stderr, "pcapper: note: %s\n", note)
	}
	if o.cmd.cfg.Log == "" {
		fmt.Fprintln(stderr, "pcapper: note: -f is empty: no log is written")
		o.cmd.cfg.Log = os.DevNull
	}
	if err := o.plainPort(stderr); err != nil {
		return command{}, err
	}
	if err := o.feed(); err != nil {
		return command{}, err
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
	if err := o.many(given); err != nil {
		return command{}, err
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

// withoutEmptyR returns args without a -r that has no value, which the C agent accepts:
// the last argument, or one before another flag, as in a script whose variable for the
// value is empty. err is the error of parsing args.
func withoutEmptyR(o *options, args []string, err error) (without []string, ok bool) {
	isR := func(arg string) bool { return arg == "-r" || arg == "--r" }
	if err != nil && err.Error() == "flag needs an argument: -r" {
		return args[:len(args)-1], true
	}
	value := o.cmd.cfg.MACFrom
	if !strings.HasPrefix(value, "-") || o.Lookup(strings.TrimLeft(value, "-")) == nil {
		return nil, false
	}
	for n, arg := range args[:len(args)-1] {
		if isR(arg) && args[n+1] == value {
			return slices.Delete(slices.Clone(args), n, n+1), true
		}
	}
	return nil, false
}

// plainPort parses -p as the C agent does, with atoi(3): white space and a sign may
// precede the number, and anything after it is ignored.
func (o *options) plainPort(stderr io.Writer) error {
	text := strings.TrimPrefix(strings.TrimLeft(o.port, " \t\n\v\f\r"), "+")
	digits := text[:len(text)-len(strings.TrimLeft(text, "0123456789"))]
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return wrong(agent.ExitBadPort, "-p %q: want a port from 1 to 65535", o.port)
	}
	if digits != text {
		fmt.Fprintf(stderr, "pcapper: warning: -p %q is read as port %d\n", o.port, port)
	}
	o.cmd.cfg.Port = int(port)
	return nil
}

// feed parses where collectors connect, and who may.
func (o *options) feed() error {
	cfg := &o.cmd.cfg
	for _, f := range []struct {
		name, value string
		port        *int
	}{
		{"tls-port", o.tlsPort, &cfg.TLSPort},
		{"ipfix-port", o.ipfixPort, &cfg.IPFIXPort}, {"ipfix-tls-port", o.ipfixTLSPort, &cfg.IPFIXTLSPort},
	} {
		port, err := strconv.ParseUint(f.value, 10, 16)
		if err != nil || port == 0 && f.name == "tls-port" {
			return wrong(agent.ExitBadPort, "-%s %q: want a port from 1 to 65535", f.name, f.value)
		}
		*f.port = int(port)
	}
	for _, f := range []struct{ name, value string }{
		{"tls-cert", cfg.TLS.Cert}, {"tls-key", cfg.TLS.Key}, {"tls-client-ca", cfg.TLS.CA},
	} {
		if cfg.TLS.Any() && f.value == "" {
			return wrong(agent.ExitUsage, "-%s is missing: TLS takes -tls-cert, -tls-key and -tls-client-ca", f.name)
		}
	}
	if cfg.TLS.Any() && cfg.IPFIXPort != 0 && !o.given("ipfix-tls-port") {
		cfg.IPFIXTLSPort = agent.DefaultIPFIXTLSPort
	}
	if cfg.Port == 0 && !cfg.TLS.Any() && cfg.IPFIXPort == 0 && len(cfg.Exports) == 0 {
		return wrong(agent.ExitBadPort, "-p %q: want a port from 1 to 65535, or 0 together with -tls-cert, -ipfix-port or -export", o.port)
	}
	if cfg.IPFIXTLSPort != 0 && !cfg.TLS.Any() {
		return wrong(agent.ExitUsage, "-ipfix-tls-port takes -tls-cert, -tls-key and -tls-client-ca")
	}
	if err := o.spool(); err != nil {
		return err
	}
	type listener struct {
		name string
		port int
		on   bool
	}
	listeners := []listener{
		{"-p", cfg.Port, cfg.Port != 0}, {"-tls-port", cfg.TLSPort, cfg.TLS.Any()},
		{"-ipfix-port", cfg.IPFIXPort, cfg.IPFIXPort != 0}, {"-ipfix-tls-port", cfg.IPFIXTLSPort, cfg.IPFIXTLSPort != 0},
	}
	for _, t := range cfg.Exports {
		listeners = append(listeners, listener{"repair= of " + t.URL, int(t.Repair), t.Repair != 0})
	}
	used := map[int]string{}
	for _, f := range listeners {
		if other := used[f.port]; f.on && other != "" {
			return wrong(agent.ExitBadPort, "%s and %s are both %d: want two ports", other, f.name, f.port)
		} else if f.on {
			used[f.port] = f.name
		}
	}
	if o.pen == 0 || o.pen > math.MaxUint32 {
		return wrong(agent.ExitBadPort, "-pen %d: want a private enterprise number from 1 to 4294967295", o.pen)
	}
	cfg.PEN = uint32(o.pen)
	if cfg.MaxPerSource < 0 {
		return wrong(agent.ExitBadPort, "-max-per-source %d: want a number from 0 on", cfg.MaxPerSource)
	}
	if _, _, err := net.SplitHostPort(cfg.Metrics); err != nil && cfg.Metrics != "" {
		return wrong(agent.ExitBadPort, "-metrics %q: want address:port, such as 127.0.0.1:9173", cfg.Metrics)
	}
	var err error
	if o.listen != "" {
		if cfg.Listen, err = netip.ParseAddr(strings.Trim(o.listen, "[]")); err != nil {
			return wrong(agent.ExitBadPort, "-listen %q: want an IP address; the port is that of -p", o.listen)
		}
	}
	if cfg.Allow, err = option.Networks(o.allow); err != nil {
		return wrong(agent.ExitBadPort, "-allow %v", err)
	}
	return nil
}

// many parses the options for several interfaces.
func (o *options) many(given map[string]bool) error {
	cfg := &o.cmd.cfg
	several := len(cfg.Netns) > 0 || agent.IsPattern(cfg.Interface)
	switch {
	case !several && cfg.PortsFile != "":
		return wrong(agent.ExitUsage, "-ports is for several interfaces: want -netns, or -i with a pattern or a list")
	case !several:
		return nil
	case given["read"], o.check:
		return wrong(agent.ExitUsage, "-read and -check are for one interface: want no -netns, and -i with a name")
	}
	if given["i"] {
		if slices.Contains(strings.Split(cfg.Interface, ","), agent.AutoInterface) {
			return wrong(agent.ExitNoInterface, "-i %s: %s is for one interface: name it, or give a pattern", cfg.Interface, agent.AutoInterface)
		}
		cfg.Interfaces = strings.FieldsFunc(cfg.Interface, func(r rune) bool { return r == ',' })
		if err := agent.CheckPatterns(cfg.Interfaces); err != nil {
			return wrong(agent.ExitNoInterface, "%w", err)
		}
	}
	if !given["f"] {
		cfg.Log = os.DevNull
	}
	return nil
}

// spool validates the use of -spool.
func (o *options) spool() error {
	cfg := &o.cmd.cfg
	if cfg.Spool.Dir == "" {
		return nil
	}
	switch share, n := cfg.SpoolShare(); {
	case n == 0:
		return wrong(agent.ExitUsage, "-spool: nothing waits there: want -export with ipfix+tcp://, ipfix+tls:// or nats://")
	case share < spool.MinSize:
		return wrong(agent.ExitUsage, "-spool: %d exports share %d bytes: want at least %d for each", n, cfg.Spool.Size, spool.MinSize)
	}
	return nil
}

// given reports whether a flag is on the command line.
func (o *options) given(name string) (given bool) {
	o.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// file validates the options for -read.
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
	return fault.WithCode(code, fault.WithHint(fmt.Errorf(format, args...), "pcapper -h explains all flags"))
}

// flagError adds exit codes to errors of the flag package.
func flagError(flags *flag.FlagSet, err error) error {
	if name, ok := strings.CutPrefix(err.Error(), "flag needs an argument: -"); ok {
		code, known := missingValue[name]
		if !known {
			code = agent.ExitUsage
		}
		return wrong(code, "-%s needs a value", name)
	}
	return wrong(agent.ExitUsage, "%w", option.Explain(flags, err))
}

// usage returns the help text. The descriptions of flags are generated from their
// definitions, so that they cannot differ.
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
Modes of -m (MAC and IP are those of the watched interface):
  src                what this host sends: ether src MAC
  dst                what it receives: ether src not MAC
  spoof              what others send with its address: src IP and ether src not MAC
  none               everything
  expression         any pcap filter, see pcap-filter(7); %m stands for the MAC, %i for the
                     IPv4 address, and % before any other character is dropped

URLs of -export:
` + export.Outputs.Help("  ", 100) + `
-i auto is the interface of the default route, of IPv4 or, if there is none, of IPv6.

Examples:
  pcapper -i eth1                      report what this host sends on eth1
  pcapper -i eth1 -m dst -p 7074       report what it receives, to collectors on port 7074
  pcapper -i eth0 -m 'udp and not ether src %m'
                                       report the UDP packets of others
  pcapper -i br0 -check                check whether it would work, and how
  pcapper cert -h                      how to create certificates and require them

Try it: recollect with the line "1:127.0.0.1:7073" in collector.conf, or
  printf 'text\n' | nc 127.0.0.1 7073
Signals: HUP reopens log and certificates, USR1 prints a summary, INT and TERM print it and exit.
`)
	return b.String()
}
