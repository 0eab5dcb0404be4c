package collector

import (
	"slices"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// TestServices: a packet belongs to the service on either of its ports, and to
// one alone; a configuration's lines look at the destination only.
func TestServices(t *testing.T) {
	file, palette := Services()
	names, err := FlowNames(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		src, dst uint16
		proto    uint8
		want     string
	}{
		{50000, 443, wire.ProtoTCP, "web (TLS, QUIC)"},
		{443, 50000, wire.ProtoTCP, "web (TLS, QUIC)"},
		{443, 50000, wire.ProtoUDP, "web (TLS, QUIC)"},
		{443, 8080, wire.ProtoTCP, "web (TLS, QUIC)"},
		{8080, 443, wire.ProtoTCP, "web (TLS, QUIC)"},
		{5353, 5353, wire.ProtoUDP, "DNS"},
		{51820, 53, wire.ProtoUDP, "DNS"},
		{445, 40000, wire.ProtoTCP, "files"},
		{138, 138, wire.ProtoUDP, "files"},
		{40000, 40001, wire.ProtoUDP, ""},
		{443, 443, wire.ProtoICMP, ""},
	} {
		r := wire.Record{SrcPort: c.src, DstPort: c.dst, Proto: c.proto}
		got := names(&r)
		if c.want == "" && slices.Equal(got, []string{wire.Unmatched}) {
			continue
		}
		if len(got) != 1 || palette.Flow(number(got[0])).Name != c.want {
			t.Errorf("%d > %d: flows %q, want %q", c.src, c.dst, got, c.want)
		}
	}
	names, err = FlowNames(Parse("f", []byte("1=443\n")))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []wire.Record{{SrcPort: 443, DstPort: 50000, Proto: wire.ProtoTCP}, {SrcPort: 50000, DstPort: 443, Proto: wire.ProtoTCP}} {
		if got, want := names(&r)[0], map[uint16]string{443: "1", 50000: wire.Unmatched}[r.DstPort]; got != want {
			t.Errorf("a configuration's line: to port %d flow %q, want %q", r.DstPort, got, want)
		}
	}
}

// TestServicesApart: no port is in two services, and each has a name.
func TestServicesApart(t *testing.T) {
	file, palette := Services()
	of := make(map[uint32]uint32)
	for _, f := range file.Flows {
		if palette.Flow(f.ID).Name == "" {
			t.Errorf("flow %d has no name", f.ID)
		}
		if f.Kind == MGEN {
			continue
		}
		if f.First == 0 || f.First > f.Last || f.Last > f.Kind.limit() {
			t.Errorf("flow %v", f)
		}
		for port := f.First; port <= f.Last; port++ {
			if other, twice := of[port]; twice {
				t.Errorf("port %d is in flows %d and %d", port, other, f.ID)
			}
			of[port] = f.ID
		}
	}
}
