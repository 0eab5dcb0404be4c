package feed

import (
	"container/list"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

const (
	// receiveBuffer is what the kernel may hold for a receiver of datagrams,
	// as far as net.core.rmem_max lets it.
	receiveBuffer = 16 << 20
	// maxSessions bounds the sessions of one receiver. The one that was silent
	// longest makes room, those of known exporters last.
	maxSessions = 16384
	// maxTemplateBytes bounds the memory of a session's templates, and
	// maxTemplateTotal that of all sessions of unknown exporters.
	maxTemplateBytes = 256 << 10
	maxTemplateTotal = 32 << 20
	// repairAfter and repairSpread are how long a receiver waits before it asks
	// for what is missing: late datagrams may come yet, and not all receivers
	// should ask at once.
	repairAfter  = 50 * time.Millisecond
	repairSpread = 200 * time.Millisecond
	// repairRetry is the pause after nothing was repaired, at first and at
	// longest; repairTimeout is for one attempt.
	repairRetry    = 500 * time.Millisecond
	repairRetryMax = 10 * time.Second
	repairTimeout  = 5 * time.Second
)

// ReceiverConfig says where a Receiver listens and who takes what it gets.
type ReceiverConfig struct {
	Listen Listen
	// Allow lists the networks that exporters may be in; nil is everywhere.
	Allow []netip.Prefix
	// Known reports whether an address is a configured exporter's. Others cannot take
	// its session away, and only its datagrams, and a group's, are asked for again
	// when they are missing. nil is nobody.
	Known func(netip.Addr) bool
	// TLS is our side's configuration. Valid iff Listen.TLS.
	TLS *tls.Config
	// Records takes an exporter's records in the order of their arrival, from
	// one goroutine at a time; the slice is used again after the call.
	Records func(from Sender, records []wire.Record)
	// Losses is told what is missing from an exporter, all its sessions
	// together, when that has changed.
	Losses func(from Sender, l Losses)
	// Session is told of a new session, once it has records or a second message,
	// and again when its names become known after that.
	Session func(from Sender, port uint16)
	// Say takes messages for the user.
	Say func(format string, args ...any)
}

// Sender is who sends: an exporter's address, and what it has called the
// observation domain, if anything.
type Sender struct {
	Addr  netip.Addr
	Names ipfix.Names
}

// Receiver takes IPFIX from exporters that send without being dialled. What
// datagrams were lost it asks for again, if the exporter offers that.
type Receiver struct {
	cfg    ReceiverConfig
	udp    *net.UDPConn
	index  int // of the interface that the group was joined on, 0 if none was named
	tcp    *net.TCPListener
	ctx    context.Context // of Run
	asking sync.WaitGroup  // repairs

	mu        sync.Mutex
	sessions  map[netip.AddrPort]*session
	known     list.List         // of *session, those of known exporters; most recently used first
	strangers list.List         // the others
	templates int               // bytes of strangers' templates
	losses    map[Sender]Losses // of all sessions, also those that are over
	notSent   map[Sender]uint64 // what the last that is over said, until the next says more
	batch     []wire.Record
	holding   int // bytes of held messages

	status     ReceiverStatus
	complained map[string]time.Time // by what about
}

// ReceiverStatus counts what a receiver did not take.
type ReceiverStatus struct {
	Sessions   int    // now
	Evicted    uint64 // sessions that were ended to make room for others
	Malformed  uint64 // datagrams that are no IPFIX messages
	NotAllowed uint64 // datagrams and connections from outside ReceiverConfig.Allow
	Refused    uint64 // connections, as there were too many
}

// Status may be called by any goroutine.
func (r *Receiver) Status() ReceiverStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Sessions = len(r.sessions)
	return s
}

// session is one exporter's stream.
type session struct {
	from      netip.AddrPort
	decoder   ipfix.Decoder
	place     *list.Element // in Receiver.known or strangers
	ours      bool          // of a known exporter
	templates int           // bytes of Receiver.templates
	begun     bool          // Session was told
	names     ipfix.Names   // the first that were said, for Losses and Session
	held      held          // messages that no template has come for
	asking    bool          // a repair is on its way, or put off
	pause     time.Duration // before the next, 0 while they succeed
	losses    Losses        // of this session
}

// NewReceiver opens the port.
func NewReceiver(cfg ReceiverConfig) (*Receiver, error) {
	r := &Receiver{cfg: cfg, sessions: map[netip.AddrPort]*session{}, losses: map[Sender]Losses{}, notSent: map[Sender]uint64{}, complained: map[string]time.Time{}}
	var err error
	if cfg.Listen.TCP {
		r.tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(cfg.Listen.Addr))
	} else {
		err = r.openUDP()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", cfg.Listen.URL, whyNot(err))
	}
	return r, nil
}

