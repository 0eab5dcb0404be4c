// Package iface provides the network interfaces of this host: which exist, their state
// and addresses, and changes to them. It queries the kernel over rtnetlink
// (rtnetlink(7)), which requires no privileges.
//
// Everything concerns the network namespace of the calling thread. A Watcher stays in
// the namespace in which it was created, wherever its methods are called later.
//
// The package is read-only: it does not bring up interfaces or add addresses.
package iface
