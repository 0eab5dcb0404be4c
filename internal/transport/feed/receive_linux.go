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
	// receiveBuffer is the size of the kernel's buffer for a receiver of datagrams, as
	// far as net.core.rmem_max permits.
	receiveBuffer = 16 << 20
	// maxSessions bounds the sessions of a receiver. To make room, the session that has
	// been silent longest is evicted, those of known exporters last.
	maxSessions = 16384
	// maxTemplateBytes bounds the memory of a session's templates, and maxTemplateTotal
	// that of all sessions of unknown exporters.
	maxTemplateBytes = 256 << 10
	maxTemplateTotal = 32 << 20
	// repairAfter and repairSpread are how long a receiver waits before it requests
	// what is missing: late datagrams may still arrive, and not all receivers should
	// send requests at once.
	repairAfter  = 50 * time.Millisecond
	repairSpread = 200 * time.Millisecond
	// repairRetry and repairRetryMax are the first and the longest pause after nothing
	// was repaired; repairTimeout bounds one attempt.
	repairRetry    = 500 * time.Millisecond
	repairRetryMax = 10 * time.Second
	repairTimeout  = 5 * time.Second
)

// ReceiverConfig configures a Receiver.
type ReceiverConfig struct {
	Listen Listen
	// Allow lists the networks of exporters; nil means any.
	Allow []netip.Prefix
	// Known reports whether an address is that of a configured exporter. Sessions of
	// other exporters cannot evict its session, and missing datagrams are requested
	// again only from known exporters and from groups. nil means that none is known.
	Known func(netip.Addr) bool
	// TLS is the configuration of our side. Valid iff Listen.TLS.
	TLS *tls.Config
	// Records is called with an exporter's records in the order of their arrival, by
	// one goroutine at a time. The slice is reused after the call.
	Records func(from Sender, records []wire.Record)
	// Losses is called with what is missing from an exporter, over all its sessions,
	// whenever that has changed.
	Losses func(from Sender, l Losses)
	// Session is called for a new session once it has records or a second message, and
	// again when its names become known after that.
	Session func(from Sender, port uint16)
	// Say prints messages for the user.
	Say func(format string, args ...any)
}

// Sender identifies a sender: an exporter's address, and its names for the observation
// domain, if any.
type Sender struct {
	Addr  netip.Addr
	Names ipfix.Names
}

// Receiver receives IPFIX from exporters that connect or send datagrams to it. It
// requests lost datagrams again, if the exporter supports that.
type Receiver struct {
	cfg    ReceiverConfig
	udp    *net.UDPConn
	index  int // of the interface on which the group was joined, 0 if none was named
	tcp    *net.TCPListener
	ctx    context.Context // of Run
	asking sync.WaitGroup  // repairs

	mu        sync.Mutex
	sessions  map[netip.AddrPort]*session
	known     list.List         // of *session, those of known exporters; most recently used first
	strangers list.List         // the others
	templates int               // bytes of strangers' templates
	losses    map[Sender]Losses // of all sessions, also those that are over
	notSent   map[Sender]uint64 // what the last ended session reported, until the next one reports more
	batch     []wire.Record
	holding   int // bytes of held messages

	status     ReceiverStatus
	complained map[string]time.Time // time of the last message by subject
}

// ReceiverStatus counts what a receiver did not accept.
type ReceiverStatus struct {
	Sessions   int    // current number
	Evicted    uint64 // sessions ended to make room for others
	Malformed  uint64 // datagrams that are not IPFIX messages
	NotAllowed uint64 // datagrams and connections from outside ReceiverConfig.Allow
	Refused    uint64 // connections, because there were too many
}

// Status returns the counters. It may be called concurrently.
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
	ours      bool          // the exporter is known
	templates int           // its share of Receiver.templates, in bytes
	begun     bool          // Session has been called
	names     ipfix.Names   // the first names reported, for Losses and Session
	held      held          // messages whose template has not arrived
	asking    bool          // a repair is in progress or scheduled
	pause     time.Duration // before the next repair, 0 while they succeed
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

// String returns the receiver's name for messages.
func (r *Receiver) String() string { return "listening on " + r.cfg.Listen.URL }

