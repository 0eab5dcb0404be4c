package match

import (
	"errors"
	"fmt"
)

// What can be wrong with a filter, for errors.Is.
var (
	// ErrSyntax: the compiler does not understand the expression, or it asks
	// for what this kind of frames does not have.
	ErrSyntax = errors.New("invalid filter expression")
	// ErrNoMAC: the filter needs a MAC address where there is none.
	ErrNoMAC = errors.New("no MAC address")
	// ErrNoIPv4: %i without an IPv4 address.
	ErrNoIPv4 = errors.New("no IPv4 address")
	// ErrNoAddress: spoof without any address.
	ErrNoAddress = errors.New("no IP address")
	// ErrNoCompiler: expressions cannot be compiled on this host.
	ErrNoCompiler = errors.New("no compiler for filter expressions")
	// ErrTooLong: the program has more instructions than the kernel takes.
	ErrTooLong = errors.New("filter is too long")
)

// Error says why there is no filter.
type Error struct {
	Kind   error  // one of the errors above
	Filter string // as it was asked for
	Reason string // in words, may be the compiler's
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

// Hint is what to do next, or "".
func (e *Error) Hint() string { return e.hint }
