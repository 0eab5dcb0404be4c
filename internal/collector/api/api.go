package api

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// JSON is the content type of most answers.
const JSON = "application/json"

// Endpoint is an address and a method.
type Endpoint struct {
	Method     string // "" is GET
	Path       string // as http.ServeMux has it: /api/v1/packet/{digest}
	Summary    string // one sentence
	Parameters []Parameter
	Body       any    // a value of the type that a POST sends; nil if there is none
	Answer     any    // a value of the type of the answer; nil if that is not JSON
	Type       string // of an answer that is not JSON
	// Errors are what may happen besides 400, which is for parameters, and what any address may
	// answer: 401, 403, 405, 406, 429.
	Errors map[int]string
	// Get returns the answer. An error is an *Error, or else means a bad request. Addresses whose
	// answers are not simply JSON have Serve instead.
	Get   func(Values) (any, error)
	Serve func(http.ResponseWriter, *http.Request, Values)
}

// Pattern is the endpoint as http.ServeMux wants it.
func (e *Endpoint) Pattern() string { return e.method() + " " + e.Path }

func (e *Endpoint) method() string {
	if e.Method == "" {
		return http.MethodGet
	}
	return e.Method
}

// Handler checks requests before it passes them on. What Get returns, send sends; nil stands for Send.
func (e *Endpoint) Handler(send func(http.ResponseWriter, *http.Request, []byte)) http.Handler {
	if send == nil {
		send = Send
	}
	kind := e.Type
	if kind == "" {
		kind = JSON
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !Accepts(r, kind) {
			Fail(w, http.StatusNotAcceptable, "the answer is "+kind+", which the request's Accept header rules out")
			return
		}
		values, err := e.values(r)
		switch {
		case err != nil:
			Fail(w, http.StatusBadRequest, err.Error())
		case e.Get == nil:
			e.Serve(w, r, values)
		default:
			answer, err := e.Get(values)
			if err != nil {
				failed(w, err)
				return
			}
			send(w, r, Encode(answer))
		}
	})
}

// Error is an error with a status of its own.
type Error struct {
	Status int
	Text   string
}

func (e *Error) Error() string { return e.Text }

func failed(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if e, ok := errors.AsType[*Error](err); ok {
		status = e.Status
	}
	Fail(w, status, err.Error())
}

// Failure is the answer to a request that cannot be served.
type Failure struct {
	Error string `json:"error"` // what is wrong, and what was expected
}

// Fail answers with a Failure.
func Fail(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", JSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(Encode(Failure{text}))
}

// Send answers with JSON.
func Send(w http.ResponseWriter, r *http.Request, body []byte) {
	w.Header().Set("Content-Type", JSON)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

// Encode returns v as JSON. It fails only for numbers that are not finite, which would be a bug,
// and then returns a Failure.
func Encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		data, _ = json.Marshal(Failure{err.Error()}) // a string is always valid
	}
	return data
}

// Accepts reports whether a request's Accept header allows a content type (RFC 9110, section 12.5.1).
func Accepts(r *http.Request, kind string) bool {
	list := r.Header.Values("Accept")
	if len(list) == 0 {
		return true
	}
	class, _, _ := strings.Cut(kind, "/")
	best, allowed := -1, false // the most specific range decides
	for _, word := range strings.Split(strings.Join(list, ","), ",") {
		name, params, err := mime.ParseMediaType(word)
		specific := slices.Index([]string{"*/*", class + "/*", kind}, name)
		if err != nil || specific <= best {
			continue
		}
		q, err := strconv.ParseFloat(params["q"], 64)
		best, allowed = specific, err != nil || q > 0
	}
	return allowed
}

// Nullable is a number that JSON has as null if it is not known.
type Nullable interface{ Null() bool }
