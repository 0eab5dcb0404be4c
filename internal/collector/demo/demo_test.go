package demo

import (
	"slices"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
)

var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// minute is a whole period from noon on.
func minute() []Record { return Records(nil, noon, noon.Add(Period)) }

// TestRepeatable: records are the same whenever they are made, and in whatever pieces.
func TestRepeatable(t *testing.T) {
	whole := minute()
	if !slices.Equal(whole, minute()) {
		t.Error("the second time there are other records")
	}
	var pieces []Record
	for at := time.Duration(0); at < Period; {
		next := min(at+37*time.Millisecond+at%11, Period)
		pieces = Records(pieces, noon.Add(at), noon.Add(next))
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
	hosts := Hosts()
	if len(hosts) != 20 {
		t.Fatalf("%d hosts", len(hosts))
	}
	by := make(map[int]int)
	var sent, received [Reports + 1]int
	var drops, members int
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
	if members == 0 {
		t.Error("the silent member has not joined the group")
	}
	if first, second := relays[relay1], relays[relay2]; first[0] < 1400 || first[1] > 1 || second[0] > 1 || second[1] < 1400 {
		t.Errorf("the video is relayed %v and %v times", first, second)
	}
}
