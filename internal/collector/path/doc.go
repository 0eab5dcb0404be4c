// Package path joins what several agents saw of the same packet, which they report with
// its digest ([wire.Digest]), and says which way packets went, what each hop did to
// them, and where they ended.
//
// # Observations
//
// An observation is a record of one agent: the packet was received (in), left (out),
// stood before the queueing discipline (queue), or was dropped. An agent watches one
// interface of a node. Nodes are named by [Config.Node]; an agent whose label is
// node/interface is of that node.
//
// # Joining
//
// Observations with the same digest are one packet if they come within the window. It
// ends that long after the first came; the packet is then put in order and counted.
// Order comes first from the TTL, which drops by one at each router, then from the
// direction (what leaves one node comes before what enters the next), and only then
// from time, since clocks differ, and stamps of one host may be in the wrong order.
//
// A digest that one sender sent more than once within the window is ambiguous: its
// packets are counted as such, and in nothing else.
//
// # Memory
//
// When packets need more than [Config.Memory], half of the digests are given up: those
// above a threshold, which is the same for all agents, so that a packet is kept whole or
// not at all. [Report.Sampled] says what share is kept.
//
// # Loss
//
// A packet is lost on a hop if it was seen at the hop's beginning, not at its end, and
// the agent at the end was watching at that time, had lost no records, and has seen other
// packets of the flow (or of the destination) come that way. Otherwise it is not
// observed. An agent that is new, late, or gone never makes a link look lossy.
package path
