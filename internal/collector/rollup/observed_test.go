package rollup

import (
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// outage is 20 s of an MGEN flow from host 0 to host 1, ten messages a second, of
// which the receiver's agent does not see the seconds from 8 to 14 (as told by
// Watch), and the packets whose number lost has are not received at all.
func outage(cfg Config, lost func(seq uint32) bool) *Store {
	s := New(cfg)
	for i := range int64(200) {
		t := base*nsPerSec + i*nsPerSec/10
		r := wire.Record{
			Time: t, Src: hostAddr(0), Dst: hostAddr(1), Proto: wire.ProtoUDP, SrcPort: 4000, DstPort: 5000,
			Length: 100, FlowID: 1, MGENSeq: uint32(i), MGENTime: t / 1000, Flags: wire.MGEN | wire.MGENHeader,
		}
		switch i {
		case 0:
			s.Watch(t, 0, true)
			s.Watch(t, 1, true)
		case 80:
			s.Watch(t+1e6, 1, false)
		case 145:
			s.Watch(t+1e6, 1, true)
		}
		sent, received := r, r
		sent.Flags |= wire.Outgoing
		received.Flags |= wire.Incoming
		s.Add(t, 0, &sent)
		if (i < 80 || i > 145) && !lost(uint32(i)) {
			s.Add(t, 1, &received)
		}
		if i%10 == 9 {
			s.Tick(t + 5e7)
		}
	}
	s.Tick((base + 21) * nsPerSec)
	return s
}

// An agent that was away for some seconds has lost nothing: what was sent
// meanwhile is unknown at the receiver, in every table and series. What was lost
// while both were watching is lost.
func TestAgentAwayIsNoLoss(t *testing.T) {
	for name, test := range map[string]struct {
		lost func(uint32) bool
		want uint64
	}{
		"none":  {func(uint32) bool { return false }, 0},
		"a few": {func(seq uint32) bool { return seq%50 == 33 }, 2}, // 33 and 183
	} {
		snap := outage(testConfig(2), test.lost).Snapshot()
		for _, step := range []int64{1, 5} {
			w := Window{From: base, To: base + 20, Step: step}
			want := test.want
			c := snap.Matrix(w, 10).Cells[0]
			if !c.Loss.Valid || c.Loss.Lost != want || c.Loss.Expected != 130 {
				t.Errorf("%s, step %d: the matrix says %+v, want %d of 130 lost", name, step, c.Loss, want)
			}
			f := snap.MGEN(w).Flows[0]
			if l := f.Receivers[0].Loss; !l.Valid || l.Lost != want {
				t.Errorf("%s, step %d: MGEN says %+v, want %d lost", name, step, l, want)
			}
		}
		w := snap.Fit(Window{From: base, To: base + 20, Step: 1})
		for i, unknown := range snap.Unknown(w, 1) {
			if want := i > 8 && i < 14; unknown != want {
				t.Errorf("%s: second %d of the receiver is unknown: %v, want %v", name, i, unknown, want)
			}
		}
		for i, unknown := range snap.Unknown(w) {
			if unknown {
				t.Errorf("%s: second %d is unknown, although an agent was watching", name, i)
			}
		}
	}
}

// Nothing can be said of a loss when the receiver's agent was away all of the time.
func TestLossUnknown(t *testing.T) {
	snap := outage(testConfig(2), func(uint32) bool { return false }).Snapshot()
	w := Window{From: base + 9, To: base + 14, Step: 1}
	for _, c := range snap.Matrix(w, 10).Cells {
		if c.Loss.Valid {
			t.Errorf("the matrix says %+v of a time when nobody watched the receiver", c.Loss)
		}
	}
	for _, f := range snap.MGEN(w).Flows {
		for _, r := range f.Receivers {
			if r.Loss.Valid {
				t.Errorf("MGEN says %+v of a time when nobody watched the receiver", r.Loss)
			}
		}
	}
}

// Records that got lost on their way to us are no loss of the network's.
func TestMissedIsNoLoss(t *testing.T) {
	s := outage(testConfig(2), func(seq uint32) bool { return seq >= 20 && seq < 27 })
	s.Missed(1, base+2, base+3)
	s.Tick((base + 21) * nsPerSec)
	w := Window{From: base, To: base + 20, Step: 1}
	if l := s.Snapshot().Matrix(w, 10).Cells[0].Loss; !l.Valid || l.Lost != 0 || l.Expected != 120 {
		t.Errorf("%+v, want none of 120 lost", l)
	}
	if l := s.Snapshot().MGEN(w).Flows[0].Receivers[0].Loss; !l.Valid || l.Lost != 0 {
		t.Errorf("MGEN: %+v, want none lost", l)
	}
	for i, unknown := range s.Snapshot().Unknown(w, 1) {
		if want := i > 8 && i < 14; unknown != want {
			t.Errorf("second %d is unknown: %v, want %v", i, unknown, want)
		}
	}
}

// What an agent was watching outlives the program.
func TestBlanksKept(t *testing.T) {
	dir := t.TempDir()
	open := func() *Archive {
		a, err := OpenArchive(ArchiveConfig{Dir: dir, Hosts: []Host{{Label: "a"}, {Label: "b"}}, Rows: []Row{{Name: "0"}, {Name: "1"}, {Name: "2"}, {Name: "X"}}})
		if err != nil {
			t.Fatal(err)
		}
		go a.Run()
		return a
	}
	cfg := testConfig(2)
	cfg.Archive = open()
	cfg.Hosts = cfg.Archive.Hosts()
	s := outage(cfg, func(uint32) bool { return false })
	s.Watch((base+21)*nsPerSec, 0, false) // and it never comes back
	s.Close()

	cfg.Archive = open()
	s = New(cfg)
	s.Tick((base + 60) * nsPerSec)
	defer s.Close()
	w := Window{From: base, To: base + 30, Step: 1}
	if got := s.Snapshot().Blanks(1, w); len(got) != 1 || got[0].Run != (Run{base + 8, base + 15}) {
		t.Errorf("after a restart: %+v, want 8 to 15", got)
	}
	if got := s.Snapshot().Blanks(0, w); len(got) != 1 || got[0].Run != (Run{base + 21, base + 22}) {
		t.Errorf("after a restart: %+v, want from 21 to the end of the run", got)
	}
	if l := s.Snapshot().Matrix(w, 10).Cells[0].Loss; !l.Valid || l.Lost != 0 {
		t.Errorf("after a restart the matrix says %+v, want no loss", l)
	}
}

// A 28-byte feed of what an agent receives is not taken for the sender's.
func TestUnwatchedSender(t *testing.T) {
	s := New(testConfig(2))
	for i := range int64(50) {
		for src := 5; src < 8; src++ { // hosts that have no agents
			r := wire.Record{Time: (base + i/10) * nsPerSec, Src: hostAddr(src), Dst: group, Proto: wire.ProtoUDP, DstPort: 5000, Length: 100}
			s.Add(r.Time, 0, &r)
			in := r
			in.Flags = wire.Incoming
			if i%2 == 0 {
				s.Add(r.Time, 1, &in)
			}
		}
	}
	s.Tick((base + 8) * nsPerSec)
	for _, g := range s.Snapshot().Groups(Window{From: base, To: base + 6, Step: 1}).Groups {
		for _, sender := range g.Senders {
			if sender.Watched {
				t.Errorf("sender %v has no agent, but counts as watched", sender.Src)
			}
		}
	}
}
