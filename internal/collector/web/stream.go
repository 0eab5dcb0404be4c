package web

import (
	"context"
	"fmt"
	"hash/crc32"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/collector/api"
	"github.com/pcapper/pcapper/internal/collector/rollup"
)

const streamPath = "/api/v1/stream"

const (
	// writeTime is how long a page may take for one frame before its connection is
	// closed; its browser then opens another.
	writeTime = 20 * time.Second
	// retryTime is the time after which a browser reconnects.
	retryTime = time.Second
	// beatTime is the interval of messages that keep connections alive, and reveal dead
	// ones, while the source is silent.
	beatTime = 15 * time.Second
)

// streams counts the open streams.
type streams struct {
	mu      sync.Mutex
	open    int
	max     int
	skipped uint64 // frames, in total since the start
}

func (s *streams) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.max {
		return false
	}
	s.open++
	return true
}

func (s *streams) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
}

func (s *streams) skip(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped += n
}

func (s *streams) count() (open int, skipped uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open, s.skipped
}

// Topics that a stream may carry in addition to frames, each over the newest seconds of
// one of these windows. There are few, so that pages share what is computed and encoded
// for them.
var (
	topicKinds   = []string{"hosts", "matrix", "talkers", "mgen"}
	topicWindows = []int64{1, 10, 60, 300, 900, 3600, 21600, 86400, 604800, 2592000}
)

// topic is a view carried by a stream.
type topic struct {
	query
	every uint64 // in snapshots
}

var topicParameter = api.Parameter{
	Name: "topic", Repeated: true, Pattern: topicPattern(),
	Want:    fmt.Sprintf("one of %s, a colon, and one of %v seconds", strings.Join(topicKinds, ", "), topicWindows),
	Meaning: "A view and its window in seconds, as matrix:60",
}

func topicPattern() string {
	return "^(" + strings.Join(topicKinds, "|") + "):(" + strings.Trim(strings.ReplaceAll(fmt.Sprint(topicWindows), " ", "|"), "[]") + ")$"
}

// parseTopics parses the parameters of a stream: topic=matrix:60, repeated. Views of
// long windows change slowly and are sent less often.
func parseTopics(values api.Values) (list []topic) {
	for _, word := range values.All("topic") {
		kind, number, _ := strings.Cut(word, ":")
		seconds, _ := strconv.ParseInt(number, 10, 64) // already checked
		t := topic{
			query: query{kind: kind, relative: true, window: rollup.Window{From: -seconds, To: 0}},
			every: uint64(min(max(seconds/300, 1), 60)),
		}
		if !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	return list
}

// stream sends each frame, and with it the views that the page requested, as
// server-sent events (HTML Living Standard, section 9.2).
func (s *Server) stream(w http.ResponseWriter, r *http.Request, values api.Values) {
	topics := parseTopics(values)
	if !s.streams.enter() {
		w.Header().Set("Retry-After", "10")
		fail(w, http.StatusServiceUnavailable, "too many pages are open: at most "+strconv.Itoa(s.streams.max))
		return
	}
	defer s.streams.leave()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // otherwise nginx would delay frames
	h.Set("Vary", "Accept-Encoding")
	c := &connection{w: w, control: http.NewResponseController(w), zipped: acceptsGzip(r)}
	if c.zipped {
		h.Set("Content-Encoding", "gzip")
	}
	if r.Method == http.MethodHead {
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	if c.begin() == nil && c.send(&part{plain: []byte("retry: " + strconv.FormatInt(retryTime.Milliseconds(), 10) + "\n\n")}) == nil {
		s.follow(ctx, c, topics)
		c.end()
	}
}

// follow sends snapshots until the page or the server ends.
func (s *Server) follow(ctx context.Context, c *connection, topics []topic) {
	snap := s.source.Snapshot()
	for first := true; ; first = false {
		if c.answer(s.cache.get(s.source, snap, query{kind: "frame"})) != nil {
			return
		}
		for _, t := range topics {
			if !first && snap.Seq%t.every != 0 {
				continue
			}
			if c.answer(s.cache.get(s.source, snap, t.query)) != nil {
				return
			}
		}
		next, err := s.next(ctx, c, snap.Seq)
		if err != nil {
			return
		}
		if missed := next.Seq - snap.Seq - 1; missed > 0 {
			s.streams.skip(missed)
			if c.send(eventHead("skipped"), &part{plain: strconv.AppendUint(nil, missed, 10)}, eventEnd) != nil {
				return
			}
		}
		snap = next
	}
}

// next waits for a newer snapshot, and shows the page in the meantime that the
// connection is alive.
func (s *Server) next(ctx context.Context, c *connection, seq uint64) (*rollup.Snapshot, error) {
	for {
		wait, cancel := context.WithTimeout(ctx, beatTime)
		snap, err := s.source.Next(wait, seq)
		cancel()
		if err == nil || ctx.Err() != nil {
			return snap, err
		}
		if err := c.send(beat); err != nil {
			return nil, err
		}
	}
}

// connection writes with a deadline and without delay.
type connection struct {
	w       http.ResponseWriter
	control *http.ResponseController
	zipped  bool   // everything written is one gzip stream
	sum     uint32 // CRC-32 of what was written, before compression
	length  uint32 // of the same, modulo 2^32
}

func (c *connection) begin() error {
	if !c.zipped {
		return nil
	}
	return c.write([]byte(gzipHead))
}

// end completes the stream, if anyone still reads it.
func (c *connection) end() {
	if c.zipped && c.write(gzipTail(c.sum, c.length)) == nil {
		_ = c.control.Flush() // nothing follows
	}
}

// answer sends an answer as an event.
func (c *connection) answer(a *answer) error { return c.send(a.before, &a.json, eventEnd) }

func (c *connection) send(parts ...*part) error {
	for _, p := range parts {
		b := p.plain
		if c.zipped {
			c.sum = crc32.Update(c.sum, crc32.IEEETable, b)
			c.length += uint32(len(b))
			b = p.zip()
		}
		if err := c.write(b); err != nil {
			return err
		}
	}
	return c.control.Flush()
}

func (c *connection) write(b []byte) error {
	_ = c.control.SetWriteDeadline(time.Now().Add(writeTime)) // supported by net/http's connections
	_, err := c.w.Write(b)
	return err
}

// What surrounds the data of an event, which is JSON without line breaks.
var (
	eventEnd = &part{plain: []byte("\n\n")}
	beat     = &part{plain: []byte(":\n\n")}
)

func eventHead(name string) *part { return &part{plain: []byte("event: " + name + "\ndata: ")} }
