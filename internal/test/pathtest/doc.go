// Package pathtest has tests of paths with real kernels: what captures see of packets that cross
// networks of namespaces must join to what the kernels' own counters say.
package pathtest
