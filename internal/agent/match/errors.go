package match

import (
	"errors"
	"fmt"
)

// Kinds of errors, for errors.Is.
var (
	// ErrSyntax: the compiler rejects the expression, or it tests something that this
	// kind of frames does not have.
	ErrSyntax = errors.New("invalid filter expression")
	// ErrNoMAC: the filter needs a MAC address but there is none.
	ErrNoMAC = errors.New("no MAC address")
	// ErrNoIPv4: the filter uses %i but there is no IPv4 address.
	ErrNoIPv4 = errors.New("no IPv4 address")
	// ErrNoAddress: the filter is spoof but there is no address.
	ErrNoAddress = errors.New("no IP address")
	// ErrNoCompiler: expressions cannot be compiled on this host.
	ErrNoCompiler = errors.New("no compiler for filter expressions")
	// ErrTooLong: the program has more instructions than the kernel accepts.
	ErrTooLong = errors.New("filter is too long")
)

// Error explains why there is no filter.
type Error struct {
	Kind   error  // one of the errors above
	Filter string // as requested
	Reason string // in words, possibly the compiler's
	Cause  error  // may be nil
	hint   string
}

func (e *Error) Error() string { return fmt.Sprintf("filter %q: %s", e.Filter, e.Reason) }

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// Hint returns the next step for the user, or "".
func (e *Error) Hint() string { return e.hint }
