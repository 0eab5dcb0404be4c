// Package fault defines errors for users: what is wrong, the next step to take, and the
// exit code.
package fault

import "errors"

// Error is an error with a hint, an exit code, or both.
type Error struct {
	err  error
	hint string // "" if there is none of its own
	code int    // 0 if there is none of its own
}

// WithHint returns err with a hint: the next step to take.
func WithHint(err error, hint string) error { return &Error{err: err, hint: hint} }

// WithCode returns err with the exit code of a program that ends because of it.
func WithCode(code int, err error) error { return &Error{err: err, code: code} }

func (e *Error) Error() string { return e.err.Error() }

func (e *Error) Unwrap() error { return e.err }

// Hint returns the error's own hint, or "".
func (e *Error) Hint() string { return e.hint }

// Hint returns the hint of err or, if it has none, of the first error that it wraps and
// that has one; otherwise "". Any error with a method of this name has a hint.
func Hint(err error) string {
	var h interface {
		error
		Hint() string
	}
	for ; errors.As(err, &h); err = errors.Unwrap(h) {
		if hint := h.Hint(); hint != "" {
			return hint
		}
	}
	return ""
}

// Code returns the exit code of err or, if it has none, of the first error that it
// wraps and that has one; otherwise 1. It is 0 if err is nil.
func Code(err error) int {
	if err == nil {
		return 0
	}
	var e *Error
	for cause := err; errors.As(cause, &e); cause = e.err {
		if e.code != 0 {
			return e.code
		}
	}
	return 1
}

// Cause returns the message of the innermost error, without the file names that
// wrapping errors add.
func Cause(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}