// String names the receiver in messages.
func (r *Receiver) String() string { return "listening on " + r.cfg.Listen.URL }

// openUDP opens a socket that gets what is sent to the address, and nothing of
// other groups on the same port.
func (r *Receiver) openUDP() error {
	l := &r.cfg.Listen
	group := l.Addr.Addr()
	network := "udp4"
	if group.Is6() {
		network = "udp6"
	}
	if group == netip.IPv6Unspecified() {
		network = "udp" // IPv4 as well
	}
	if l.Interface != "" {
		in, err := net.InterfaceByName(l.Interface)
		if err != nil {
			return noInterface(l.Interface)
		}
		r.index = in.Index
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		cerr := raw.Control(func(fd uintptr) { err = prepareUDP(int(fd), group, r.index) })
		return errors.Join(cerr, err)
	}}
	conn, err := config.ListenPacket(context.Background(), network, l.Addr.String())
	if err != nil {
		return err
	}
	r.udp = conn.(*net.UDPConn)
	return nil
}

// Run receives until ctx is done, and gives nil then.
func (r *Receiver) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.ctx = ctx
	defer r.asking.Wait()
	if r.tcp != nil {
		return r.accept(ctx)
	}
	defer r.udp.Close()
	defer context.AfterFunc(ctx, func() { r.udp.Close() })()
	defer cancel()
	if r.index != 0 {
		r.asking.Go(func() { r.rejoin(ctx) })
	}
	buf := make([]byte, ipfix.MaxMessage+1)
	for {
		n, from, err := r.udp.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%v: %w", r, err)
		}
		r.datagram(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), buf[:n])
	}
}

// datagram takes one message, or what pretends to be one.
func (r *Receiver) datagram(from netip.AddrPort, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.allowed(from) {
		return
	}
	if n, err := ipfix.Length(b); err != nil || n != len(b) {
		r.refuse(from, b) // before it makes an exporter be forgotten
		return
	}
	s := r.session(from)
	if r.hold(s, b) {
		return
	}
	if err := r.take(s, b); err != nil {
		r.refuse(from, b)
		if s.decoder.Counts().Messages == 0 {
			r.end(s) // no exporter
		}
		return
	}
	r.limitTemplates(s)
	r.repair(s)
}

// allowed reports whether an exporter may be where it is, and counts those that may
// not.
func (r *Receiver) allowed(from netip.AddrPort) bool {
	if r.cfg.Allow == nil || slices.ContainsFunc(r.cfg.Allow, func(p netip.Prefix) bool { return p.Contains(from.Addr().WithZone("")) }) {
		return true
	}
	r.status.NotAllowed++
	r.complain("allow", "%d datagrams or connections so far from outside -allow, the last from %v", r.status.NotAllowed, from)
	return false
}

// refuse counts a datagram that is no IPFIX message.
func (r *Receiver) refuse(from netip.AddrPort, b []byte) {
	r.status.Malformed++
	r.complain("malformed", "%d datagrams so far that are no IPFIX messages, the last from %v%s", r.status.Malformed, from, protocolOf(b))
}

// protocolOf names what a datagram is likely to be instead of IPFIX.
func protocolOf(b []byte) string {
	if len(b) < 20 {
		return ""
	}
	switch version := binary.BigEndian.Uint16(b); {
	case version == 5 || version == 9:
		return fmt.Sprintf(": it is NetFlow v%d; have its sender export IPFIX (version 10)", version)
	case version == 1 || version == 7 || version == 8:
		return fmt.Sprintf(": it is NetFlow v%d; only IPFIX (version 10) is read", version)
	case version == 0 && binary.BigEndian.Uint32(b) == 5:
		return ": it is sFlow v5; only IPFIX is read"
	}
	return ""
}

// complain tells the user of one thing at a time, now and then.
func (r *Receiver) complain(about, format string, args ...any) {
	if time.Since(r.complained[about]) >= complainEvery {
		r.complained[about] = time.Now()
		r.cfg.Say("%v: "+format, append([]any{r}, args...)...)
	}
}

// session finds an exporter's stream, or begins it.
func (r *Receiver) session(from netip.AddrPort) *session {
	if s := r.sessions[from]; s != nil {
		r.placeOf(s).MoveToFront(s.place)
		return s
	}
	if len(r.sessions) >= maxSessions {
		r.evict()
	}
	s := &session{from: from, ours: r.knows(from.Addr())}
	s.decoder.PEN, s.decoder.MaxTemplateBytes = r.cfg.Listen.PEN, maxTemplateBytes
	s.place = r.placeOf(s).PushFront(s)
	r.sessions[from] = s
	return s
}

func (r *Receiver) knows(a netip.Addr) bool { return r.cfg.Known != nil && r.cfg.Known(a) }

