package collector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/pcapper/pcapper/internal/collector/replay"
	"github.com/pcapper/pcapper/internal/collector/screen"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
)

const (
	// drawEvery is the interval at which rates are computed and displayed.
	drawEvery = time.Second
	// lookEvery is the interval at which the hub is emptied: far shorter than the time
	// to fill it, and of negligible cost.
	lookEvery = 100 * time.Millisecond
)

func canDraw(f *os.File) bool { return screen.CanDraw(f) }

// liveView counts what arrives and displays it once a second. It counts by arrival, not
// by the packets' times: otherwise a host with a wrong clock would have no rate.
type liveView struct {
	c       *collector
	reader  *hub.Reader[Item]
	stdout  *os.File // the terminal
	term    *screen.Terminal
	painter screen.Painter
	once    sync.Once
	stopped chan struct{}
	poked   chan struct{}
	counted atomic.Uint64 // records

	known   []*agent       // those for which there is room
	edition uint64         // edition of the collector's agents
	shown   []screen.Agent // of known, as last displayed

	rows    []screen.Flow // of any agent: flows in file order, then unmatched traffic
	rowOf   []int         // by index of flow line
	classes *classifier   // whose flow lines they are
	agents  []tally

	states []*feed.ClientState // as last displayed, by agent

	quality  map[hostRow]*quality // of MGEN messages
	showMGEN atomic.Bool          // toggled by a key
	showTalk atomic.Bool          // likewise, or set from the start

	said   map[talkKey]uint64 // bytes of conversations since the start
	saidTo int64              // up to this second

	since   time.Time // when counting for the current rates began
	played  int64     // the replay's time at since
	view    screen.View
	scratch []uint32
}

// tally is what has arrived from one agent since liveView.since.
type tally struct {
	sum         counts
	rows        []counts // as liveView.rows
	cpu, memory gauge
}

type counts struct {
	packets, bits uint64
	seen          bool // at any time
}

func (n *counts) add(packets, bits uint64) {
	n.packets += packets
	n.bits += bits
	n.seen = true
}

// take returns the rate over this number of seconds, and starts anew.
func (n *counts) take(seconds float64) screen.Rate {
	if seconds <= 0 {
		*n = counts{seen: n.seen}
		return screen.Rate{}
	}
	r := screen.Rate{Packets: float64(n.packets) / seconds, Bits: float64(n.bits) / seconds}
	n.packets, n.bits = 0, 0
	return r
}

// gauge is the last value of a host statistic, which arrives once a second.
type gauge struct {
	value float64
	at    time.Time // of arrival
}

// gaugeAge is the age at which a host statistic is no longer displayed.
const gaugeAge = 5 * time.Second

func (g gauge) show(now time.Time) screen.Gauge {
	return screen.Gauge{Value: g.value, Valid: !g.at.IsZero() && now.Sub(g.at) < gaugeAge}
}

func newLiveView(c *collector, cfg Config) (*liveView, error) {
	stdout, err := openAgain(cfg.Stdout)
	if err != nil {
		return nil, err
	}
	l := &liveView{
		c:       c,
		stdout:  stdout,
		painter: newPainter(),
		stopped: make(chan struct{}),
		poked:   make(chan struct{}, 1),
		quality: make(map[hostRow]*quality),
		said:    make(map[talkKey]uint64),
		scratch: make([]uint32, 0, len(c.file.Flows)),
		since:   time.Now(),
	}
	l.showTalk.Store(cfg.ShowTalk)
	l.view.ShowTalk, l.view.Page = cfg.ShowTalk, cfg.Page
	l.makeRows()
	l.makeAgents()
	if l.term, err = screen.Open(stdout); err != nil {
		stdout.Close()
		return nil, err
	}
	c.say.mute(term.IsTerminal(int(cfg.Stderr.Fd())))
	l.reader = c.hub.NewReader()
	return l, nil
}

