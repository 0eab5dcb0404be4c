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

// File is what a collector.conf says: which traffic is which flow, and which
// agents to dial. Both are in file order, which decides the order of lines for
// a packet of several flows.
type File struct {
	Name  string // of the file, for messages
	Flows []Flow
	Hosts []Host
	// Notes are the lines that Check rejects, in file order.
	Notes []Note

	sum [sha256.Size]byte // of the file's contents
}

// Note is what is wrong with a line of a File, and what was made of it.
type Note struct {
	Line int
	Err  error
	// Read is what the line was taken for: what the C program makes of it. It is
	// empty if the line was skipped.
	Read string
	// Flow: it is a flow's line and no agent's.
	Flow bool
	// Double: nothing is wrong but that the file has it, or its label, before.
	Double bool
}

// String is the note without the file's name: "12: what is wrong; what was done".
func (n Note) String() string {
	if n.Read == "" {
		return fmt.Sprintf("%d: %v; the line is skipped", n.Line, n.Err)
	}
	return fmt.Sprintf("%d: %v; %s", n.Line, n.Err, n.Read)
}

// FlowKind is what a flow line looks at.
type FlowKind uint8

const (
	// Port: the destination port of TCP or UDP.
	Port FlowKind = iota
	// MGEN: the MGEN flow ID.
	MGEN
	// Service: the port of TCP or UDP on either side, so that what a server sends
	// belongs to the same flow as what it is sent. No line of a file says so.
	Service
)

// limit is the highest number of a kind.
func (k FlowKind) limit() uint32 {
	if k == MGEN {
		return 1<<32 - 1
	}
	return 1<<16 - 1
}

// Flow is a line N=first-last or N=Mfirst-last.
type Flow struct {
	ID          uint32 // N; several lines may have the same
	Kind        FlowKind
	First, Last uint32 // both included; the flow matches nothing if First > Last
	Line        int    // in the file, from 1
}

// Host is a line label:host:port: an agent, and the name its traffic has on
// the grapher. Several agents may have the same label.
type Host struct {
	Label string // neither empty nor with colon, white space or control characters
	Name  string // an address, an IPv6 one without brackets, or a host name
	Port  uint16
	Line  int
	TLS   *HostTLS // nil: without TLS
	IPFIX bool     // instead of 28-byte records
	PEN   uint32   // of the agent's own elements, 0 for ipfix.DefaultPEN. Valid iff IPFIX
	// From: the agent is not dialled but sends to Config.Listen; it is known by
	// its address, Name, or by node/interface, and Port is 0.
	From bool
}

// HostTLS is what a line label:tls://host:port?cert=FILE&... says beyond the
// address.
type HostTLS struct {
	certs.Files // those that are not "" take the place of Config.TLS
	// Name is what the agent's certificate must be for, if not Host.Name.
	Name string
}

// Address is the host's address as net.Dial takes it, or a log's path.
func (h *Host) Address() string {
	if h.Port == 0 { // not of a file
		return h.Name
	}
	return net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port)))
}

// String is the line's text in its shortest form.
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

// scheme is what stands before "://", if anything.
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

// parameter is one key=value behind the question mark.
type parameter struct {
	key   string
	value *string
}

func (t *HostTLS) parameters() []parameter {
	return []parameter{{"cert", &t.Cert}, {"key", &t.Key}, {"ca", &t.CA}, {"name", &t.Name}}
}

// Range is what the flow looks for, as the file has it: 2000, 2020-2029, M7.
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

// String is the line's text in its shortest form.
func (f Flow) String() string {
	return strconv.FormatUint(uint64(f.ID), 10) + "=" + f.Range()
}

// String is a file that reads as f does, the line numbers apart.
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

// maxProblems is how many bad lines one error names.
const maxProblems = 20

// ConfigError names the bad lines of a configuration file, each as
// "file:line: what is wrong: what was expected".
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

// ReadFile reads the configuration file called name. Only a file that cannot be
// read is an error: what is wrong in it is in Notes.
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

// Parse reads data, the contents of the file called name. A line that is not as
// collector.conf(5) describes is read as the C program reads it, or skipped if
// that skips it; Notes has both.
func Parse(name string, data []byte) *File {
	p := parser{file: File{Name: name, sum: sha256.Sum256(data)}, agents: make(map[hostKey]int), labels: make(map[string]int), flows: make(map[Flow]int)}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	for text := range bytes.Lines(data) {
		p.line++
		p.parseLine(string(text))
	}
	return &p.file
}

// Check returns a *ConfigError with all Notes, and the want of agents.
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

// WithHosts is f with other agents: only what it says of flows is left.
func (f *File) WithHosts(hosts []Host) *File {
	return &File{Name: f.Name, Flows: f.Flows, Hosts: hosts,
		Notes: slices.DeleteFunc(slices.Clone(f.Notes), func(n Note) bool { return !n.Flow })}
}

// NoAgents says that the file has no agents.
func (f *File) NoAgents() string {
	return f.Name + ": no agents: want at least one line label:host:port"
}

// Warnings are the Notes as lines to print, at most maxProblems and one that
// counts the others.
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

// hostKey is what tells agents apart.
type hostKey struct {
	label, name string
	port        uint16
}

// parser reads a file line by line and goes on after a bad one.
type parser struct {
	file   File
	line   int
	flow   bool            // it is a flow's line
	agents map[hostKey]int // line number
	labels map[string]int  // likewise
	flows  map[Flow]int    // likewise; Line is 0
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

// wrong is the error for a piece of a line: the piece, what is wrong with it,
// and what was expected.
func wrong(piece, problem, want string) error { return option.Wrong(piece, problem, want) }

// cutFlow splits a flow line at its equals sign. A label may have one too, so
// a line with a colon is a flow only if digits come before the sign.
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

// appendFlow adds a flow, and notes if the file has it already.
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

// note notes what is wrong with a line that was read nevertheless.
func (p *parser) note(err error, read string, double bool) {
	p.file.Notes = append(p.file.Notes, Note{p.line, err, read, p.flow, double})
}

// parseNumber reads a number from 0 to limit, with white space around it.
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

// appendHost adds an agent, and notes what it shares with another one: the C
// program dials both.
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

// parseSource reads what follows the label: host:port or scheme://host:port.
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

// parseFrom reads the address of an agent that is not dialled, or what it calls
// what it observes: node/interface.
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

// params are the parameters of a source.
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

// cause is the innermost error of err that still says why: paths and
// addresses around it are in the message already.
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
