package collector

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/host/option"
)

// File is the contents of a collector.conf: the definitions of flows, and the agents to
// connect to. Both are in file order, which is the order of lines for a packet of
// several flows.
type File struct {
	Name  string // of the file, for messages
	Flows []Flow
	Hosts []Host
	// Notes are the problems that Check reports, in file order.
	Notes []Note

	sum [sha256.Size]byte // of the file's contents
}

// Note is a problem with a line of a File, and how the line was interpreted.
type Note struct {
	Line int
	Err  error
	// Read is the interpretation of the line, which is that of the C program. It is
	// empty if the line was skipped.
	Read string
	// Flow means that the line defines a flow, not an agent.
	Flow bool
	// Double means that the only problem is that the line, or its label, is a
	// duplicate.
	Double bool
}

// String returns the note without the file's name: "12: what is wrong; what was done".
func (n Note) String() string {
	if n.Read == "" {
		return fmt.Sprintf("%d: %v; the line is skipped", n.Line, n.Err)
	}
	return fmt.Sprintf("%d: %v; %s", n.Line, n.Err, n.Read)
}

// FlowKind is the kind of number that a flow line tests.
type FlowKind uint8

const (
	// Port: the destination port of TCP or UDP.
	Port FlowKind = iota
	// MGEN: the MGEN flow ID.
	MGEN
	// Service: the TCP or UDP port on either side, so that both directions of a
	// connection belong to the same flow. It does not occur in files.
	Service
)

// limit returns the highest number of a kind.
func (k FlowKind) limit() uint32 {
	if k == MGEN {
		return 1<<32 - 1
	}
	return 1<<16 - 1
}

// Flow is a line N=first-last or N=Mfirst-last.
type Flow struct {
	ID          uint32 // N; several lines may have the same N
	Kind        FlowKind
	First, Last uint32 // both inclusive; the flow matches nothing if First > Last
	Line        int    // line number in the file, from 1
}

// Host is a line label:host:port: an agent, and the name of its traffic on the grapher.
// Several agents may have the same label.
type Host struct {
	Label string // not empty; no colons, white space, or control characters
	Name  string // an IPv4 address, an IPv6 address without brackets, or a host name
	Port  uint16
	Line  int
	TLS   *HostTLS // nil without TLS
	IPFIX bool     // instead of 28-byte records
	PEN   uint32   // of the agent's own elements, 0 for ipfix.DefaultPEN; valid iff IPFIX
	// From means that the agent connects or sends to Config.Listen. It is identified by
	// its address, Name, or by node/interface, and Port is 0.
	From bool
}

// HostTLS holds the parameters of a line label:tls://host:port?cert=FILE&...
type HostTLS struct {
	certs.Files // those that are not "" override Config.TLS
	// Name is the name that the agent's certificate must be valid for, if not
	// Host.Name.
	Name string
}

// Address returns the host's address in the form that net.Dial accepts, or a log's
// path.
func (h *Host) Address() string {
	if h.Port == 0 { // not from a file
		return h.Name
	}
	return net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port)))
}

// String returns the line's text in its shortest form.
func (h Host) String() string {
	scheme := h.scheme()
	if scheme == "" {
		return h.Label + ":" + h.Address()
	}
	query := url.Values{}
	if h.TLS != nil {
		for _, p := range h.TLS.parameters() {
			if *p.value != "" {
				query.Set(p.key, *p.value)
			}
		}
	}
	if h.PEN != 0 {
		query.Set("pen", strconv.FormatUint(uint64(h.PEN), 10))
	}
	text := h.Label + ":" + scheme + "://" + h.Address()
	if len(query) > 0 {
		text += "?" + query.Encode()
	}
	return text
}

// scheme returns the scheme before "://", or "".
func (h *Host) scheme() string {
	switch {
	case h.From:
		return "from"
	case h.IPFIX && h.TLS != nil:
		return "ipfix+tls"
	case h.IPFIX:
		return "ipfix"
	case h.TLS != nil:
		return "tls"
	}
	return ""
}

