package rollup

import (
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// A program that was stopped counts what had to wait in the seconds that it is of:
// there is no second with nothing, and none with what belongs to all.
func TestStalled(t *testing.T) {
	for _, stop := range []int64{4, 20, 50} {
		s := New(testConfig(1))
		const perSecond = 30
		second := func(sec int64) { // the packets of a second
			for i := range int64(perSecond) {
				r := wire.Record{Time: sec*nsPerSec + i*1e6, Src: hostAddr(0), Dst: hostAddr(1), DstPort: 5000, Length: 100, Flags: wire.Outgoing}
				s.Add(max(r.Time, s.nowNS), 0, &r)
			}
		}
		for sec := base; sec < base+10; sec++ {
			second(sec)
			s.Tick(sec*nsPerSec + 350e6)
		}
		back := base + 10 + stop
		s.Stalled(back * nsPerSec)
		s.Tick(back*nsPerSec + 1)
		if c := s.Snapshot().Complete; c >= base+10 {
			t.Errorf("stopped for %d s: second %d is complete before it has been counted", stop, c-base)
		}
		for sec := base + 10; sec < back; sec++ {
			second(sec)
		}
		for sec := back; sec < back+20; sec++ {
			second(sec)
			s.Tick(sec*nsPerSec + 350e6)
		}
		snap := s.Snapshot()
		for i, c := range snap.Overview(Window{From: base, To: back + 20, Step: 1}).Series {
			if c.Packets != perSecond {
				t.Errorf("stopped for %d s: second %d has %d packets, want %d", stop, i, c.Packets, perSecond)
			}
		}
		if snap.Late != 0 {
			t.Errorf("stopped for %d s: %d late", stop, snap.Late)
		}
		if n := int64(len(s.seconds)); n != s.late+s.future+1 {
			t.Errorf("%d seconds are open in the end, want %d", n, s.late+s.future+1)
		}
	}
}

// What has waited for too long is in no second, and they are unknown.
func TestStalledForLong(t *testing.T) {
	s := New(testConfig(1))
	add := func(at, now int64) {
		r := wire.Record{Time: at * nsPerSec, Src: hostAddr(0), Dst: hostAddr(1), DstPort: 5000, Length: 100, Flags: wire.Outgoing}
		s.Add(now*nsPerSec, 0, &r)
	}
	add(base, base)
	s.Tick((base + 1) * nsPerSec)
	back := base + 300
	s.Stalled(back * nsPerSec)
	for sec := base + 2; sec <= back; sec++ {
		add(sec, back)
	}
	for sec := back; sec < back+20; sec++ {
		s.Tick(sec * nsPerSec)
	}
	snap := s.Snapshot()
	w := snap.Fit(Window{From: base, To: back + 5, Step: 1})
	unknown := snap.Unknown(w)
	for i, c := range snap.Overview(w).Series {
		sec := w.From + int64(i)
		lost := sec > base+1 && sec < back-mostHeld
		if c.Packets > 1 || lost != unknown[i] && sec > base+1 || lost && c.Packets != 0 {
			t.Errorf("second %d has %d packets; unknown: %v, want %v", sec-base, c.Packets, unknown[i], lost)
		}
	}
	if want := uint64(300 - mostHeld - 2); snap.Late != want {
		t.Errorf("%d late, want %d", snap.Late, want)
	}
}

// While records wait on a bus their seconds stay open.
func TestPause(t *testing.T) {
	s := New(testConfig(1))
	s.Tick(base * nsPerSec)
	s.Pause(base * nsPerSec)
	s.Watch(base*nsPerSec, 0, false)
	for sec := base; sec < base+30; sec++ {
		s.Tick(sec * nsPerSec)
	}
	if unknown := s.Snapshot().Unknown(s.Snapshot().Fit(s.Snapshot().Last(10))); !unknown[0] || !unknown[9] {
		t.Errorf("%v, want all of it unknown", unknown)
	}
	s.Resume((base + 30) * nsPerSec)
	s.Watch((base+30)*nsPerSec, 0, true)
	for sec := base; sec < base+30; sec++ {
		r := wire.Record{Time: sec * nsPerSec, Src: hostAddr(0), Dst: hostAddr(1), DstPort: 5000, Length: 100, Flags: wire.Outgoing}
		s.Add((base+30)*nsPerSec+1e6, 0, &r)
	}
	for sec := base + 31; sec < base+60; sec++ {
		s.Tick(sec * nsPerSec)
	}
	for i, c := range s.Snapshot().Overview(Window{From: base, To: base + 30, Step: 1}).Series {
		if c.Packets != 1 {
			t.Errorf("second %d has %d packets, want 1", i, c.Packets)
		}
	}
}
