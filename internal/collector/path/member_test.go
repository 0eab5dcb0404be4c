package path

import (
	"net/netip"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// list has an agent tell its groups, of which lost do not arrive.
func (w *world) list(agent string, lost int, groups ...string) {
	w.now += 1e6
	for _, g := range groups[lost:] {
		r := wire.Membership(w.now, netip.MustParseAddr(g))
		w.e.AddOne(w.now, w.e.Agent(agent), &r)
	}
	r := wire.Memberships(w.now, len(groups))
	w.e.AddOne(w.now, w.e.Agent(agent), &r)
}

// settle lets changes take effect.
func (w *world) settle() {
	w.now += 2e9
	w.e.Tick(w.now)
}

// TestMemberships: packets count as missed only by who was a member when they were sent, and whose
// agent was watching.
func TestMemberships(t *testing.T) {
	const group = "239.1.2.3"
	w := newWorld(t, Config{Window: 1})
	for _, a := range []string{"n1", "always/a", "always/b", "later", "left", "silent", "away", "deaf", "unsure", "hears"} {
		w.e.Watch(w.e.Agent(a), start, true)
	}
	w.list("always/a", 0, group, "ff05::5")
	w.list("always/b", 0)
	w.list("left", 0, group)
	w.list("silent", 0, group)
	w.list("away", 0, group)
	w.list("deaf", 0, group)
	w.list("hears", 0, "239.1.2.4")
	send := func(n int, heardBy ...string) {
		for range n {
			p := w.packet("10.0.0.1", group, 5000).sent("n1")
			at := p.at
			for _, a := range heardBy {
				p.at = at
				p.got(a)
			}
			w.now += 1e6
			w.e.Tick(w.now)
		}
	}
	w.settle()
	send(100, "always/b", "later", "left", "away", "hears", "unsure")
	w.list("later", 0, group)
	w.list("deaf", 1, group, "239.1.2.4") // cut off: it changes nothing
	w.list("always/b", 0, group)
	w.settle()
	w.e.Watch(w.e.Agent("away"), w.now, false)
	send(50, "always/b", "left", "hears", "unsure")
	// It has left, and is noticed some packets later.
	send(10, "always/b", "later", "hears", "unsure")
	w.list("left", 0)
	w.list("always/a", 0) // the other interface has not joined
	w.settle()
	send(40, "always/b", "later", "hears", "unsure")
	w.now += 5e9
	w.e.Tick(w.now)
	w.e.Watch(w.e.Agent("away"), w.now, true)
	w.now += 5e9
	send(7, "always/b", "later", "away", "hears", "unsure")
	f := w.one()
	for _, r := range f.Nodes {
		want, ok := map[string]Role{
			"n1":     {Role: "source", Share: 1},
			"always": {Role: "member", Received: 207, Expected: 207, Share: 1},
			"later":  {Role: "member", Received: 57, Expected: 107, Share: 57. / 107},
			"left":   {Role: "member", Received: 150, Expected: 150, Share: 1},
			"silent": {Role: "member", Expected: 207},
			"away":   {Role: "member", Received: 107, Expected: 107, Unobserved: 100, Share: 1},
			"deaf":   {Role: "member", Expected: 207},
			"unsure": {Role: "receiver", Received: 207, Share: 1},
			"hears":  {Role: "overhearer", Received: 207, Share: 1},
		}[r.Node]
		want.Node = r.Node
		if measured := r.Received > 0 && r.Role != "overhearer"; measured != (r.Delay != nil) {
			t.Errorf("%s: a %s's delay is %+v", r.Node, r.Role, r.Delay)
		}
		r.Delay = nil
		if !ok || r != want {
			t.Errorf("got %+v, want %+v", r, want)
		}
	}
	for _, test := range []struct {
		from, to int64
		member   string
		want     bool
	}{{0, 1 << 40, "always/a", true}, {0, 1 << 40, "always/b", true}, {0, 1 << 40, "left", true}, {1 << 39, 1 << 40, "left", false}, {1 << 39, 1 << 40, "always/a", false}, {1 << 39, 1 << 40, "always/b", true}, {0, 1 << 40, "hears", false}} {
		members, telling := w.e.Membership(netip.MustParseAddr("239.1.2.3"), test.from, test.to)
		if _, is := members[test.member]; is != test.want || telling["unsure"] || !telling["always/b"] {
			t.Errorf("from %d to %d, %s is a member: %v, want %v; telling: %v", test.from, test.to, test.member, is, test.want, telling)
		}
	}
	if len(f.Nodes) != 9 {
		t.Errorf("%d nodes, want 9", len(f.Nodes))
	}
}
