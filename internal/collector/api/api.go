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
	Method     string // "" means GET
	Path       string // in the syntax of http.ServeMux: /api/v1/packet/{digest}
	Summary    string // one sentence
	Parameters []Parameter
	Body       any    // a value of the type that a POST sends; nil if none
	Answer     any    // a value of the response type; nil if that is not JSON
	Type       string // content type of a response that is not JSON
	// Errors are possible statuses other than 400, which is for parameters, and those
	// of any endpoint: 401, 403, 405, 406, 429.
	Errors map[int]string
	// Get returns the response. An error that is not an *Error means a bad request.
	// Endpoints whose responses are not simply JSON have Serve instead.
	Get   func(Values) (any, error)
	Serve func(http.ResponseWriter, *http.Request, Values)
}

// Pattern returns the endpoint's pattern for http.ServeMux.
func (e *Endpoint) Pattern() string { return e.method() + " " + e.Path }

func (e *Endpoint) method() string {
	if e.Method == "" {
		return http.MethodGet
	}
	return e.Method
}

// Handler returns a handler that checks requests before it passes them on. send sends
// the result of Get.
func (e *Endpoint) Handler(send func(http.ResponseWriter, *http.Request, []byte)) http.Handler {
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

// Error is an error with an HTTP status.
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

// Failure is the response to a request that cannot be served.
type Failure struct {
	Error string `json:"error"` // what is wrong, and what was expected
}

// Fail sends a Failure.
func Fail(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", JSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(Encode(Failure{text}))
}

// Encode returns v as JSON. If that fails, which it does only for numbers that are not
// finite, and would be a bug, it returns a Failure.
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

// Nullable is a number that is null in JSON if it is unknown.
type Nullable interface{ Null() bool }