// parameter is a key=value pair after the question mark.
type parameter struct {
	key   string
	value *string
}

func (t *HostTLS) parameters() []parameter {
	return []parameter{{"cert", &t.Cert}, {"key", &t.Key}, {"ca", &t.CA}, {"name", &t.Name}}
}

// Range returns what the flow matches, in the file's syntax: 2000, 2020-2029, M7.
func (f Flow) Range() string {
	b := make([]byte, 0, 24)
	if f.Kind == MGEN {
		b = append(b, 'M')
	}
	b = strconv.AppendUint(b, uint64(f.First), 10)
	if f.Last != f.First {
		b = append(b, '-')
		b = strconv.AppendUint(b, uint64(f.Last), 10)
	}
	return string(b)
}

// String returns the line's text in its shortest form.
func (f Flow) String() string {
	return strconv.FormatUint(uint64(f.ID), 10) + "=" + f.Range()
}

// String returns the text of a file that parses to the same as f, except for line
// numbers.
func (f *File) String() string {
	var b strings.Builder
	for _, flow := range f.Flows {
		fmt.Fprintln(&b, flow)
	}
	for _, host := range f.Hosts {
		fmt.Fprintln(&b, host)
	}
	return b.String()
}

// maxProblems is the maximum number of bad lines listed in an error.
const maxProblems = 20

// ConfigError lists the bad lines of a configuration file, each as "file:line: what is
// wrong: what was expected".
type ConfigError struct {
	Name     string
	Problems []string // at most maxProblems
	Total    int
}

func (e *ConfigError) Error() string {
	text := strings.Join(e.Problems, "\n")
	if more := e.Total - len(e.Problems); more > 0 {
		text += fmt.Sprintf("\n%s: %d more bad lines", e.Name, more)
	}
	return text
}

// ReadFile reads the configuration file called name. It fails only if the file cannot
// be read; problems in it are in Notes.
func ReadFile(name string) (*File, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, unreadable(name, err)
	}
	return Parse(name, data), nil
}

// ExitUnreadable is the exit code for a configuration file that cannot be read, as in
// the C program.
const ExitUnreadable = 3

func unreadable(name string, err error) error {
	return fault.WithCode(ExitUnreadable, fmt.Errorf("cannot read %q: %w", name, cause(err)))
}

// Parse parses data, the contents of the file called name. A line that does not follow
// collector.conf(5) is interpreted, or skipped, as the C program does, and reported in
// Notes.
func Parse(name string, data []byte) *File {
	p := parser{file: File{Name: name, sum: sha256.Sum256(data)}, agents: make(map[hostKey]int), labels: make(map[string]int), flows: make(map[Flow]int)}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	for text := range bytes.Lines(data) {
		p.line++
		p.parseLine(string(text))
	}
	return &p.file
}

// Check returns a *ConfigError with all Notes, and with a lack of agents.
func (f *File) Check() error {
	errs := ConfigError{Name: f.Name}
	for _, n := range f.Notes {
		errs.add(fmt.Sprintf("%s:%d: %v", f.Name, n.Line, n.Err))
	}
	if len(f.Hosts) == 0 {
		errs.add(f.NoAgents())
	}
	if errs.Total == 0 {
		return nil
	}
	return &errs
}

// WithHosts returns f with other agents; only its flows are kept.
func (f *File) WithHosts(hosts []Host) *File {
	return &File{Name: f.Name, Flows: f.Flows, Hosts: hosts,
		Notes: slices.DeleteFunc(slices.Clone(f.Notes), func(n Note) bool { return !n.Flow })}
}

// NoAgents returns the message that the file has no agents.
func (f *File) NoAgents() string {
	return f.Name + ": no agents: want at least one line label:host:port"
}

