package web

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"time"

	"github.com/pcapper/pcapper/internal/collector/api"
)

// Player is implemented by a Source that replays records and can be controlled.
type Player interface {
	// Replay returns the state of the replay; nil if nothing is replayed.
	Replay() *Replay
	// Steer executes a command; by is a duration for those that need one.
	Steer(c Command, by time.Duration)
}

// Replay is the state of a replay.
type Replay struct {
	Position float64 `json:"position"` // UNIX seconds; 0 until the logs have been opened
	Part     float64 `json:"part"`     // share of the logs that has been read, 0 to 1
	Speed    float64 `json:"speed"`    // 1 is the original speed; 0 is as fast as possible
	Gap      float64 `json:"gap"`      // seconds until the next record, in the logs' time
	Paused   bool    `json:"paused"`
	Seeking  bool    `json:"seeking"` // seeking another position, as fast as possible
	Ended    bool    `json:"ended"`
}

// Command is a command for a Player.
type Command string

// Values of Command.
const (
	Pause   Command = "pause"
	Resume  Command = "resume"
	Slower  Command = "slower"  // half the speed
	Faster  Command = "faster"  // twice the speed
	Next    Command = "next"    // skip a time without records
	Forward Command = "forward" // by a duration; records in between are played as fast as possible
)

const (
	replayPath = "/api/v1/replay"
	// maxForward is the maximum duration to go forward, in seconds.
	maxForward = 366 * 86400
)

// Steering is the request body that controls a replay.
type Steering struct {
	Command Command `json:"command"`
	Seconds float64 `json:"seconds,omitempty"` // for forward
}

// foreign rejects requests that the page of another site, or another program's page on
// this host, makes a browser send.
var foreign = http.NewCrossOriginProtection()

// mayChange returns an error unless a request is meant to change something: it must
// come from our own page, and not from a form, which may be sent to other sites without
// permission (Fetch Standard, section 2.2.2).
func mayChange(r *http.Request) error {
	if err := foreign.Check(r); err != nil {
		return fmt.Errorf("not for the pages of others: %w", err)
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return fmt.Errorf("want Content-Type: application/json")
	}
	return nil
}

// steer handles POST to replayPath.
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

// replayOf returns null in a frame unless something is replayed.
func replayOf(source Source) *Replay {
	if player, ok := source.(Player); ok {
		return player.Replay()
	}
	return nil
}
