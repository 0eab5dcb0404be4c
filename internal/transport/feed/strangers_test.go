package feed

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire/ipfix"
)

// datagrams makes the datagrams of an exporter.
type datagrams struct {
	w    ipfix.Writer
	from netip.AddrPort
}

func (m *datagrams) templates() []byte { return m.w.Templates(nil, time.Now()) }

// packet is a message with one record.
func (m *datagrams) packet(k int) []byte {
	r := record(k)
	buf, _ := ipfix.Append(nil, &r)
	msg, _ := m.w.Message(nil, time.Now(), ipfix.MaxDatagram, buf, []uint32{0, uint32(len(buf))})
	return msg
}

// stranger is one of many addresses.
func stranger(i int) netip.AddrPort {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 0x0b000000+uint32(i))
	return netip.AddrPortFrom(netip.AddrFrom4(a), 5000)
}

// TestManyExporters has 10,000 exporters send in turns: nothing is lost.
func TestManyExporters(t *testing.T) {
	g := receive(t, fmt.Sprintf("ipfix+udp://127.0.0.1:%d", freePort(t)))
	const exporters, rounds = 10_000, 3
	all := make([]datagrams, exporters)
	for i := range all {
		all[i] = datagrams{w: ipfix.Writer{Domain: 1}, from: stranger(i)}
		g.r.datagram(all[i].from, all[i].templates())
	}
	for round := range rounds {
		for i := range all {
			g.r.datagram(all[i].from, all[i].packet(round))
		}
	}
	n, l := g.get()
	if s := g.r.Status(); n != exporters*rounds || l.Any() || s.Sessions != exporters || s.Evicted != 0 {
		t.Errorf("got %d records, %+v, %+v; want %d records of %d sessions", n, l, s, exporters*rounds, exporters)
	}
}

// TestStrangersTakeNothing lets more forged addresses send than there may be
// sessions, with as many templates as they can: a known exporter loses nothing,
// memory is bounded, and what had to go is counted.
func TestStrangersTakeNothing(t *testing.T) {
	g := receive(t, fmt.Sprintf("ipfix+udp://127.0.0.1:%d", freePort(t)))
	known := datagrams{w: ipfix.Writer{Domain: 1}, from: netip.MustParseAddrPort("127.0.0.1:4000")}
	g.r.datagram(known.from, known.templates())
	const forged, greedy = maxSessions + 1000, 1000 // whose templates are too many together
	for i := range forged {
		from := stranger(i)
		if i < greedy {
			for k := range 4 {
				g.r.datagram(from, manyTemplates(256+100*k))
			}
		} else {
			m := datagrams{w: ipfix.Writer{Domain: 1}, from: from}
			g.r.datagram(from, m.templates())
		}
		if i%1000 == 0 {
			g.r.datagram(known.from, known.packet(i/1000))
		}
	}
	n, l := g.get()
	s := g.r.Status()
	if n != (forged+999)/1000 || l.Any() {
		t.Errorf("got %d records of the known exporter, lost %+v; want %d", n, l, (forged+999)/1000)
	}
	if s.Evicted == 0 || s.Sessions > maxSessions || g.r.templates > maxTemplateTotal {
		t.Errorf("got %+v, and %d bytes of templates; want at most %d and %d, and evictions", s, g.r.templates, maxSessions, maxTemplateTotal)
	}
	sum := 0
	for _, s := range g.r.sessions {
		if !s.ours {
			sum += s.decoder.TemplateBytes()
		}
	}
	if sum != g.r.templates {
		t.Errorf("templates take %d bytes, and %d are counted", sum, g.r.templates)
	}
}

// manyTemplates is a message with a hundred templates of 3 fields each, with IDs from
// first on.
func manyTemplates(first int) []byte {
	set := []byte{0, 2, 0, 0}
	for id := range 100 {
		set = binary.BigEndian.AppendUint16(set, uint16(first+id))
		set = append(set, 0, 3, 0, 8, 0, 4, 0, 12, 0, 4, 0, 4, 0, 1)
	}
	binary.BigEndian.PutUint16(set[2:], uint16(len(set)))
	msg := append(make([]byte, ipfix.HeaderSize), set...)
	binary.BigEndian.PutUint16(msg, 10)
	binary.BigEndian.PutUint16(msg[2:], uint16(len(msg)))
	return msg
}

