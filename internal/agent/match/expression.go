package match

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// compileTimeout bounds the time of a compiler: an expression may contain host names,
// and name servers may not answer.
const compileTimeout = 10 * time.Second

// A source is the input of a compiler.
type source struct {
	expression string
	link       dataLink
	// device is the interface to compile for, or "". Knowing it, the compiler makes
	// "vlan" also test the tag that the kernel has removed from the frame.
	device string
}

// dataLink is a link type by libpcap's number and name.
type dataLink struct {
	name   string
	number int
}

// The link types for which programs are compiled. Frames without a link header but with
// a protocol are compiled as if they had a Linux "cooked" header, which has that
// protocol, and the direction, at fixed offsets.
var (
	linkEthernet = dataLink{"EN10MB", 1}
	linkCooked   = dataLink{"LINUX_SLL", 113}
	linkRawIP    = dataLink{"RAW", 12}
	link80211    = dataLink{"IEEE802_11", 105}
	linkRadiotap = dataLink{"IEEE802_11_RADIO", 127}
)

// Errors of compilers besides their own messages.
var (
	errNoCompiler = errors.New("no compiler")
	errDevice     = errors.New("cannot open the interface")
)

// compileExpression compiles a pcap filter expression.
func (s *scope) compileExpression(ctx context.Context, text string) (*Filter, error) {
	expression, err := s.expand(text)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(expression) == "" {
		return s.compileMode(none)
	}
	if strings.ContainsRune(expression, 0) {
		return nil, &Error{Kind: ErrSyntax, Filter: text, Reason: "it has a zero byte in it"}
	}
	ctx, cancel := context.WithTimeout(ctx, compileTimeout)
	defer cancel()
	prog, compiler, err := s.translate(ctx, expression)
	once := s.seenTwice() && !asksDirection(prog)
	var w wider
	if err == nil {
		w, err = s.adapt(prog, expression)
	}
	if err != nil {
		return nil, s.failure(ctx, expression, err)
	}
	shown := strings.TrimSpace(expression)
	if once {
		shown += s.onceText()
	}
	if once {
		w.prog = onlyIncoming(w.prog)
		if w.narrow != nil {
			w.narrow = onlyIncoming(w.narrow)
		}
	}
	f := &Filter{Text: shown, Compiler: compiler, Limit: w.limit, prog: w.prog, test: s.machine(w.prog)}
	if w.narrow != nil {
		f.narrow = s.machine(w.narrow)
	}
	return f, nil
}

func (s *scope) machine(prog []bpf.RawInstruction) *machine {
	return &machine{prog: prog, link: s.link, index: uint32(s.index)}
}

func onlyIncoming(prog []bpf.RawInstruction) []bpf.RawInstruction {
	return slices.Concat(mustAssemble(dropOutgoing()), prog)
}

