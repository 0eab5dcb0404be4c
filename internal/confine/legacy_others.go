//go:build !amd64

package confine

// legacyCalls are those that this architecture does not have.
var legacyCalls []int
