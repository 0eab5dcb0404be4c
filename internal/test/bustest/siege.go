package bustest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// Siege is a run in which processes are killed.
type Siege struct {
	Dir string
	// Local is one process without a bus, which writes what it publishes. Otherwise
	// there are three servers, Publishers and Writers.
	Local               bool
	Publishers, Writers int
	Rate                int // records/s of all publishers
	Batch               int
	Kills               int
	Pause               time.Duration // between kills, on average
	// Overlap: kill on while servers are behind the others. Without, each kill finds
	// three that are whole. If the only one that is has been killed, nothing is
	// acknowledged until it is back, which is after overlapTime.
	Overlap bool
	// Only, if it is not empty, is what is killed in turns: "leader", "writer",
	// "publisher", "node", or "all" servers. Or else it is random.
	Only []string
	Say  func(format string, args ...any)
}

// Result is what came of it.
type Result struct {
	Killed                      map[string]int
	Acknowledged, Lost, Doubled uint64        // records
	Outage                      time.Duration // the longest in which nothing of a publisher was acknowledged
	Took                        time.Duration // publishing
	CaughtUp                    time.Duration // the writers, when publishing had ended
	Behind                      time.Duration // the longest that a server took to have all again
	Kept                        uint64        // acknowledged or not
}

// Table is the result in Markdown.
func (r *Result) Table() string {
	rows := [][2]string{
		{"killed", fmt.Sprint(r.Killed)[len("map"):]},
		{"acknowledged records", fmt.Sprint(r.Acknowledged)},
		{"records/s that were acknowledged, while publishing", fmt.Sprintf("%.0f", float64(r.Acknowledged)/r.Took.Seconds())},
		{"records in committed segments", fmt.Sprint(r.Kept)},
		{"acknowledged and in none", fmt.Sprint(r.Lost)},
		{"in more than one", fmt.Sprint(r.Doubled)},
		{"longest time without an acknowledgement", r.Outage.Round(100 * time.Millisecond).String()},
		{"longest time until a server had all again", r.Behind.Round(100 * time.Millisecond).String()},
		{"writers had caught up after", r.CaughtUp.Round(100 * time.Millisecond).String()},
	}
	text := "| | |\n|---|---|\n"
	for _, row := range rows {
		text += "| " + row[0] + " | " + row[1] + " |\n"
	}
	return text
}

// overlapTime is how long a killed server stays away at most while the others do not
// carry on without it.
const overlapTime = 15 * time.Second

// segmentAge is when the writers of a cluster seal: sooner than others, so that they
// are killed doing so.
const segmentAge = 2 * time.Second

// siege is one that goes on.
type siege struct {
	*Siege
	servers    *Servers
	publishers []*Child
	writers    []*Child
	agents     int
	result     Result
	all        map[string]uint64 // acknowledged of the dead
	kept       *Kept
}

