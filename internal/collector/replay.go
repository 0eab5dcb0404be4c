package collector

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/pcapper/pcapper/internal/collector/replay"
	"github.com/pcapper/pcapper/internal/collector/screen"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/wire"
)

// Replay is a set of logs to replay instead of connecting to agents.
type Replay struct {
	files   []replay.File
	skipped []string // files that are not logs
	speed   float64
	from    replay.Place
}

// NewReplay finds the logs named by paths, which are files or directories. speed is a
// number, or 0 or "max" for as fast as possible; from is a time, see replay.ParsePlace,
// or "" for the beginning.
func NewReplay(paths []string, speed, from string) (*Replay, error) {
	r := &Replay{}
	var err error
	if r.speed, err = parseSpeed(speed); err != nil {
		return nil, err
	}
	if from != "" {
		if r.from, err = replay.ParsePlace(from); err != nil {
			return nil, err
		}
	}
	r.files, r.skipped, err = replay.Find(paths)
	return r, err
}

// Len returns the number of logs.
func (r *Replay) Len() int { return len(r.files) }

func parseSpeed(text string) (float64, error) {
	if text == "max" {
		return replay.Max, nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v < 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0, fmt.Errorf(`%q is not a speed: want a number, 1 for the records' own, or 0 or "max" for as fast as possible`, text)
	}
	return v, nil
}

// hosts returns the logs as agents of a configuration, with port 0.
func (r *Replay) hosts() (hosts []Host) {
	for _, f := range r.files {
		hosts = append(hosts, Host{Label: f.Label, Name: f.Path})
	}
	return hosts
}

// mostSkipped is the maximum number of files that are listed as not being logs.
const mostSkipped = 5

// startReplay creates the player, and one agent per log.
func (c *collector) startReplay(r *Replay, stay bool) {
	if n := len(r.skipped); n > 0 {
		more := ""
		if n > mostSkipped {
			more = fmt.Sprintf(" and %d more", n-mostSkipped)
		}
		c.say.printf("not a log: %s%s", strings.Join(r.skipped[:min(n, mostSkipped)], ", "), more)
	}
	c.player = replay.New(replay.Config{
		Files: r.files, Speed: r.speed, From: r.from, Stay: stay,
		Records: func(file int, records []wire.Record, played []int64, again bool) {
			c.all()[file].play(records, played, again)
		},
		Wait: c.caughtUp,
		Say:  c.say.printf,
	})
}

// newLog returns an agent whose records come from its log.
func newLog(c *collector, index uint32) *agent {
	a := &agent{c: c, index: index, host: &c.file.Hosts[index]}
	a.state.Store(&feed.ClientState{Phase: feed.Connected})
	return a
}

// play is take for records of a log, which may be repeated after rewinding.
func (a *agent) play(records []wire.Record, played []int64, again bool) {
	if !again {
		a.records.Add(uint64(len(records)))
	}
	a.publish(records, played, again)
}

// backlog is the number of records that may wait for the output while logs are
// replayed: half of the hub's capacity, so that nothing is lost.
const backlog = hubChunk * hubChunks / 2

// caughtUp waits while the output is behind.
func (c *collector) caughtUp(ctx context.Context) error {
	for c.hub.Backlog() > backlog {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// replayStatus describes the player's position, short enough for a line.
func replayStatus(s replay.Status, records uint64) string {
	if !s.Started {
		return "reading the logs"
	}
	text := fmt.Sprintf("%s  %3.0f %%  %s", replay.Time(s.Position)[:19], 100*s.Part(), speedText(s.Speed))
	if wait := time.Duration(s.Next - s.Position); wait >= time.Minute && !s.Seeking {
		text += fmt.Sprintf("  next traffic in %v", wait.Round(time.Second))
	}
	return text + "  " + count(records, "record")
}

func speedText(speed float64) string {
	if speed == replay.Max {
		return "as fast as possible"
	}
	return "x" + strconv.FormatFloat(speed, 'g', 4, 64)
}

// showProgress updates a line on stderr, if it is a terminal on which nothing else is
// displayed.
func (c *collector) showProgress(ctx context.Context, out output, stderr *os.File) {
	if _, live := out.(*liveView); live || c.player == nil || !term.IsTerminal(int(stderr.Fd())) {
		return
	}
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	defer c.say.progress("")
	for {
		width, _, err := term.GetSize(int(stderr.Fd()))
		if err != nil || width < 1 {
			width = 80
		}
		text := Prefix + replayStatus(c.player.Status(), c.totalRecords())
		c.say.progress(screen.Fit(text, width-1))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

const progressEvery = 500 * time.Millisecond

func (c *collector) totalRecords() (n uint64) {
	for _, a := range c.all() {
		n += a.records.Load()
	}
	return n
}

// done describes what has become of a log, for the summary.
func (a *agent) done() string {
	n := a.c.player.Count(int(a.index))
	text := count(n.Records, "record")
	if n.Foreign > 0 {
		text += ", " + count(n.Foreign, "foreign line")
	}
	if n.Torn {
		text += ", the end is cut off"
	}
	return text
}

// runPlayer replays, and reports why if it cannot.
func (c *collector) runPlayer(ctx context.Context) error {
	err := c.player.Run(ctx)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Steering is an action of View.Steer.
type Steering int

// Values of Steering.
const (
	Pause Steering = iota
	Resume
	Slower
	Faster
	Next    // skip a time without records
	Forward // by a duration
)

// Replay returns the state of the replay. It reports false if agents are used instead.
func (v *View) Replay() (s replay.Status, ok bool) {
	if v.c.player == nil {
		return s, false
	}
	return v.c.player.Status(), true
}

// Steer controls a replay. Without a replay it does nothing.
func (v *View) Steer(how Steering, by time.Duration) {
	p := v.c.player
	if p == nil {
		return
	}
	switch how {
	case Pause, Resume:
		if p.Status().Paused != (how == Pause) {
			p.Pause()
		}
	case Slower:
		p.Slower()
	case Faster:
		p.Faster()
	case Next:
		p.Next()
	case Forward:
		p.Step(by)
	}
}
