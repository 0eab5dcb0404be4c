package replay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Max is the speed without any waiting.
const Max = 0

// Config configures a Player.
type Config struct {
	Files []File
	// Speed is the factor relative to the records' own time; 0 is Max.
	Speed float64
	// From is where to start.
	From Place
	// Records is called with records of one file, in order; the slices are reused after
	// it returns. After rewinding, records are passed on again, with again set. played
	// holds when each record was due, in nanoseconds since the epoch; when not paced
	// (at Max, or while seeking) that is now. It never decreases, and is never in the
	// future.
	Records func(file int, records []wire.Record, played []int64, again bool)
	// Wait blocks while the receiver of the records is busy; nil means no waiting.
	Wait func(ctx context.Context) error
	// Say reports a problem with a file, each problem once.
	Say func(format string, args ...any)
	// Stay: do not end after the last record, because one may still rewind.
	Stay bool
}

// batchSize is the maximum number of records passed on at once.
const batchSize = 256

// Player plays logs. Except for Run, its methods are safe for concurrent use.
type Player struct {
	cfg      Config
	logs     []*log
	commands chan func(ctx context.Context) error

	queue   queue // logs that have a record, oldest first
	clock   clock
	horizon int64 // anything up to here may be played without checking the clock
	fast    int64 // up to here without waiting, after a step forward
	first   int64 // time of the first record at or after Config.From
	batch   []wire.Record
	played  []int64 // of the batch, see Config.Records
	newest  int64   // the latest of these so far
	source  int     // file of the batch
	again   bool
	since   int // records since the player last checked for commands

	size   int64 // of all files, in bytes
	mu     sync.Mutex
	status Status
}

// Status is the state of a Player.
type Status struct {
	// First is the time of the first record to play, Position the time being played,
	// Next the time of the next record; nanoseconds since the epoch. Position jumps at
	// the end, and is valid iff Started.
	First, Position, Next int64
	Started               bool // the files have been opened and their first records read
	Speed                 float64
	Paused                bool
	Seeking               bool // on the way to another place
	Ended                 bool
	Read, Size            int64 // bytes of the files
}

// Part returns the share of the files that has been read, 0 to 1.
func (s *Status) Part() float64 {
	if s.Size == 0 {
		return 1
	}
	return min(1, float64(s.Read)/float64(s.Size))
}

// Count holds the counters of a file's lines.
type Count struct {
	Records uint64 // played
	Foreign uint64 // lines that are not log lines
	Torn    bool   // the last line is incomplete, or the file could not be read completely
}

// New returns a player; Run plays.
func New(cfg Config) *Player {
	p := &Player{cfg: cfg, commands: make(chan func(context.Context) error, 16), batch: make([]wire.Record, 0, batchSize)}
	p.clock.speed, p.fast = cfg.Speed, minTime
	p.status.Speed = cfg.Speed
	for i := range cfg.Files {
		p.logs = append(p.logs, &log{path: cfg.Files[i].Path, file: i, say: p.say})
	}
	return p
}

func (p *Player) say(format string, args ...any) {
	if p.cfg.Say != nil {
		p.cfg.Say(format, args...)
	}
}

// Count returns the counters of a file so far.
func (p *Player) Count(file int) Count {
	c := &p.logs[file].counts
	return Count{c.records.Load(), c.foreign.Load(), c.torn.Load()}
}

// Status returns the player's state.
func (p *Player) Status() Status {
	p.mu.Lock()
	s := p.status
	p.mu.Unlock()
	s.Size = p.size
	for _, l := range p.logs {
		s.Read += l.consumed.Load()
	}
	return s
}

// errNothing means that there is no record at or after Config.From.
var errNothing = errors.New("nothing to replay")

// Run plays until the end, or until ctx is done, which is not an error.
func (p *Player) Run(ctx context.Context) error {
	defer func() {
		for _, l := range p.logs {
			l.close()
		}
	}()
	if err := p.start(ctx); err != nil {
		return ended(ctx, err)
	}
	for ctx.Err() == nil {
		if err := p.step(ctx); err != nil {
			p.flush(ctx)
			return ended(ctx, err)
		}
	}
	return nil
}

// errEnd means that everything has been played.
var errEnd = errors.New("end of the logs")

func ended(ctx context.Context, err error) error {
	if err == errEnd || ctx.Err() != nil {
		return nil
	}
	return err
}

// start opens the files and goes to where playing starts.
func (p *Player) start(ctx context.Context) error {
	for _, l := range p.logs {
		if err := l.rewind(mark{}); err != nil {
			return err
		}
		if info, err := os.Stat(l.path); err == nil {
			p.size += info.Size()
		}
		if l.next() {
			p.queue.push(l)
		}
	}
	if len(p.queue) == 0 {
		return fmt.Errorf("%w: the logs are empty", errNothing)
	}
	begin := p.queue[0].rec.Time
	p.first = begin
	if at := p.cfg.From.at(begin); at > begin {
		if err := p.skipTo(ctx, at); err != nil {
			return err
		}
		if len(p.queue) == 0 {
			return fmt.Errorf("%w from %s on: the logs begin at %s and end before that", errNothing,
				Time(at), Time(begin))
		}
		p.first = at
	}
	p.jump(p.queue[0].rec.Time)
	p.publish()
	return nil
}