// TestSessionTemplatesAreBounded has one address send templates without end.
func TestSessionTemplatesAreBounded(t *testing.T) {
	g := receive(t, fmt.Sprintf("ipfix+udp://127.0.0.1:%d", freePort(t)))
	from := stranger(1)
	for domain := range 64 {
		for k := range 10 {
			msg := manyTemplates(256 + 100*k)
			binary.BigEndian.PutUint32(msg[12:], uint32(domain))
			g.r.datagram(from, msg)
		}
	}
	if got := g.r.sessions[from].decoder.TemplateBytes(); got > maxTemplateBytes || got < maxTemplateBytes/2 {
		t.Errorf("templates of one session take %d bytes, want at most %d", got, maxTemplateBytes)
	}
	if s := g.r.Status(); s.Malformed == 0 {
		t.Error("templates beyond the bound were not counted")
	}
}

// TestStrangersAreNotDialled has exporters that offer repairs lose a datagram: only a
// known one is asked for it.
func TestStrangersAreNotDialled(t *testing.T) {
	for _, tt := range []struct {
		name, from string
		want       bool
	}{{"known", "127.0.0.1:4000", true}, {"stranger", "127.0.0.2:4000", false}} {
		t.Run(tt.name, func(t *testing.T) {
			from := netip.MustParseAddrPort(tt.from)
			l, err := net.Listen("tcp", netip.AddrPortFrom(from.Addr(), 0).String())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			g := receive(t, fmt.Sprintf("ipfix+udp://127.0.0.1:%d", freePort(t)))
			g.r.cfg.Known = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") }
			ctx, stop := context.WithCancel(t.Context())
			g.r.ctx = ctx // as Run sets it
			defer g.r.asking.Wait()
			defer stop()
			m := datagrams{from: from, w: ipfix.Writer{Domain: 1, RepairPort: uint16(l.Addr().(*net.TCPAddr).Port)}}
			g.r.datagram(from, m.templates())
			g.r.datagram(from, m.w.Statistics(nil, time.Now(), ipfix.Statistics{}))
			g.r.datagram(from, m.packet(0))
			m.packet(1) // lost
			g.r.datagram(from, m.packet(2))
			l.(*net.TCPListener).SetDeadline(time.Now().Add(2 * time.Second))
			conn, err := l.Accept()
			if err == nil {
				conn.Close()
			}
			if (err == nil) != tt.want {
				t.Errorf("asked for what is missing: %v, want %v", err == nil, tt.want)
			}
		})
	}
}

// TestListenAllow takes nothing from outside the networks that are allowed.
func TestListenAllow(t *testing.T) {
	g := receive(t, fmt.Sprintf("ipfix+udp://127.0.0.1:%d", freePort(t)))
	g.r.cfg.Allow = []netip.Prefix{netip.MustParsePrefix("11.0.0.0/30")}
	for i := range 8 {
		m := datagrams{w: ipfix.Writer{Domain: 1}, from: stranger(i)}
		g.r.datagram(m.from, m.templates())
		g.r.datagram(m.from, m.packet(i))
	}
	n, _ := g.get()
	if s := g.r.Status(); n != 4 || s.NotAllowed != 8 || s.Sessions != 4 {
		t.Errorf("got %d records, %+v; want 4 of 4 sessions, and 8 datagrams that are not allowed", n, s)
	}
}

// TestOtherProtocolsAreNamed says what datagrams are that are not IPFIX.
func TestOtherProtocolsAreNamed(t *testing.T) {
	for want, begin := range map[string][]byte{
		"it is NetFlow v5": {0, 5}, "it is NetFlow v9": {0, 9}, "it is NetFlow v7": {0, 7}, "it is sFlow v5": {0, 0, 0, 5},
	} {
		t.Run(want, func(t *testing.T) {
			g := receive(t, fmt.Sprintf("ipfix+udp://127.0.0.1:%d", freePort(t)))
			g.r.datagram(stranger(1), append(begin, make([]byte, 70)...))
			if text := strings.Join(g.said, "\n"); !strings.Contains(text, want) {
				t.Errorf("got %q, want %q in it", text, want)
			}
		})
	}
}
