package collector

import (
	"net/netip"
	"testing"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/wire"
)

// TestTalkKey: both directions of all connections of two hosts with one service
// are one conversation.
func TestTalkKey(t *testing.T) {
	me, it, group := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("224.0.0.251")
	web := talkKey{me, it, 443, wire.ProtoTCP}
	for _, c := range []struct {
		tuple rollup.Tuple
		key   talkKey
		back  bool
		text  string
	}{
		{rollup.Tuple{Src: me, Dst: it, SrcPort: 50000, DstPort: 443, Proto: wire.ProtoTCP}, web, false, "443 tcp"},
		{rollup.Tuple{Src: it, Dst: me, SrcPort: 443, DstPort: 50001, Proto: wire.ProtoTCP}, web, true, "443 tcp"},
		{rollup.Tuple{Src: it, Dst: me, Proto: wire.ProtoICMP}, talkKey{me, it, 0, wire.ProtoICMP}, true, "icmp"},
		{rollup.Tuple{Src: me, Dst: it, Proto: wire.ProtoICMP}, talkKey{me, it, 0, wire.ProtoICMP}, false, "icmp"},
		{rollup.Tuple{Src: it, Dst: group, SrcPort: 53, DstPort: 5353, Proto: wire.ProtoUDP}, talkKey{it, group, 5353, wire.ProtoUDP}, false, "5353 udp"},
		{rollup.Tuple{Src: me, Dst: it, Proto: 89}, talkKey{me, it, 0, 89}, false, "protocol 89"},
	} {
		key, back := newTalkKey(&c.tuple)
		if key != c.key || back != c.back || serviceText(key) != c.text {
			t.Errorf("%+v: %+v back %v %q", c.tuple, key, back, serviceText(key))
		}
	}
}
