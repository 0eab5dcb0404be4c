package demo

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
)

var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// minute is a whole period from noon on.
func minute() []Record { return New(20).Records(nil, noon, noon.Add(Period)) }

// TestRepeatable: records are the same whenever they are made, and in whatever pieces.
func TestRepeatable(t *testing.T) {
	whole := minute()
	if !slices.Equal(whole, minute()) {
		t.Error("the second time there are other records")
	}
	network := New(20)
	var pieces []Record
	for at := time.Duration(0); at < Period; {
		next := min(at+37*time.Millisecond+at%11, Period)
		pieces = network.Records(pieces, noon.Add(at), noon.Add(next))
		at = next
	}
	seen := make(map[Record]int)
	for i := range whole {
		seen[whole[i]]++
	}
	for i := range pieces {
		seen[pieces[i]]--
	}
	for r, n := range seen {
		if n != 0 {
			t.Fatalf("made in pieces, %+v is there %d times less", r, n)
		}
	}
}

// TestContents: what the package's comment promises is there: each host has records, which are
// complete and on time, flows lose what they should, and the silent member gets no order.
func TestContents(t *testing.T) {
	hosts := New(20).Hosts()
	if len(hosts) != 20 {
		t.Fatalf("%d hosts", len(hosts))
	}
	by := make(map[int]int)
	var sent, received [Reports + 1]int
	var drops, slow, members int
	relays := map[int][2]int{}
	for _, r := range minute() {
		by[r.Agent]++
		if r.Digest == 0 || r.TTL == 0 || r.Length == 0 {
			t.Fatalf("not complete: %+v", r)
		}
		if late := r.Time - noon.Add(Period).UnixNano(); r.Time < noon.UnixNano() || late > int64(50*time.Millisecond) {
			t.Fatalf("at %v: %+v", time.Unix(0, r.Time), r)
		}
		switch {
		case r.Flags&wire.Dropped != 0 && r.Flow() == Voice:
			slow++
		case r.Flags&wire.Dropped != 0:
			drops++
		case r.Flow() == 0:
		case r.Flags&(wire.Outgoing|wire.Relayed) == wire.Outgoing:
			sent[r.Flow()]++
		case r.Flags&wire.Incoming != 0 && r.DstAddr() == hosts[r.Agent].Addr:
			received[r.Flow()]++
		}
		if r.Agent == Silent && r.Flow() == Orders {
			t.Fatalf("the silent member gets %+v", r)
		}
		if r.Agent == Silent && r.Proto == 2 {
			members++
		}
		if r.Flow() == Video && r.Flags&wire.Relayed != 0 {
			n := relays[r.Agent]
			n[(r.Time-noon.UnixNano())/int64(Period/2)%2]++
			relays[r.Agent] = n
		}
	}
	if len(by) != len(hosts) {
		t.Errorf("records of %d hosts", len(by))
	}
	for flow, percent := range map[uint32][2]float64{Video: {0.3, 2}, Voice: {5, 11}, Reports: {1.5, 5}} {
		lost := 100 * float64(sent[flow]-received[flow]) / float64(sent[flow])
		if sent[flow] < 1000 || lost < percent[0] || lost > percent[1] {
			t.Errorf("flow %d: %d sent, %d received: %.2f %% lost, want %v", flow, sent[flow], received[flow], lost, percent)
		}
	}
	if drops != sent[Reports]-received[Reports] {
		t.Errorf("%d drops, %d reports lost", drops, sent[Reports]-received[Reports])
	}
	if share := float64(slow) / float64(received[Voice]); share < 0.01 || share > 0.03 {
		t.Errorf("%d of %d voice packets are too many for the application", slow, received[Voice])
	}
	if members == 0 {
		t.Error("the silent member has not joined the group")
	}
	if first, second := relays[relay1], relays[relay2]; first[0] < 1400 || first[1] > 1 || second[0] > 1 || second[1] < 1400 {
		t.Errorf("the video is relayed %v and %v times", first, second)
	}
}

// TestSizes: networks of any size have as many agents, each with a name and an address of its own, and
// no records of others; the columns of a large one are alike.
func TestSizes(t *testing.T) {
	for _, n := range []int{1, 3, 10, 11, 20, 33, 200, Most} {
		w := New(n)
		names, addrs := map[string]bool{}, map[netip.Addr]bool{}
		for _, h := range w.Hosts() {
			names[h.Name], addrs[h.Addr] = true, true
			if w.Names()[h.Addr] != h.Name {
				t.Errorf("%d hosts: %s is called %q", n, h.Name, w.Names()[h.Addr])
			}
		}
		if len(names) != n || len(addrs) != n {
			t.Errorf("%d hosts have %d names and %d addresses", n, len(names), len(addrs))
		}
		by := make([]int, n)
		for _, r := range w.Records(nil, noon, noon.Add(8*time.Second)) {
			by[r.Agent]++
		}
		if i := slices.Index(by, 0); i >= 0 {
			t.Errorf("%d hosts: none of the records is of %s", n, w.Hosts()[i].Name)
		}
		if n >= 40 && math.Abs(float64(by[0])/float64(by[hosts])-1) > 0.1 {
			t.Errorf("%d records of base, %d of the second column's", by[0], by[hosts])
		}
		for _, m := range w.Members() {
			if m.Agent < 0 || m.Agent >= n || !m.Group.IsMulticast() {
				t.Errorf("%d hosts: member %+v", n, m)
			}
		}
	}
}
