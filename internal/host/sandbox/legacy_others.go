//go:build !amd64

package sandbox

// legacyCalls is empty, because this architecture does not have them.
var legacyCalls []int
