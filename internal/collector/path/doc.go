// Package path combines what several agents observed of the same packet, which they
// report with its digest ([wire.Digest]), to determine the paths of packets, what
// happened to them on each hop, and where they ended.
//
// # Observations
//
// An observation is a record of one agent: the packet was received (in), was sent
// (out), was observed before the queueing discipline (queue), or was dropped. An agent
// watches one interface of a node. [Config.Node] names the nodes; by default, an agent
// whose label is node/interface belongs to that node.
//
// # Joining
//
// Observations with the same digest belong to one packet if they are within the window.
// The window ends that long after the first observation; the packet's observations are
// then put in order and counted. The order is determined first by the TTL, which each
// router decrements, then by the direction (leaving one node precedes entering the
// next), and only then by time, because clocks differ, and the timestamps of one host
// may be out of order.
//
// A digest that one sender sent more than once within the window is ambiguous: its
// packets are counted as such, and nowhere else.
//
// # Memory
//
// When packets need more than [Config.Memory], half of the digests are no longer
// tracked: those above a threshold. The threshold is the same for all agents, so a
// packet is tracked completely or not at all. [Report.Sampled] is the share that is
// tracked.
//
// # Loss
//
// A packet is lost on a hop if it was seen at the hop's beginning but not at its end,
// and the agent at the end was watching at that time, had lost no records, and has seen
// other packets of the flow (or to the destination) arrive that way. Otherwise its
// arrival is unobserved. An agent that is new, late, or gone never makes a link look
// lossy.
package path