// Run runs it.
func (s *Siege) Run(ctx context.Context) (*Result, error) {
	r := &siege{Siege: s, all: map[string]uint64{}, result: Result{Killed: map[string]int{}}}
	defer r.close()
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	for i := range s.Kills {
		if err := r.kill(ctx, i); err != nil {
			return nil, err
		}
		select {
		case <-time.After(time.Duration(float64(s.Pause) * (0.5 + rand.Float64()))):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return r.end(ctx, began)
}

func (s *siege) close() {
	for _, c := range append(s.publishers, s.writers...) {
		c.Kill()
	}
	if s.servers != nil {
		s.servers.Close()
	}
}

func (s *siege) start(ctx context.Context) (err error) {
	if s.Local {
		s.Publishers, s.Writers = 1, 0
	} else if s.servers, err = StartServers(ctx, s.Dir); err != nil {
		return err
	}
	for i := range s.Writers {
		c, err := StartChild(s.writer(i))
		if err != nil {
			return err
		}
		s.writers = append(s.writers, c)
	}
	for range s.Publishers {
		c, err := StartChild(s.publisher())
		if err != nil {
			return err
		}
		s.publishers = append(s.publishers, c)
	}
	return s.flowing(ctx, time.Minute)
}

func (s *siege) writer(i int) Role {
	return Role{URL: s.servers.URL(), Write: s.segments(i), Age: segmentAge}
}

func (s *siege) segments(i int) string {
	dir := filepath.Join(s.Dir, fmt.Sprint("records", i))
	_ = os.MkdirAll(dir, 0o700) // or the child says
	return dir
}

func (s *siege) publisher() Role {
	s.agents++
	r := Role{Rate: s.Rate / s.Publishers, Batch: s.Batch}
	for i := range 4 {
		r.Agents = append(r.Agents, fmt.Sprintf("agent %d.%d", s.agents, i))
	}
	if s.Local {
		r.Queue, r.Write, r.Age = filepath.Join(s.Dir, "queue"), s.segments(0), 200*time.Millisecond
		return r
	}
	r.URL = s.servers.URL()
	return r
}

// flowing waits until each publisher's records are acknowledged.
func (s *siege) flowing(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, p := range s.publishers {
		for was := p.Acknowledged(); p.Acknowledged() == was; time.Sleep(20 * time.Millisecond) {
			if ctx.Err() != nil {
				return errors.New("nothing is acknowledged")
			}
		}
	}
	return nil
}

// kill kills something, and starts it again.
func (s *siege) kill(ctx context.Context, n int) error {
	what := []string{"leader", "leader", "writer", "publisher", "node"}[rand.IntN(5)]
	if len(s.Only) > 0 {
		what = s.Only[n%len(s.Only)]
	}
	if s.Local {
		what = "process"
	}
	s.result.Killed[what]++
	s.Say("kill %d: %s", n+1, what)
	switch what {
	case "process", "publisher":
		return s.replace(s.publishers, rand.IntN(len(s.publishers)), s.publisher())
	case "writer":
		i := rand.IntN(len(s.writers))
		return s.replace(s.writers, i, s.writer(i))
	case "all":
		return s.restart(ctx, 0, 1, 2)
	case "node":
		return s.restart(ctx, rand.IntN(Nodes))
	}
	leader, err := s.servers.Leader(ctx, "PC_00")
	if err != nil {
		return err
	}
	return s.restart(ctx, leader)
}

func (s *siege) replace(list []*Child, i int, r Role) (err error) {
	list[i].Kill()
	s.bury(list[i])
	if list[i], err = StartChild(r); err != nil {
		return err
	}
	return nil
}

// bury notes what a child has had acknowledged.
func (s *siege) bury(c *Child) {
	s.result.Outage = max(s.result.Outage, c.AddTo(s.all))
}

// restart kills servers, and starts them again when the others have carried on
// without.
func (s *siege) restart(ctx context.Context, nodes ...int) error {
	began := time.Now()
	for _, i := range nodes {
		s.servers.Kill(i)
	}
	if len(nodes) < Nodes {
		patience := time.Minute
		if s.Overlap {
			patience = overlapTime
		}
		switch err := s.flowing(ctx, patience); {
		case err == nil:
			s.Say("   acknowledged by the others after %v", time.Since(began).Round(10*time.Millisecond))
		case s.Overlap && ctx.Err() == nil:
			s.Say("   the others lack something")
		default:
			return err
		}
	}
	for _, i := range nodes {
		if err := s.servers.Start(i); err != nil {
			return err
		}
	}
	began = time.Now()
	if err := s.flowing(ctx, time.Minute); err != nil || s.Overlap {
		return err
	}
	if err := s.servers.Whole(ctx); err != nil {
		return err
	}
	behind := time.Since(began)
	s.Say("   whole again after %v", behind.Round(10*time.Millisecond))
	s.result.Behind = max(s.result.Behind, behind)
	return nil
}

// end lets all end that was not killed, and counts.
func (s *siege) end(ctx context.Context, began time.Time) (*Result, error) {
	for _, p := range s.publishers {
		if err := p.End(); err != nil {
			return nil, err
		}
		s.bury(p)
	}
	s.publishers = nil
	s.result.Took = time.Since(began)
	if s.Local { // what it had not written yet is for the next life
		c, err := StartChild(Role{Queue: filepath.Join(s.Dir, "queue"), Write: s.segments(0), Age: 200 * time.Millisecond})
		if err != nil {
			return nil, err
		}
		s.writers = append(s.writers, c)
	}
	for began, rest := time.Now(), 250*time.Millisecond; ; time.Sleep(rest) {
		rest *= 2 // reading all takes its time
		if err := s.read(ctx); err != nil {
			return nil, err
		}
		s.result.Lost, s.result.Doubled = s.kept.Check(s.all)
		s.result.CaughtUp = time.Since(began)
		if s.result.Lost == 0 || s.result.CaughtUp > 2*time.Minute || ctx.Err() != nil {
			break
		}
	}
	for _, w := range s.writers {
		if err := w.End(); err != nil {
			return nil, err
		}
	}
	s.writers = nil
	return s.count(ctx)
}

func (s *siege) count(ctx context.Context) (*Result, error) {
	if err := s.read(ctx); err != nil {
		return nil, err
	}
	s.result.Lost, s.result.Doubled = s.kept.Check(s.all)
	for _, n := range s.all {
		s.result.Acknowledged += n
	}
	for _, list := range s.kept.times {
		for _, times := range list {
			s.result.Kept += uint64(min(times, 1))
		}
	}
	return &s.result, nil
}

// read reads what was committed.
func (s *siege) read(ctx context.Context) error {
	s.kept = NewKept()
	for i := range max(s.Writers, 1) {
		if err := s.kept.ReadHistory(ctx, s.segments(i)); err != nil {
			return err
		}
	}
	return nil
}
