package collector

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/transport/feed"
)

// watched is what a View's store has been told about an agent.
type watched struct {
	told        bool // the store has been told at all
	is          bool
	connections uint64 // at the time of the last report
	losses      uint64
	lossesAt    int64 // the second when losses was last checked
}

// observe tells the store which agents are being watched, and of lost records. It is
// called by the goroutine that fills the store.
func (v *View) observe(now time.Time) {
	if v.c.player != nil || v.known == nil { // there may be no agents yet
		return
	}
	v.observeBus(now)
	for i, a := range *v.known {
		if i == len(v.watched) {
			v.watched = append(v.watched, watched{})
		}
		switch w := &v.watched[i]; {
		case a.knowsWhen():
			v.observeAgent(i, a, w, now)
		case a.followed != nil && w.told: // it was known from the archive, and is now collected by others
			w.told = false
			v.store.Watch(now.UnixNano(), i, !v.away)
		}
	}
	lost := v.reader.Status().Lost
	if sec := now.Unix(); lost != v.lost {
		for i := range v.watched {
			v.store.Missed(i, v.lostAt, sec+1)
		}
		v.lost, v.lostAt = lost, sec
		v.losing.Store(sec)
	} else {
		v.lostAt = sec
	}
}

// observeBus tells the store while the followed agents' records cannot arrive. They
// wait on the bus, or at other collectors.
func (v *View) observeBus(now time.Time) {
	f := v.c.follow
	if f == nil || f.Connected == nil {
		return
	}
	away := !f.Connected()
	if away == v.away {
		return
	}
	v.away = away
	if away {
		v.store.Pause(now.UnixNano())
	} else {
		v.store.Resume(now.UnixNano())
	}
	for i := range *v.known {
		v.store.Watch(now.UnixNano(), i, !away)
	}
}

// knowsWhen reports whether the state of a's connection shows when it is being watched.
// For exporters that connect to us or send datagrams, that is unknown.
func (a *agent) knowsWhen() bool { return a.client != nil || a.gone.Load() }

func (v *View) observeAgent(i int, a *agent, w *watched, now time.Time) {
	connections, state := a.connections.Load(), a.state.Load()
	is := state.Phase == feed.Connected && !a.gone.Load()
	at := now.UnixNano()
	if !is && w.is {
		at = v.goneSince(i, a, at)
	}
	if w.told && is && w.is && connections != w.connections { // it was away between two checks
		v.store.Watch(at, i, false)
	}
	if !w.told || is != w.is || connections != w.connections {
		if is && !w.told { // it was not watched until now
			v.store.Watch(v.c.started.UnixNano(), i, false)
		}
		v.store.Watch(at, i, is)
	}
	w.told, w.is, w.connections = true, is, connections
	v.observeLosses(i, a, w, now.Unix())
}

// observeLosses reports records that were lost by the agent, or between it and us.
func (v *View) observeLosses(i int, a *agent, w *watched, sec int64) {
	if sec == w.lossesAt {
		return
	}
	l := a.losses()
	if n := l.Missing + l.NotSent + l.Ignored + l.Unknown + l.Malformed; n != w.losses {
		w.losses = n
		v.store.Missed(i, max(w.lossesAt, sec-lossDelay), sec+1)
	}
	w.lossesAt = sec
}

// lossDelay is the approximate age, in seconds, of an agent's report of its losses.
const lossDelay = 2

// goneSince returns the time since which an agent has not been watched. One that does
// not respond has been away since its last record, or since the kernel began to probe
// it.
func (v *View) goneSince(i int, a *agent, now int64) int64 {
	failed := a.failed.Load()
	if failed == nil || !errors.Is(failed.Err, syscall.ETIMEDOUT) && !errors.Is(failed.Err, os.ErrDeadlineExceeded) {
		return now
	}
	return max(now-int64(feed.DeadAfter), min(now, v.store.Newest(i)))
}
