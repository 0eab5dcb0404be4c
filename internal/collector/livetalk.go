package collector

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/collector/screen"
	"github.com/pcapper/pcapper/wire"
)

const (
	// talkSeconds is the time over which rates of conversations are measured.
	talkSeconds = 5
	// mostTalkers is the maximum number of connection directions examined. A browser
	// has dozens with each host.
	mostTalkers = 1000
	// mostTalks is the maximum number of silent conversations that are remembered.
	mostTalks = 4096
)

// talkKey identifies a conversation: all connections between two hosts for one service.
type talkKey struct {
	a, b  netip.Addr // b provides the service, see newTalkKey
	port  uint16     // of the service; 0 without ports
	proto uint8
}

// talk is the traffic of a conversation.
type talk struct {
	key         talkKey
	there, back rollup.Counts
	row         int
}

// updateTalk updates the conversations if they are displayed, and always updates their
// totals.
func (l *liveView) updateTalk() {
	snap, w := l.last(talkSeconds)
	w.From = min(max(w.From, snap.Oldest), w.To) // otherwise the first rates would be too low
	l.sumTalk(snap, w)
	l.view.Conversations = l.view.Conversations[:0]
	if !l.view.ShowTalk {
		return
	}
	seconds := float64(max(1, w.Seconds()))
	for _, t := range talksOf(snap, w) {
		c := screen.Conversation{
			A: l.hostName(snap, t.key.a), B: l.hostName(snap, t.key.b), Service: serviceText(t.key), Color: l.rowColor(t.row),
			There: rateOf(t.there, seconds), Back: rateOf(t.back, seconds), Bytes: l.said[t.key],
		}
		l.view.Conversations = append(l.view.Conversations, c)
	}
}

// sumTalk adds up the seconds until w's end that have not been counted yet.
func (l *liveView) sumTalk(snap *rollup.Snapshot, w rollup.Window) {
	from := max(l.saidTo, w.From)
	if w.To <= from {
		return
	}
	l.saidTo = w.To
	if len(l.said) > mostTalks {
		clear(l.said)
	}
	for _, t := range talksOf(snap, rollup.Window{From: from, To: w.To, Step: 1}) {
		l.said[t.key] += t.there.Bytes + t.back.Bytes
	}
}

// talksOf returns the conversations in w, heaviest first.
func talksOf(snap *rollup.Snapshot, w rollup.Window) (list []*talk) {
	found := make(map[talkKey]*talk)
	talkers := snap.Talkers(w, mostTalkers)
	for i := range talkers.Talkers {
		x := &talkers.Talkers[i]
		key, back := newTalkKey(&x.Tuple)
		t := found[key]
		if t == nil {
			t = &talk{key: key, row: x.Row}
			found[key] = t
			list = append(list, t)
		}
		if back {
			t.back = t.back.Plus(x.Once)
		} else {
			t.there = t.there.Plus(x.Once)
		}
	}
	slices.SortStableFunc(list, func(a, b *talk) int {
		return cmp.Compare(b.there.Bytes+b.back.Bytes, a.there.Bytes+a.back.Bytes)
	})
	return list
}

// newTalkKey returns the conversation that packets belong to, and whether they are sent
// by b. The lower port is the service's, because clients mostly choose ports above
// 1023; a multicast group is always b.
func newTalkKey(t *rollup.Tuple) (key talkKey, back bool) {
	switch {
	case t.Dst.IsMulticast():
	case t.SrcPort != t.DstPort:
		back = t.SrcPort < t.DstPort
	default:
		back = t.Dst.Less(t.Src)
	}
	if back {
		return talkKey{t.Dst, t.Src, t.SrcPort, t.Proto}, true
	}
	return talkKey{t.Src, t.Dst, t.DstPort, t.Proto}, false
}

// hostName returns a host's name, its agent's label, or its address.
func (l *liveView) hostName(snap *rollup.Snapshot, a netip.Addr) string {
	if name := l.c.names.Addr(a); name != "" {
		return name
	}
	if host := snap.Owner(a); host >= 0 {
		return l.c.all()[host].host.Label
	}
	return a.String()
}

// rowColor returns the color of one of the store's rows.
func (l *liveView) rowColor(row int) int {
	rows := l.c.view.Rows()
	if row >= len(rows) {
		return screen.Grey
	}
	for i := range l.rows {
		if l.rows[i].Name == rows[row].Name {
			return l.rows[i].Color
		}
	}
	return screen.Grey
}

// serviceText formats the port and the protocol.
func serviceText(k talkKey) string {
	name := map[uint8]string{wire.ProtoICMP: "icmp", wire.ProtoTCP: "tcp", wire.ProtoUDP: "udp", 58: "icmpv6", wire.ProtoSCTP: "sctp", 2: "igmp"}[k.proto]
	if name == "" {
		name = fmt.Sprintf("protocol %d", k.proto)
	}
	if k.port == 0 {
		return name
	}
	return strconv.Itoa(int(k.port)) + " " + name
}