func (r *Receiver) placeOf(s *session) *list.List {
	if s.ours {
		return &r.known
	}
	return &r.strangers
}

// evict ends the session that was silent longest, those of known exporters last.
func (r *Receiver) evict() {
	oldest := r.strangers.Back()
	if oldest == nil {
		oldest = r.known.Back()
	}
	s := oldest.Value.(*session)
	r.status.Evicted++
	r.complain("evicted", "%d sessions so far were forgotten to make room for others, the last of %v: more than %d exporters, or %d MiB of templates",
		r.status.Evicted, s.from, maxSessions, maxTemplateTotal>>20)
	r.end(s)
}

// limitTemplates keeps the memory of strangers' templates bounded, after s had a message.
func (r *Receiver) limitTemplates(s *session) {
	if s.ours {
		return
	}
	now := s.decoder.TemplateBytes()
	r.templates += now - s.templates
	s.templates = now
	for r.templates > maxTemplateTotal && r.strangers.Len() > 1 {
		r.evict()
	}
}

// end forgets a session, but not what it has lost.
func (r *Receiver) end(s *session) {
	if r.sessions[s.from] != s {
		return // it was evicted
	}
	r.release(s, func([]byte) bool { return true })
	delete(r.sessions, s.from)
	r.placeOf(s).Remove(s.place)
	r.templates -= s.templates
	if l, ok := r.losses[s.sender()]; ok {
		l.Ignored -= s.losses.Ignored // counts since the exporter's start
		r.losses[s.sender()] = l
		if s.losses.NotSent > 0 {
			r.notSent[s.sender()] = s.losses.NotSent
		}
	}
}

// continued is how many of the records that a session says were not sent an earlier one of
// the same exporter has said: it counts over connections, and with a spool over its own lives.
// One that says less has begun anew.
func (r *Receiver) continued(s *session, says uint64) (before uint64) {
	before, ended := r.notSent[s.sender()]
	if !ended || s.losses.NotSent > 0 || says == 0 {
		return 0
	}
	delete(r.notSent, s.sender())
	if says < before {
		return 0
	}
	return before
}

// take decodes a message and hands over what it describes.
func (r *Receiver) take(s *session, b []byte) (err error) {
	r.batch, err = s.decoder.Decode(b, r.batch[:0])
	var names ipfix.Names
	if len(b) >= ipfix.HeaderSize { // a datagram may be anything
		names = s.decoder.Names(ipfix.Domain(b))
	}
	learned := s.names == ipfix.Names{} && names != s.names
	if learned {
		r.rename(s, names)
	}
	// Names come in a second message, after the templates.
	if begun := len(r.batch) > 0 || s.decoder.Counts().Messages > 1; err == nil && begun && (!s.begun || learned) {
		s.begun = true
		r.cfg.Session(s.sender(), s.from.Port())
	}
	if len(r.batch) > 0 {
		r.cfg.Records(Sender{s.from.Addr(), names}, r.batch)
	}
	if now := lossesOf(&s.decoder); now != s.losses {
		l, known := r.losses[s.sender()]
		if !known && len(r.losses) >= maxSessions { // addresses without end are nobody's agents
			maps.DeleteFunc(r.losses, func(s Sender, _ Losses) bool { return !r.knows(s.Addr) })
			maps.DeleteFunc(r.notSent, func(s Sender, _ uint64) bool { return !r.knows(s.Addr) })
		}
		l = l.Plus(now).minus(s.losses)
		l.NotSent -= r.continued(s, now.NotSent)
		r.losses[s.sender()], s.losses = l, now
		r.cfg.Losses(s.sender(), l)
	}
	return err
}

// sender is whose session it is.
func (s *session) sender() Sender { return Sender{s.from.Addr(), s.names} }

// rename gives a session the names that were said. What it has lost before is
// its own.
func (r *Receiver) rename(s *session, names ipfix.Names) {
	lost, before := s.losses, s.sender()
	s.names, s.losses = names, Losses{}
	l, told := r.losses[before]
	if !told || lost == (Losses{}) {
		return
	}
	l = l.minus(lost)
	r.losses[before] = l
	r.cfg.Losses(before, l)
}

// repair asks for what is missing, after a while. Nobody else than a known exporter,
// or one of the group that was joined, makes us dial its address, which may be forged.
func (r *Receiver) repair(s *session) {
	port := s.decoder.Statistics().RepairPort
	if s.asking || !s.ours && !r.cfg.Listen.group() || port == 0 || len(s.decoder.Missing()) == 0 {
		return
	}
	s.asking = true
	wait := repairAfter + rand.N(repairSpread) + s.pause
	r.asking.Go(func() {
		sleep(r.ctx, wait)
		if r.ctx.Err() != nil {
			return
		}
		gained := r.ask(s, netip.AddrPortFrom(s.from.Addr(), port))
		r.mu.Lock()
		defer r.mu.Unlock()
		s.asking = false
		if gained {
			s.pause = 0
		} else {
			s.pause = min(max(2*s.pause, repairRetry), repairRetryMax)
		}
	})
}

