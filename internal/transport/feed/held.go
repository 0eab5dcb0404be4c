package feed

import (
	"bytes"
	"time"
)

const (
	// holdLimit bounds the bytes of messages waiting for their template, of all
	// sessions of a receiver together: ten seconds of 20,000 records each.
	holdLimit = 16 << 20
	// strangersLimit is the part of that available to unknown exporters.
	strangersLimit = holdLimit / 2
	// holdTime is how long they wait: exporters repeat templates, but may replace them
	// eventually.
	holdTime = 45 * time.Second
)

// held are the undecoded messages of a session that wait for a template, because its
// datagram was lost or was sent before we listened.
type held struct {
	messages [][]byte // oldest first
	since    time.Time
}

// holdMessage keeps a message if it must wait for its template. Otherwise, if it contains
// templates, it first passes the messages that have waited for them to the decoder.
func (r *Receiver) holdMessage(s *session, b []byte) (waits bool) {
	if s.decoder.Knows(b) {
		if len(s.held.messages) > 0 {
			s.decoder.Teach(b)
			r.release(s, s.decoder.Knows)
		}
		return false
	}
	if len(s.held.messages) == 0 {
		s.held.since = time.Now()
	} else if time.Since(s.held.since) > holdTime {
		r.release(s, func([]byte) bool { return true })
	}
	limit := holdLimit
	if !s.ours {
		limit = strangersLimit
	}
	if r.holding+len(b) > limit {
		return false // it counts as unknown
	}
	r.holding += len(b)
	s.held.messages = append(s.held.messages, bytes.Clone(b))
	return true
}

// release removes the held messages that are ready.
func (r *Receiver) release(s *session, ready func([]byte) bool) {
	list := s.held.messages
	s.held.messages = nil
	for _, b := range list {
		if !ready(b) {
			s.held.messages = append(s.held.messages, b)
			continue
		}
		r.holding -= len(b)
		if r.decodeMessage(s, b) != nil {
			r.refuse(s.from, b)
		}
	}
}