// Warnings returns the Notes as lines to print: at most maxProblems, and one that
// counts the rest.
func (f *File) Warnings() []string {
	errs := ConfigError{Name: f.Name}
	for _, n := range f.Notes {
		errs.add(fmt.Sprintf("%s:%v", f.Name, n))
	}
	if errs.Total == 0 {
		return nil
	}
	return strings.Split(errs.Error(), "\n")
}

func (e *ConfigError) add(problem string) {
	if e.Total++; e.Total <= maxProblems {
		e.Problems = append(e.Problems, problem)
	}
}

// hostKey identifies agents.
type hostKey struct {
	label, name string
	port        uint16
}

// parser parses a file line by line and continues after bad lines.
type parser struct {
	file   File
	line   int
	flow   bool            // the line defines a flow
	agents map[hostKey]int // line number
	labels map[string]int  // likewise
	flows  map[Flow]int    // likewise, with Line 0
}

func (p *parser) parseLine(text string) {
	text, _, _ = strings.Cut(text, "#")
	text = strings.TrimSpace(text)
	if text == "" {
		return
	}
	var err error
	var number, rest string
	if number, rest, p.flow = cutFlow(text); p.flow {
		err = p.addFlow(number, rest)
	} else if label, rest, ok := strings.Cut(text, ":"); ok {
		err = p.addHost(label, rest)
	} else {
		err = wrong(text, "not a line of this file",
			"a flow N=port, N=first-last, N=Mflow or N=Mfirst-last, or an agent label:host:port")
	}
	if err != nil {
		p.flow = strings.Contains(text, "=")
		p.note(err, p.readAsC(text), false)
	}
}

// wrong returns the error about a piece of a line, with what is wrong with it and what
// was expected.
func wrong(piece, problem, want string) error { return option.Wrong(piece, problem, want) }

// cutFlow splits a flow line at its equals sign. Because a label may contain one too, a
// line with a colon is a flow only if digits precede the sign.
func cutFlow(text string) (number, rest string, ok bool) {
	number, rest, ok = strings.Cut(text, "=")
	number, rest = strings.TrimSpace(number), strings.TrimSpace(rest)
	if !ok || strings.Contains(number, ":") {
		return "", "", false
	}
	return number, rest, option.IsDigits(number) || !strings.Contains(rest, ":")
}

func (p *parser) addFlow(number, rest string) error {
	flow := Flow{Line: p.line}
	var err error
	if flow.ID, err = parseNumber(number, 1<<32-1, "a flow number"); err != nil {
		return err
	}
	what := "a port"
	span, isMGEN := strings.CutPrefix(rest, "M")
	if isMGEN {
		flow.Kind, what = MGEN, "an MGEN flow ID"
	}
	first, last, isRange := strings.Cut(span, "-")
	if flow.First, err = parseNumber(first, flow.Kind.limit(), what); err != nil {
		return err
	}
	flow.Last = flow.First
	if isRange {
		if flow.Last, err = parseNumber(last, flow.Kind.limit(), what); err != nil {
			return err
		}
	}
	if flow.Last < flow.First {
		return wrong(rest, "range runs backwards", "first-last with first <= last")
	}
	p.appendFlow(flow)
	return nil
}

// appendFlow adds a flow, and notes a duplicate.
func (p *parser) appendFlow(flow Flow) {
	p.file.Flows = append(p.file.Flows, flow)
	flow.Line = 0
	if first := p.flows[flow]; first != 0 {
		p.note(wrong(flow.String(), fmt.Sprintf("the same flow as in line %d", first), "one of them"),
			"packets of it have two lines each", true)
		return
	}
	p.flows[flow] = p.line
}

// note records a problem with a line that was interpreted nevertheless.
func (p *parser) note(err error, read string, double bool) {
	p.file.Notes = append(p.file.Notes, Note{p.line, err, read, p.flow, double})
}