// ask fetches what is missing, in one connection, and reports whether any came.
func (r *Receiver) ask(s *session, to netip.AddrPort) bool {
	dialer := net.Dialer{Timeout: repairTimeout}
	conn, err := dialer.DialContext(r.ctx, "tcp", to.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(r.ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(repairTimeout))
	r.mu.Lock()
	missing := s.decoder.Missing()
	before := s.decoder.Counts().Late
	r.mu.Unlock()
	var request []byte
	for _, g := range missing {
		request = fmt.Appendf(request, "repair %d %d %d %d\n", s.from.Port(), g.Domain, g.First, g.Count)
	}
	if _, err := conn.Write(request); err != nil {
		return false
	}
	conn.(*net.TCPConn).CloseWrite()
	readMessages(conn, func(b []byte) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.take(s, b)
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.decoder.Counts().Late > before
}

// readMessages gives the messages of a stream to f until it ends or fails.
func readMessages(in io.Reader, f func([]byte) error) error {
	buf, have := make([]byte, ipfix.MaxMessage+1), 0
	for {
		k, readErr := in.Read(buf[have:])
		have += k
		used := 0
		for {
			n, err := ipfix.Length(buf[used:have])
			if err == nil && (n == 0 || n > have-used) {
				break
			}
			if err == nil {
				err = f(buf[used : used+n])
			}
			if err != nil {
				return err
			}
			used += n
		}
		have = copy(buf, buf[used:have])
		if readErr == io.EOF && have > 0 {
			return io.ErrUnexpectedEOF
		}
		if readErr != nil {
			return readErr
		}
	}
}

// accept takes exporters that dial.
func (r *Receiver) accept(ctx context.Context) error {
	defer r.tcp.Close()
	defer context.AfterFunc(ctx, func() { r.tcp.Close() })()
	slots := make(chan struct{}, maxSessions)
	var pause backoff
	for {
		conn, err := r.tcp.AcceptTCP()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if !temporary(err) {
				return fmt.Errorf("%v: %w", r, err)
			}
			pause.sleep(ctx)
			continue
		}
		pause.reset()
		select {
		case slots <- struct{}{}:
		default:
			r.mu.Lock()
			r.status.Refused++
			r.complain("refused", "%d connections so far were refused, the last from %v: there are %d already", r.status.Refused, peer(conn), maxSessions)
			r.mu.Unlock()
			conn.Close()
			continue
		}
		r.mu.Lock()
		allowed := r.allowed(peer(conn))
		r.mu.Unlock()
		if !allowed {
			<-slots
			conn.Close()
			continue
		}
		conn.SetKeepAliveConfig(keepAlive)
		r.asking.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			r.stream(ctx, conn)
		})
	}
}

// stream reads what one exporter sends by TCP or TLS.
func (r *Receiver) stream(ctx context.Context, conn *net.TCPConn) {
	from, in := peer(conn), net.Conn(conn)
	if r.cfg.Listen.TLS {
		session, _, err := handshake(ctx, conn, r.cfg.TLS)
		if err != nil {
			if ctx.Err() == nil {
				r.cfg.Say("%v: %v is not let in: %v", r, from, err)
			}
			return
		}
		in = session
	}
	r.mu.Lock()
	s := r.session(from)
	r.mu.Unlock()
	err := readMessages(in, func(b []byte) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.sessions[from] != s {
			return errEvicted
		}
		r.placeOf(s).MoveToFront(s.place)
		defer r.limitTemplates(s)
		return r.take(s, b)
	})
	if errors.Is(err, ipfix.ErrMalformed) {
		r.cfg.Say("%v: %v: %v", r, from, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(s)
}

// errEvicted ends a connection whose session had to make room.
var errEvicted = errors.New("its session made room for others")

// ReadFile gives the records of a file of IPFIX messages (RFC 5655), in its
// order; the slice is used again after each call.
func ReadFile(name string, pen uint32, records func([]wire.Record) error) (Losses, error) {
	f, err := os.Open(name)
	if err != nil {
		return Losses{}, err
	}
	defer f.Close()
	decoder := ipfix.Decoder{PEN: pen}
	var batch []wire.Record
	err = readMessages(f, func(b []byte) (err error) {
		if batch, err = decoder.Decode(b, batch[:0]); err == nil && len(batch) > 0 {
			err = records(batch)
		}
		return err
	})
	switch {
	case errors.Is(err, io.EOF):
		err = nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%q ends in the middle of a message", name)
	}
	return lossesOf(&decoder), err
}