// openUDP opens a socket that receives what is sent to the address, but nothing for
// other groups on the same port.
func (r *Receiver) openUDP() error {
	l := &r.cfg.Listen
	group := l.Addr.Addr()
	network := "udp4"
	if group.Is6() {
		network = "udp6"
	}
	if group == netip.IPv6Unspecified() {
		network = "udp" // also IPv4
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

// Run receives until ctx is done. It then returns nil.
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

// datagram handles one message, or what pretends to be one.
func (r *Receiver) datagram(from netip.AddrPort, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.allowed(from) {
		return
	}
	if n, err := ipfix.Length(b); err != nil || n != len(b) {
		r.refuse(from, b) // before it could evict an exporter
		return
	}
	s := r.session(from)
	if r.holdMessage(s, b) {
		return
	}
	if err := r.decodeMessage(s, b); err != nil {
		r.refuse(from, b)
		if s.decoder.Counts().Messages == 0 {
			r.endSession(s) // not an exporter
		}
		return
	}
	r.limitTemplates(s)
	r.repair(s)
}

// allowed reports whether an exporter's address is allowed, and counts those that are
// not.
func (r *Receiver) allowed(from netip.AddrPort) bool {
	if r.cfg.Allow == nil || slices.ContainsFunc(r.cfg.Allow, func(p netip.Prefix) bool { return p.Contains(from.Addr().WithZone("")) }) {
		return true
	}
	r.status.NotAllowed++
	r.complain("allow", "%d datagrams or connections so far from outside -allow, the last from %v", r.status.NotAllowed, from)
	return false
}

// refuse counts a datagram that is not an IPFIX message.
func (r *Receiver) refuse(from netip.AddrPort, b []byte) {
	r.status.Malformed++
	r.complain("malformed", "%d datagrams so far that are no IPFIX messages, the last from %v%s", r.status.Malformed, from, protocolOf(b))
}

// protocolOf names what a datagram probably is if it is not IPFIX.
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

// complain prints a message, at most once per complainEvery and subject.
func (r *Receiver) complain(about, format string, args ...any) {
	if time.Since(r.complained[about]) >= complainEvery {
		r.complained[about] = time.Now()
		r.cfg.Say("%v: "+format, append([]any{r}, args...)...)
	}
}

// session returns an exporter's session, and begins it if necessary.
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

// evict ends the session that has been silent longest, those of known exporters last.
func (r *Receiver) evict() {
	oldest := r.strangers.Back()
	if oldest == nil {
		oldest = r.known.Back()
	}
	s := oldest.Value.(*session)
	r.status.Evicted++
	r.complain("evicted", "%d sessions so far were forgotten to make room for others, the last of %v: more than %d exporters, or %d MiB of templates",
		r.status.Evicted, s.from, maxSessions, maxTemplateTotal>>20)
	r.endSession(s)
}

// limitTemplates bounds the memory of unknown exporters' templates after a message of
// s.
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

// endSession removes a session, but keeps its losses.
func (r *Receiver) endSession(s *session) {
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

// continued returns how many of the unsent records that a session reports were already
// reported by an earlier session of the same exporter, which counts across connections
// and, with a spool, across restarts. If a session reports fewer than that, the
// exporter has started counting anew.
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

// decodeMessage decodes a message and passes on its records.
func (r *Receiver) decodeMessage(s *session, b []byte) (err error) {
	r.batch, err = s.decoder.Decode(b, r.batch[:0])
	var names ipfix.Names
	if len(b) >= ipfix.HeaderSize { // a datagram may contain anything
		names = s.decoder.Names(ipfix.Domain(b))
	}
	learned := s.names == ipfix.Names{} && names != s.names
	if learned {
		r.rename(s, names)
	}
	// Names arrive in a second message, after the templates.
	if begun := len(r.batch) > 0 || s.decoder.Counts().Messages > 1; err == nil && begun && (!s.begun || learned) {
		s.begun = true
		r.cfg.Session(s.sender(), s.from.Port())
	}
	if len(r.batch) > 0 {
		r.cfg.Records(Sender{s.from.Addr(), names}, r.batch)
	}
	if now := lossesOf(&s.decoder); now != s.losses {
		l, known := r.losses[s.sender()]
		if !known && len(r.losses) >= maxSessions { // with so many addresses, these are not our agents
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

// sender returns the session's sender.
func (s *session) sender() Sender { return Sender{s.from.Addr(), s.names} }

// rename gives a session the names that were reported. Its losses so far move with it.
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

// repair schedules a request for what is missing. Only known exporters, and members of
// the joined group, can make us connect to their address, which may be forged.
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

// ask requests what is missing, in one connection, and reports whether anything
// arrived.
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
		return r.decodeMessage(s, b)
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.decoder.Counts().Late > before
}

// readMessages passes the messages of a stream to f until the stream ends or f fails.
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

// accept serves exporters that connect.
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

// stream reads what one exporter sends over TCP or TLS.
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
		return r.decodeMessage(s, b)
	})
	if errors.Is(err, ipfix.ErrMalformed) {
		r.cfg.Say("%v: %v: %v", r, from, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endSession(s)
}

// errEvicted ends a connection whose session was evicted.
var errEvicted = errors.New("its session made room for others")

// ReadFile passes the records of a file of IPFIX messages (RFC 5655) to records, in
// order. The slice is reused after each call.
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
