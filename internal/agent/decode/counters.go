package decode

import "github.com/pcapper/pcapper/internal/agent/mgen"

// Counters account for every frame: each either yielded records or is counted under
// exactly one kind or reason.
type Counters struct {
	Frames  uint64 // passed to Decode
	Records uint64 // returned by Decode and Drain

	// Frames without an IP packet, by kind.
	ARP, RARP, LLC, LLDP, EAPOL, PPPoEDiscovery, PPP, MPLS, BATMAN, WiFi, OtherEtherType uint64

	// Frames without a record, by reason.
	ShortLink         uint64 // the link header, a tag, or a label is cut off
	ShortIP           uint64 // the IP header's fixed part is cut off
	BadVersion        uint64 // the IP version contradicts the link header
	BadIHL            uint64 // the IPv4 header length is below 20 bytes
	BadLength         uint64 // the IPv4 total length is below the header length
	BATMANParts       uint64 // parts of packets split by batman-adv, except first parts
	WiFiEncrypted     uint64 // 802.11 data that cannot be read
	WiFiFragments     uint64 // later fragments of 802.11 frames
	WiFiDamaged       uint64 // 802.11 frames with a wrong frame check sequence
	FragmentsLeftOut  uint64 // later fragments, skipped by FirstOnly
	FragmentsUnwanted uint64 // fragments of datagrams that the filter rejects

	// Records with special properties.
	Truncated         uint64 // an upper-layer or extension header is cut off
	Fragments         uint64 // fragments, all of them
	FragmentsUnknown  uint64 // later ones whose first fragment was not seen or has been forgotten
	FragmentsExpired  uint64 // those whose first fragment was too long ago
	FragmentsEvicted  uint64 // first fragments forgotten for lack of room
	SuperPackets      uint64 // frames that stood for several packets and were segmented
	Segments          uint64 // the packets that they were segmented into
	SuperPacketsWhole uint64 // frames that stand for several packets that cannot be separated
	BMF               uint64 // packets found inside BMF encapsulation
	Inner             uint64 // packets found inside tunnels
	Relayed           uint64 // sent by this host on behalf of others
	BadTCPOffset      uint64 // TCP headers shorter than 20 bytes or longer than the packet

	// MGEN verdicts on UDP payloads, by reason.
	MGEN          [mgen.Reasons]uint64
	MGENElsewhere uint64 // accepted although they name another destination (NAT, relay)

	// MGEN on TCP.
	MGENSegmentStarts    uint64 // segments with a header
	MGENSegmentContinues uint64 // segments with the rest of a message
	MGENSegmentUnknown   uint64 // segments of an MGEN connection whose flow is unknown
	StreamsEvicted       uint64 // connections forgotten for lack of room
}

// notIP counts a frame without an IP packet, by its EtherType or by what through found
// instead.
func (c *Counters) notIP(proto int) {
	switch {
	case proto == etherARP:
		c.ARP++
	case proto == etherRARP:
		c.RARP++
	case proto == etherLLDP:
		c.LLDP++
	case proto == etherEAPOL:
		c.EAPOL++
	case proto == etherPPPoEDiscovery:
		c.PPPoEDiscovery++
	case proto == cutShort:
		c.ShortLink++
	case proto == pppOther:
		c.PPP++
	case proto == mplsOther:
		c.MPLS++
	case proto == batmanOther:
		c.BATMAN++
	case proto == batmanPart:
		c.BATMANParts++
	case proto == wifiOther:
		c.WiFi++
	case proto == wifiEncrypted:
		c.WiFiEncrypted++
	case proto == wifiPart:
		c.WiFiFragments++
	case proto == wifiAggregate:
		c.SuperPackets++
	case proto == wifiDamaged:
		c.WiFiDamaged++
	case proto < etherMin:
		c.LLC++
	default:
		c.OtherEtherType++
	}
}

// WithoutRecord calls f for every reason why a frame yielded no record, with a
// printable name.
func (c *Counters) WithoutRecord(f func(reason string, frames uint64)) {
	f("arp", c.ARP)
	f("rarp", c.RARP)
	f("llc", c.LLC)
	f("lldp", c.LLDP)
	f("eapol", c.EAPOL)
	f("pppoe discovery", c.PPPoEDiscovery)
	f("ppp, not ip", c.PPP)
	f("mpls, not ip", c.MPLS)
	f("batman-adv, no packet", c.BATMAN)
	f("batman-adv, later parts", c.BATMANParts)
	f("802.11, no data", c.WiFi)
	f("802.11, encrypted", c.WiFiEncrypted)
	f("802.11, later fragments", c.WiFiFragments)
	f("802.11, damaged", c.WiFiDamaged)
	f("other ethertype", c.OtherEtherType)
	f("short link header", c.ShortLink)
	f("short ip header", c.ShortIP)
	f("bad ip version", c.BadVersion)
	f("bad ip header length", c.BadIHL)
	f("bad ip total length", c.BadLength)
	f("later fragments left out", c.FragmentsLeftOut)
	f("fragments of datagrams that the filter leaves out", c.FragmentsUnwanted)
}

// Each calls f for every counter, with a name for the summary.
func (c *Counters) Each(f func(name string, n uint64)) {
	f("frames", c.Frames)
	f("records", c.Records)
	c.WithoutRecord(f)
	f("truncated headers", c.Truncated)
	f("bad tcp data offset", c.BadTCPOffset)
	f("fragments", c.Fragments)
	f("fragments before their first", c.FragmentsUnknown)
	f("fragments after expiry", c.FragmentsExpired)
	f("fragment table evictions", c.FragmentsEvicted)
	f("super-packets cut", c.SuperPackets)
	f("segments of super-packets", c.Segments)
	f("super-packets left whole", c.SuperPacketsWhole)
	f("bmf packets", c.BMF)
	f("packets inside tunnels", c.Inner)
	f("relayed", c.Relayed)
	for r, n := range c.MGEN {
		f(mgenNames[r], n)
	}
	f("mgen for another destination", c.MGENElsewhere)
	f("mgen tcp segments with header", c.MGENSegmentStarts)
	f("mgen tcp segments without header", c.MGENSegmentContinues)
	f("mgen tcp segments of unknown flow", c.MGENSegmentUnknown)
	f("tcp table evictions", c.StreamsEvicted)
}

// mgenNames are the names of the verdicts on UDP payloads.
var mgenNames = func() (names [mgen.Reasons]string) {
	names[mgen.Accepted] = "mgen datagrams"
	for r := mgen.Accepted + 1; r < mgen.Reasons; r++ {
		names[r] = "not mgen: " + r.String()
	}
	return names
}()