func newPainter() screen.Painter {
	depth := os.Getenv("COLORTERM")
	return screen.Painter{
		Color:     os.Getenv("NO_COLOR") == "",
		TrueColor: depth == "truecolor" || depth == "24bit",
	}
}

func (l *liveView) makeAgents() {
	l.known = l.c.all()
	for i, a := range l.known {
		if i == len(l.agents) {
			l.agents = append(l.agents, tally{rows: make([]counts, len(l.rows))})
			l.states = append(l.states, nil)
			l.shown = append(l.shown, screen.Agent{State: screen.Dialling, Status: "dialling"})
		}
		address := a.host.Address()
		if name := l.c.names.Label(a.host.Label); name != "" {
			address = name + "  " + address
		}
		l.shown[i].Label, l.shown[i].Address = a.host.Label, address
	}
}

// meet adds agents that are new.
func (l *liveView) meet() {
	if edition := l.c.edition.Load(); edition != l.edition {
		l.edition = edition
		if l.classes != l.c.classes.Load() {
			l.makeRows()
			for i := range l.agents {
				l.agents[i].rows = make([]counts, len(l.rows))
			}
		}
		l.makeAgents()
	}
}

// present returns the agents to display: those currently configured.
func (l *liveView) present() []screen.Agent {
	l.view.Agents = l.view.Agents[:0]
	for i, a := range l.known {
		if !a.gone.Load() {
			l.view.Agents = append(l.view.Agents, l.shown[i])
		}
	}
	return l.view.Agents
}

// makeRows creates one row per flow number.
func (l *liveView) makeRows() {
	l.classes = l.c.classes.Load()
	rows, rowOf := rowsOf(l.classes.flows)
	l.rowOf, l.rows = rowOf, nil
	clear(l.quality)
	for i, row := range rows {
		flow := screen.Flow{Name: row.Name, Detail: row.Detail, Color: i}
		if i == len(rows)-1 {
			flow.Color = screen.Grey
		} else {
			style := l.c.palette.Flow(row.Number)
			if c := style.Color; c.Valid {
				flow.Color = screen.RGB(c.R, c.G, c.B)
			}
			if style.Name != "" {
				flow.Detail = style.Name + "  " + flow.Detail
			}
		}
		l.rows = append(l.rows, flow)
	}
}

// run counts and draws until it is stopped, then restores the terminal and counts what
// is left.
func (l *liveView) run() error {
	defer l.stdout.Close()
	defer l.reader.Close()
	defer l.stop()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGTSTP)
	defer signal.Stop(signals)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	defer l.readKeys()()
	for {
		if err := l.draw(); err != nil {
			return err
		}
		if !l.wait(look.C, signals) {
			return l.drain()
		}
	}
}