// expand replaces %m and %i with the MAC and IP addresses. A % before any other
// character, or at the end, is removed, so that %% is a single %.
func (s *scope) expand(text string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i++; i == len(text) {
			break
		}
		switch {
		case text[i] == 'm' && s.mac == nil:
			return "", &Error{Kind: ErrNoMAC, Filter: text,
				Reason: s.name + " has no MAC address to put in the place of %m",
				hint:   s.hint("inbound and outbound tell the directions apart there", "give it with -mac")}
		case text[i] == 'm':
			b.WriteString(s.mac.String())
		case text[i] == 'i' && !s.ipv4.Is4():
			return "", &Error{Kind: ErrNoIPv4, Filter: text,
				Reason: s.name + " has no IPv4 address to put in the place of %i",
				hint:   s.hint("give it one, or name an address in the expression", "give it with -ip")}
		case text[i] == 'i':
			b.WriteString(s.ipv4.String())
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String(), nil
}

// NeedsIPv4 reports whether a mode is an expression that contains %i.
func NeedsIPv4(mode string) bool {
	for i := 0; i+1 < len(mode); i++ {
		if mode[i] != '%' {
			continue
		}
		if i++; mode[i] == 'i' {
			return true
		}
	}
	return false
}

// translate compiles the expression for the interface itself if possible, otherwise for
// its link type only.
func (s *scope) translate(ctx context.Context, expression string) ([]bpf.RawInstruction, string, error) {
	src := source{expression: expression, link: s.dataLink()}
	if !s.live || s.link != packet.Ethernet {
		return compilePcap(ctx, src)
	}
	src.device = s.name
	prog, compiler, err := compilePcap(ctx, src)
	if err == nil || errors.Is(err, errNoCompiler) || ctx.Err() != nil {
		return prog, compiler, err
	}
	src.device = ""
	prog, compiler, plain := compilePcap(ctx, src)
	if plain == nil && asksVLAN(expression) {
		// Compiled without the interface, the filter would miss received tags.
		return nil, "", fmt.Errorf("%w, as \"vlan\" needs: %w", errDevice, err)
	}
	return prog, compiler, plain
}

func (s *scope) dataLink() dataLink {
	switch s.link {
	case packet.Ethernet:
		return linkEthernet
	case packet.RawIP:
		return linkRawIP
	case packet.IEEE80211:
		return link80211
	case packet.Radiotap:
		return linkRadiotap
	}
	return linkCooked
}

// asksVLAN reports whether an expression contains the keyword vlan.
func asksVLAN(expression string) bool {
	words := strings.FieldsFunc(expression, func(r rune) bool {
		return !strings.ContainsRune("-._", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
	return slices.Contains(words, "vlan")
}

// adapt converts a compiled program to our kind of frames, or rejects it if that is
// impossible.
func (s *scope) adapt(prog []bpf.RawInstruction, expression string) (wider, error) {
	if s.link == packet.Network {
		for i := range prog {
			if err := uncook(&prog[i]); err != nil {
				return wider{}, err
			}
		}
	}
	if len(prog) > maxInstructions {
		return wider{}, fmt.Errorf("%w: %d instructions, and the kernel takes %d", ErrTooLong, len(prog), maxInstructions)
	}
	if err := verify(prog); err != nil {
		return wider{}, fmt.Errorf("its program cannot be used: %w", err)
	}
	if !s.live && slices.ContainsFunc(prog, s.unknownInFile) {
		return wider{}, errors.New("it asks for something, such as the direction or the interface, that this capture file does not tell")
	}
	w := s.widen(prog, expression)
	if err := verify(w.prog); err != nil {
		return wider{}, fmt.Errorf("its program cannot be used: %w", err)
	}
	return w, nil
}

// cookedSize is the length of a Linux cooked header (LINKTYPE_LINUX_SLL), in bytes. The
// packet type is at offset 0, the protocol at offset 14.
const (
	cookedSize     = 16
	cookedType     = 0
	cookedProtocol = 14
)

// uncook converts an access to a frame with a cooked header to one to the same frame
// without it: the kernel provides the contents of the header separately.
func uncook(in *bpf.RawInstruction) error {
	class, mode := in.Op&0x07, in.Op&opMode
	if class != unix.BPF_LD && class != unix.BPF_LDX || isAncillary(*in) ||
		mode != unix.BPF_ABS && mode != unix.BPF_IND && mode != unix.BPF_MSH {
		return nil
	}
	half := in.Op == unix.BPF_LD|unix.BPF_H|unix.BPF_ABS
	switch {
	case in.K >= cookedSize:
		in.K -= cookedSize
	case half && in.K == cookedType:
		in.K = adPacketType
	case half && in.K == cookedProtocol:
		in.K = adProtocol
	default:
		return errors.New("it looks into a link header, and these frames have none")
	}
	return nil
}

// unknownInFile reports whether an instruction loads something that a capture file of
// this link type does not contain.
func (s *scope) unknownInFile(in bpf.RawInstruction) bool {
	if !isAncillary(in) {
		return false
	}
	return s.link != packet.Network || in.K != adProtocol && in.K != adPacketType
}

// asksDirection reports whether a program itself tests the direction.
func asksDirection(prog []bpf.RawInstruction) bool {
	return slices.ContainsFunc(prog, func(in bpf.RawInstruction) bool { return isAncillary(in) && in.K == adPacketType })
}

// failure returns an error that explains why there is no program.
func (s *scope) failure(ctx context.Context, expression string, err error) error {
	e := &Error{Kind: ErrSyntax, Filter: expression, Reason: err.Error(), Cause: err}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.Reason = fmt.Sprintf("not compiled after %d s", compileTimeout/time.Second)
		e.Cause, e.hint = ctx.Err(), "use addresses in place of host names"
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, ErrTooLong):
		e.Kind, e.Cause = ErrTooLong, nil
		e.hint = "shorten it: a net or a portrange takes the place of many hosts or ports"
	case errors.Is(err, errNoCompiler):
		e.Kind = ErrNoCompiler
		e.hint = "install tcpdump, or build with -tags libpcap; src, dst, spoof and none need neither"
	case errors.Is(err, errDevice):
		e.Kind = ErrNoCompiler
		e.hint = "run as root, or give the program CAP_NET_RAW"
	default:
		e.hint = "see pcap-filter(7); src, dst, spoof and none are names of modes"
	}
	return e
}

// mustAssemble assembles blocks without variable contents.
func mustAssemble(b block) []bpf.RawInstruction {
	prog, err := bpf.Assemble(b)
	if err != nil {
		panic(err)
	}
	return prog
}
