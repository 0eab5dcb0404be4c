package web

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"time"

	"github.com/pcapper/pcapper/internal/collector/api"
)

// Player is a Source whose records are played, and that can be told how.
type Player interface {
	// Replay is where it is; nil if nothing is played.
	Replay() *Replay
	// Steer does what one of the Commands says, by a time if it takes one.
	Steer(c Command, by time.Duration)
}

// Replay is the state of logs that are played.
type Replay struct {
	Position float64 `json:"position"` // UNIX seconds; 0 before the logs have been opened
	Part     float64 `json:"part"`     // of the logs that has been read, 0 to 1
	Speed    float64 `json:"speed"`    // 1 is the records' own; 0 as fast as possible
	Gap      float64 `json:"gap"`      // seconds of the logs' time until the next record
	Paused   bool    `json:"paused"`
	Seeking  bool    `json:"seeking"` // on the way to another place, as fast as possible
	Ended    bool    `json:"ended"`
}

// Command is what a Player can be told.
type Command string

// Commands.
const (
	Pause   Command = "pause"
	Resume  Command = "resume"
	Slower  Command = "slower"  // half the speed
	Faster  Command = "faster"  // twice the speed
	Next    Command = "next"    // over a time without records
	Forward Command = "forward" // by a time: what is between is played as fast as can be
)

const (
	replayPath = "/api/v1/replay"
	// maxForward is what it may go forward by, in seconds.
	maxForward = 366 * 86400
)

// Steering is the body that steers a replay.
type Steering struct {
	Command Command `json:"command"`
	Seconds float64 `json:"seconds,omitempty"` // to go forward by
}

// foreign refuses what the page of another site, or another program's page on
// this host, makes a browser send.
var foreign = http.NewCrossOriginProtection()

// mayChange reports whether a request changes something on purpose: it comes from
// no other page than ours, and not from a form, which needs no permission to be sent
// elsewhere (Fetch Standard, 2.2.2).
func mayChange(r *http.Request) error {
	if err := foreign.Check(r); err != nil {
		return fmt.Errorf("not for the pages of others: %w", err)
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return fmt.Errorf("want Content-Type: application/json")
	}
	return nil
}

// steer is POST to replayPath.
func (s *Server) steer(w http.ResponseWriter, r *http.Request, _ api.Values) {
	if err := mayChange(r); err != nil {
		fail(w, http.StatusForbidden, err.Error())
		return
	}
	player, ok := s.source.(Player)
	if !ok || player.Replay() == nil {
		fail(w, http.StatusNotFound, "nothing is played: recollect replay plays logs")
		return
	}
	var q Steering
	body := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10))
	body.DisallowUnknownFields()
	if err := body.Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, `want {"command": "pause"} or another of docs/api.md: `+err.Error())
		return
	}
	switch q.Command {
	case Pause, Resume, Slower, Faster, Next:
	case Forward:
		if !(q.Seconds > 0 && q.Seconds <= maxForward) {
			fail(w, http.StatusBadRequest, "seconds: want how far to go forward, more than 0 and at most a year")
			return
		}
	default:
		fail(w, http.StatusBadRequest, fmt.Sprintf("command %.40q: want pause, resume, slower, faster, next or forward", q.Command))
		return
	}
	player.Steer(q.Command, time.Duration(q.Seconds*float64(time.Second)))
	send(w, r, encode(player.Replay()))
}

// replayOf is null in a frame unless something is played.
func replayOf(source Source) *Replay {
	if player, ok := source.(Player); ok {
		return player.Replay()
	}
	return nil
}