// readKeys reads keys until stop is called.
func (l *liveView) readKeys() (stop func()) {
	signal.Ignore(syscall.SIGTTIN)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.term.ReadKeys(ctx, l.typed); err != nil {
			l.c.say.printf("%v", err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// wait counts until there is something new to draw. It reports false when the view has
// to stop.
func (l *liveView) wait(look <-chan time.Time, signals <-chan os.Signal) bool {
	hurry := false
	for {
		select {
		case <-l.stopped:
			return false
		case s := <-signals:
			if s == syscall.SIGTSTP {
				l.suspend()
			}
			return true
		case <-l.poked:
			hurry = true // the player will have done it at the next look
		case now := <-look:
			l.count(now)
			if hurry { // even if new rates are not due
				l.hurry()
			}
			if l.update(now) || hurry {
				return true
			}
		}
	}
}

// drain counts what arrives until the hub is closed.
func (l *liveView) drain() error {
	for l.reader.Wait(context.Background()) == nil {
		l.count(time.Now())
	}
	return nil
}

// suspend handles Ctrl-Z, with the terminal restored while suspended.
func (l *liveView) suspend() {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	l.term.Close()
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGSTOP) // cannot fail for our own process
	select {
	case <-continued:
		_ = l.term.Resume() // if it fails, drawing fails and reports why
	case <-l.stopped:
	}
}

// count counts everything that the hub holds.
func (l *liveView) count(now time.Time) {
	for items := l.reader.Items(); len(items) > 0; items = l.reader.Items() {
		for i := range items {
			l.add(&items[i], now)
		}
		l.counted.Add(uint64(len(items)))
		l.reader.Advance(len(items))
	}
}

func (l *liveView) add(item *Item, now time.Time) {
	if item.Flags&wire.NotTraffic != 0 {
		return
	}
	if int(item.Host) >= len(l.agents) {
		l.makeAgents()
	}
	t := &l.agents[item.Host]
	value := item.GrapherValue()
	switch item.Stat() {
	case wire.CPU:
		t.cpu = gauge{float64(value), now} // ticks of 1/100 s in one second: percent
		return
	case wire.Memory:
		t.memory = gauge{float64(value), now}
		return
	}
	t.sum.add(item.Count(), value)
	lines := l.classes.of(item, l.scratch)
	if len(lines) == 0 {
		t.rows[len(t.rows)-1].add(item.Count(), value)
	}
	for _, line := range lines {
		t.rows[l.rowOf[line]].add(item.Count(), value)
	}
}

// update updates the view and reports whether anything has changed: rates every second,
// states of connections immediately.
func (l *liveView) update(now time.Time) bool {
	changed := l.edition != l.c.edition.Load()
	l.meet()
	changed = l.updateStates() || changed
	notice := ""
	if n := l.c.notice.Load(); n != nil {
		notice = *n
	}
	changed = changed || notice != l.view.Notice
	l.view.Notice = notice
	since := now.Sub(l.since)
	if since < drawEvery-lookEvery/2 {
		return changed
	}
	l.since = now
	l.view.Uptime = now.Sub(l.c.started)
	l.view.Lost = l.reader.Status().Lost
	l.view.Records = l.c.totalRecords()
	l.updateMGEN()
	l.updateTalk()
	seconds := since.Seconds()
	if l.c.player != nil {
		seconds = l.showReplay()
		if seconds == 0 {
			return true // paused: keep the last values
		}
	}
	for i := range l.agents {
		l.updateRates(i, now, seconds)
	}
	return true
}

// showReplay updates the header and returns the time, in the records' own seconds, over
// which rates have been counted: 0 if the replay did not advance, negative if it was
// rewound.
func (l *liveView) showReplay() (seconds float64) {
	s := l.showPosition()
	seconds = float64(s.Position-l.played) / 1e9
	if l.played == 0 {
		seconds = -1
	}
	if s.Started {
		l.played = s.Position
	}
	return seconds
}

// hurry shows what a key has changed before new rates are due.
func (l *liveView) hurry() {
	l.view.ShowMGEN, l.view.ShowTalk = l.showMGEN.Load(), l.showTalk.Load()
	l.updateMGEN()
	l.updateTalk()
	if l.c.player != nil {
		l.showPosition()
	}
}

func (l *liveView) showPosition() replay.Status {
	s := l.c.player.Status()
	l.view.Replay = &screen.Replay{
		Time: replay.Time(s.Position)[:19], Part: s.Part(), Speed: speedText(s.Speed),
		Gap: time.Duration(s.Next - s.Position), Paused: s.Paused, Seeking: s.Seeking,
		Starting: !s.Started, Ended: s.Ended,
	}
	if s.Ended {
		l.view.Replay.Gap = 0
	}
	return s
}

// typed handles a key.
func (l *liveView) typed(k screen.Key) {
	switch k {
	case 'q':
		l.c.quit()
	case 'm':
		l.showMGEN.Store(!l.showMGEN.Load())
	case 'c':
		l.showTalk.Store(l.showMGEN.Load() || !l.showTalk.Load())
		l.showMGEN.Store(false)
	}
	if l.c.player != nil {
		l.seek(k, l.c.player)
	}
	l.poke()
}

// seek handles a key in a replay.
func (l *liveView) seek(k screen.Key, p *replay.Player) {
	switch k {
	case ' ', 'p':
		p.Pause()
	case screen.KeyRight:
		p.Step(10 * time.Second)
	case screen.KeyLeft:
		p.Step(-10 * time.Second)
	case screen.KeyPageDown:
		p.Step(time.Minute)
	case screen.KeyPageUp:
		p.Step(-time.Minute)
	case screen.KeyUp, '+', '=':
		p.Faster()
	case screen.KeyDown, '-':
		p.Slower()
	case 'n':
		p.Next()
	case screen.KeyHome:
		p.Restart()
	}
}

// poke makes the view redraw soon.
func (l *liveView) poke() {
	select {
	case l.poked <- struct{}{}:
	default:
	}
}

func (l *liveView) updateRates(host int, now time.Time, seconds float64) {
	a, t := &l.shown[host], &l.agents[host]
	a.Rate = t.sum.take(seconds)
	a.CPU, a.Memory = t.cpu.show(now), t.memory.show(now)
	if a.Missing = ""; l.known[host].losses().Any() {
		a.Missing = l.known[host].losses().String()
	}
	a.Flows = a.Flows[:0]
	for i := range t.rows {
		if t.rows[i].seen {
			row := l.rows[i]
			row.Rate = t.rows[i].take(seconds)
			q := l.quality[hostRow{host, i}]
			row.Loss, row.Delay = q.loss(), q.meanDelay()
			a.Flows = append(a.Flows, row)
		}
	}
}

func (l *liveView) updateStates() (changed bool) {
	for i, a := range l.known {
		if s := a.state.Load(); l.states[i] != s {
			l.states[i] = s
			changed = showState(&l.shown[i], s) || changed
		}
		changed = showElsewhere(&l.shown[i], a.elsewhere.Load()) || changed
		if less := a.less(); l.shown[i].Less != less {
			l.shown[i].Less = less
			changed = true
		}
	}
	return changed
}

// showState stores s in a. While a failed agent is being reconnected, the screen
// continues to show why it failed.
func showState(a *screen.Agent, s *feed.ClientState) (changed bool) {
	old := *a
	switch s.Phase {
	case feed.Connected:
		a.State, a.Status = screen.Connected, ""
	case feed.Unreachable, feed.Lost:
		a.State, a.Status = screen.Failed, stateText(s)+"; trying again"
	}
	return old.State != a.State || old.Status != a.Status
}

// showElsewhere shows that another collector is connected to a, or no longer is.
func showElsewhere(a *screen.Agent, elsewhere bool) (changed bool) {
	if elsewhere == (a.Status == atAnother) {
		return false
	}
	a.State, a.Status = screen.Dialling, "dialling"
	if elsewhere {
		a.Status = atAnother
	}
	return true
}

func (l *liveView) draw() error {
	l.view.Agents = l.present()
	width, height := l.term.Size()
	if err := l.term.Draw(l.painter.Paint(&l.view, width, height)); err != nil {
		if errors.Is(err, syscall.EIO) {
			return errStdoutClosed // the terminal has gone
		}
		return fmt.Errorf("cannot draw: %w", err)
	}
	return nil
}

// stop restores the terminal immediately; messages go to stderr again.
func (l *liveView) stop() {
	l.once.Do(func() {
		close(l.stopped)
		_ = l.term.Close() // nothing can be done about a terminal that has gone
		l.c.say.mute(false)
	})
}

func (l *liveView) status() outputStatus {
	return outputStatus{done: count(l.counted.Load(), "record") + " shown", hub: l.reader.Status(), taken: l.counted.Load()}
}
