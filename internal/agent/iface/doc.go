// Package iface knows the network interfaces of this host: which there are,
// in which state, with which addresses, and what happens to them. It asks the
// kernel by rtnetlink (rtnetlink(7)), which needs no privilege.
//
// Everything here is about the network namespace of the calling thread. A
// Watcher keeps to the namespace in which it was made, wherever its methods
// are called later.
//
// The package changes nothing: it brings no interface up and adds no address.
package iface