// step plays what is due, or waits for that or a command.
func (p *Player) step(ctx context.Context) error {
	select {
	case command := <-p.commands:
		return p.obey(ctx, command)
	default:
	}
	if p.since >= breath {
		if err := p.breathe(ctx); err != nil {
			return err
		}
	}
	if len(p.queue) == 0 {
		return p.end(ctx)
	}
	due := p.due()
	if due <= 0 {
		p.play()
		return nil
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	return p.sleep(ctx, due)
}

// due returns how long the next record has to wait.
func (p *Player) due() time.Duration {
	t := p.queue[0].rec.Time
	if t <= p.horizon {
		return 0
	}
	if t < p.fast {
		p.horizon = p.fast - 1
		return 0
	}
	if p.fast != minTime {
		p.jump(p.fast)
		p.fast = minTime
	}
	if p.clock.paused {
		return math.MaxInt64
	}
	if p.clock.speed == Max {
		p.horizon = math.MaxInt64
		return 0
	}
	now := time.Now()
	if late := p.clock.at(now) - t; late > 0 {
		// The receiver is too slow for this speed; the time lost is not made up for
		// later.
		if float64(late) > p.clock.speed*float64(time.Second) {
			p.clock.set(now, t)
		}
		p.horizon = p.clock.at(now)
		return 0
	}
	return max(time.Millisecond, p.clock.until(now, t))
}

// lookEvery is the interval at which a waiting player updates its status.
const lookEvery = 100 * time.Millisecond

// sleep waits for a time or a command.
func (p *Player) sleep(ctx context.Context, d time.Duration) error {
	p.publish()
	timer := time.NewTimer(min(d, lookEvery))
	defer timer.Stop()
	select {
	case <-timer.C:
	case command := <-p.commands:
		return p.obey(ctx, command)
	case <-ctx.Done():
	}
	return nil
}

func (p *Player) obey(ctx context.Context, command func(context.Context) error) error {
	p.give()
	err := command(ctx)
	p.horizon = minTime
	p.publish()
	return err
}

// breath is the number of records after which a player that never waits checks for
// commands.
const breath = 4096

func (p *Player) breathe(ctx context.Context) error {
	p.since = 0
	p.publish()
	return p.flush(ctx)
}

// play passes on records of the log with the oldest one, until another log's is older
// or the next one is not due.
func (p *Player) play() {
	l := p.queue[0]
	limit := min(p.queue.second(), p.horizon)
	for n := 0; n < batchSize; n++ {
		p.add(l)
		if !l.next() {
			p.queue.pop()
			return
		}
		if l.rec.Time > limit {
			break
		}
	}
	p.queue.fix()
}

func (p *Player) add(l *log) {
	again := l.line <= l.played
	if len(p.batch) == batchSize || len(p.batch) > 0 && (p.source != l.file || p.again != again) {
		p.give()
	}
	p.source, p.again = l.file, again
	p.batch = append(p.batch, l.rec)
	if !again {
		l.played = l.line
		l.counts.records.Add(1)
	}
}

// give passes on the batch.
func (p *Player) give() {
	if len(p.batch) > 0 {
		p.cfg.Records(p.source, p.batch, p.when(), p.again)
		p.since += len(p.batch)
		p.batch = p.batch[:0]
	}
}

// when determines when the records of the batch were due.
func (p *Player) when() []int64 {
	now := time.Now()
	p.played = p.played[:0]
	for i := range p.batch {
		at := now.UnixNano()
		if t := p.batch[i].Time; t >= p.fast && p.clock.speed != Max {
			at = min(at, p.clock.wallAt(t))
		}
		p.newest = max(p.newest, at)
		p.played = append(p.played, p.newest)
	}
	return p.played
}

func (p *Player) flush(ctx context.Context) error {
	p.give()
	if p.cfg.Wait != nil {
		return p.cfg.Wait(ctx)
	}
	return nil
}

// end checks whether the files have grown, and otherwise ends or waits for a command to
// rewind.
func (p *Player) end(ctx context.Context) error {
	if err := p.flush(ctx); err != nil {
		return err
	}
	for _, l := range p.logs {
		if l.next() {
			p.queue.push(l)
		}
	}
	if len(p.queue) > 0 {
		return nil
	}
	for _, l := range p.logs {
		l.ended()
	}
	if !p.cfg.Stay {
		p.publish()
		return errEnd
	}
	return p.sleep(ctx, lookEvery)
}

// publish updates the status.
func (p *Player) publish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.status
	s.Started, s.First = true, p.first
	s.Speed, s.Paused = p.clock.speed, p.clock.paused
	s.Position = p.position()
	if s.Ended = len(p.queue) == 0; s.Ended {
		s.Seeking = false
		return
	}
	s.Next = p.queue[0].rec.Time
	s.Seeking = s.Next < p.fast
}

// position returns the time being played.
func (p *Player) position() int64 {
	if len(p.queue) == 0 {
		last := p.first
		for _, l := range p.logs {
			last = max(last, l.newest)
		}
		return last
	}
	next := p.queue[0].rec.Time
	if p.clock.speed == Max || next < p.fast {
		return next
	}
	return min(next, p.clock.at(time.Now()))
}

// forward plays up to t without waiting.
func (p *Player) forward(t int64) { p.fast = t }

// back rewinds to t.
func (p *Player) back(ctx context.Context, t int64) error {
	p.mu.Lock()
	p.status.Seeking = true
	p.mu.Unlock()
	p.fast = minTime
	if err := p.skipTo(ctx, t); err != nil {
		return err
	}
	p.jump(t)
	return nil
}

// skipTo makes the first record at or after t of each log its next one.
func (p *Player) skipTo(ctx context.Context, t int64) error {
	p.queue = p.queue[:0]
	for _, l := range p.logs {
		ok, err := l.skipTo(ctx, t)
		if err != nil {
			return err
		}
		if ok {
			p.queue.push(l)
		}
	}
	return nil
}

// jump makes t the time being played.
func (p *Player) jump(t int64) {
	p.clock.set(time.Now(), t)
	p.horizon = minTime
}
