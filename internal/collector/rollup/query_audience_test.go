package rollup

import (
	"net/netip"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// TestReceivers: of the hosts that see packets arrive, only the destination, or a group's members, are receivers,
// whatever relays saw before and after a route change; members that get nothing are there, too; and what was sent
// is what arrived, was lost, and was not observed.
func TestReceivers(t *testing.T) {
	group := netip.MustParseAddr("239.1.1.1")
	cfg := testConfig(6)
	cfg.Members = func(a netip.Addr, _ Window) Membership {
		if a != group {
			return Membership{}
		}
		return Membership{Joined: map[int]int64{0: 0, 3: 0, 4: 0, 5: base + 7}, Told: map[int]bool{0: true, 2: true, 3: true, 4: true, 5: true}}
	}
	s := New(cfg)
	for host := range 6 {
		s.Watch(base*nsPerSec, host, true)
	}
	for i := range int64(200) {
		at := base*nsPerSec + i*nsPerSec/20
		add := func(host int, dst [16]byte, flow uint32, flags wire.Flags) {
			r := wire.Record{Time: at, Src: hostAddr(0), Dst: dst, Proto: wire.ProtoUDP, SrcPort: 4000, DstPort: 5000, Length: 100,
				FlowID: flow, MGENSeq: uint32(i + i/100*50), MGENTime: at / 1000, Flags: wire.MGEN | wire.MGENHeader | flags}
			s.Add(at, host, &r)
			at += 1e6
		}
		relay := 1 + int(i/100) // a route change
		unicast, multicast := hostAddr(3), group.As16()
		add(0, unicast, 1, wire.Outgoing)
		add(relay, unicast, 1, wire.Incoming)
		add(relay, unicast, 1, wire.Outgoing|wire.Relayed)
		if i%10 != 0 {
			add(3, unicast, 1, wire.Incoming)
		}
		add(0, multicast, 2, wire.Outgoing)
		add(1, multicast, 2, wire.Incoming) // it relays, and its memberships are not known
		add(1, multicast, 2, wire.Outgoing|wire.Relayed)
		add(2, multicast, 2, wire.Incoming)
		add(3, multicast, 2, wire.Incoming)
		if i == 100 { // a report of a membership, which only a router sees
			for host, flags := range map[int]wire.Flags{3: wire.Outgoing, 1: wire.Incoming} {
				s.Add(at, host, &wire.Record{Time: at, Src: hostAddr(3), Dst: multicast, Proto: 2, Length: 32, Flags: flags})
			}
		}
		add(4, hostAddr(4), 3, wire.Incoming) // so its agent reports what it receives
		add(5, hostAddr(5), 3, wire.Incoming)
	}
	s.Tick((base + 20) * nsPerSec)
	snap, w := s.Snapshot(), Window{From: base, To: base + 10, Step: 1}
	type row struct {
		host int
		role Role
		Delivery
	}
	for _, test := range []struct {
		flow uint32
		want []row
	}{
		{1, []row{{3, Receiver, Delivery{200, 180, 20, 0, 0}}, {1, Relay, Delivery{}}, {2, Relay, Delivery{}}}},
		{2, []row{{3, Member, Delivery{200, 200, 0, 0, 0}}, {4, Member, Delivery{200, 0, 200, 0, 0}}, {1, Relay, Delivery{}}, {2, Overhearer, Delivery{}}}},
	} {
		for _, f := range snap.MGEN(w).Flows {
			if f.ID != test.flow {
				continue
			}
			var got []row
			for i := range f.Receivers {
				r := row{f.Receivers[i].Host, f.Receivers[i].Role, Delivery{}}
				if r.role.Wants() {
					r.Delivery = f.Delivery(&f.Receivers[i])
				}
				got = append(got, r)
			}
			if len(got) != len(test.want) {
				t.Errorf("flow %d: %+v, want %+v", f.ID, got, test.want)
				continue
			}
			for i := range got {
				// The first packets of all do not tell by sequence numbers.
				if d := got[i].Lost - test.want[i].Lost; d+1 > 2 || got[i].Sent != got[i].Arrived+got[i].Lost+got[i].Unobserved {
					t.Errorf("flow %d: %+v, want %+v", f.ID, got[i], test.want[i])
				}
				got[i].Lost, got[i].Unobserved = test.want[i].Lost, 0
				if got[i] != test.want[i] {
					t.Errorf("flow %d: %+v, want %+v", f.ID, got[i], test.want[i])
				}
			}
		}
	}
	if n := len(snap.Groups(w).Groups); n != 1 {
		t.Fatalf("%d groups", n)
	}
	for _, sender := range snap.Groups(w).Groups[0].Senders {
		if sender.Host == 3 && (len(sender.Receivers) != 1 || sender.Receivers[0].Host != 1) {
			t.Errorf("the report of a membership is for %+v, want the router alone", sender.Receivers)
		}
	}
	roles := map[int]Role{}
	for _, r := range snap.Groups(w).Groups[0].Senders[0].Receivers {
		roles[r.Host] = r.Role
		if want := map[int]float64{1: 1, 2: 1, 3: 1, 4: 0}[r.Host]; r.Fraction != want || !r.Compared {
			t.Errorf("host %d gets %g of the group's packets (compared: %v), want %g", r.Host, r.Fraction, r.Compared, want)
		}
	}
	if len(roles) != 4 || roles[1] != Relay || roles[2] != Overhearer || roles[3] != Member || roles[4] != Member {
		t.Errorf("roles in the group: %v", roles)
	}
	if c := snap.Matrix(w, 10).Cells; c[0].Received.Packets != 180 || c[0].Loss.Lost != 20 {
		t.Errorf("the matrix says %+v, want what the destination got: 180 of 200", c[0])
	}
}
