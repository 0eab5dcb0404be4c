// Package nettest is the bench on which tests and measurements stand: real
// network namespaces joined by veth pairs, frames with the right lengths and
// checksums, and a fast sender. It is for tests and for the program in bench
// only; nothing that users run imports it.
//
// The networks are silent: no duplicate address detection, no router
// solicitation, no ARP and no neighbour discovery between their hosts, no
// multicast listener reports. What a test counts is what it sent.
//
// Making a network needs CAP_SYS_ADMIN and CAP_NET_ADMIN. Without them a test
// is skipped, or fails if the environment says CI=true.
package nettest

// TB is what this package wants of a testing.TB, so that a program that is no
// test can have a network, too.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}