// parseNumber parses a number from 0 to limit, surrounded by optional white space.
func parseNumber(text string, limit uint32, what string) (uint32, error) {
	text = strings.TrimSpace(text)
	v, err := strconv.ParseUint(text, 10, 32)
	if err != nil || !option.IsDigits(text) || uint32(v) > limit {
		return 0, wrong(text, "not "+what, fmt.Sprintf("a number from 0 to %d", limit))
	}
	return uint32(v), nil
}

func (p *parser) addHost(label, rest string) error {
	host := Host{Label: strings.TrimSpace(label), Line: p.line}
	var err error
	if err = checkLabel(host.Label); err != nil {
		return err
	}
	if err = host.parseSource(strings.TrimSpace(rest)); err != nil {
		return err
	}
	return p.appendHost(host)
}

// appendHost adds an agent, and notes what it has in common with another one: the C
// program connects to both.
func (p *parser) appendHost(host Host) error {
	key := hostKey{host.Label, host.Name, host.Port}
	if host.From {
		key.label = ""
	}
	same, label := p.agents[key], p.labels[host.Label]
	if same != 0 && host.From {
		return wrong(host.String(), fmt.Sprintf("the same agent as in line %d", same), "another address: one address sends as one agent")
	}
	p.agents[key], p.labels[host.Label] = p.line, p.line
	p.file.Hosts = append(p.file.Hosts, host)
	switch {
	case same != 0:
		p.note(wrong(host.String(), fmt.Sprintf("the same agent as in line %d", same), "another label, host or port"),
			"both are dialled, so all its packets count twice", true)
	case label != 0:
		p.note(wrong(host.Label, fmt.Sprintf("the same label as in line %d", label), "another one"),
			"both agents are dialled, and shown under one label", true)
	}
	return nil
}

func checkLabel(label string) error {
	const want = "at least one character, without white space or control characters, before the first colon"
	if label == "" {
		return wrong(label, "no label", want)
	}
	bad := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
	if strings.ContainsFunc(label, bad) {
		return wrong(label, "not a label", want)
	}
	return nil
}

// parseSource parses what follows the label: host:port or scheme://host:port.
func (h *Host) parseSource(text string) (err error) {
	scheme, rest, ok := strings.Cut(text, "://")
	switch {
	case !ok:
		rest = text
	case scheme == "tls":
		h.TLS = &HostTLS{}
	case scheme == "ipfix":
		h.IPFIX = true
	case scheme == "from":
		return h.parseFrom(rest)
	case scheme == "ipfix+tls":
		h.TLS, h.IPFIX = &HostTLS{}, true
	default:
		return wrong(text, "sources of kind "+strconv.Quote(scheme)+" are not supported",
			"an agent label:host:port, label:tls://host:port, label:ipfix://host:port, label:ipfix+tls://host:port or label:from://address")
	}
	if ok {
		var query string
		if rest, query, ok = strings.Cut(rest, "?"); ok {
			if err := h.params().Parse(query); err != nil {
				return err
			}
		}
	}
	h.Name, h.Port, err = option.ParseHostPort(rest, 0)
	return err
}

// parseFrom parses the address of an agent that sends to us, or the name of its
// observation point: node/interface.
func (h *Host) parseFrom(text string) error {
	if _, ok := observed(text); ok {
		h.From, h.IPFIX, h.Name = true, true, text
		return nil
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil || a.Zone() != "" {
		return wrong(text, "not an address", "the address that the agent sends from, or node/interface as it calls them")
	}
	h.From, h.IPFIX, h.Name = true, true, a.Unmap().String()
	return nil
}

// params returns the parameters of a source.
func (h *Host) params() (p option.Params) {
	if h.TLS != nil {
		for _, one := range h.TLS.parameters() {
			p = append(p, option.Text(one.key, "FILE", "", one.value))
		}
	}
	if h.IPFIX {
		p = append(p, option.Number("pen", "", &h.PEN, 0, 1<<32-1))
	}
	return p
}

// cause returns the innermost error of err that still explains it; the paths and
// addresses added by wrapping errors are already in the message.
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
