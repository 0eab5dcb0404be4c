//go:build !amd64

package sandbox

// legacyCalls are those that this architecture does not have.
var legacyCalls []int
