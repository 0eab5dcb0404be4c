// Package downsample aggregates records when there are too many of them: packets into
// flows of one second, and these into the heaviest flows of ten seconds and a
// remainder. It decides by rule, separately for each agent. More aggregation starts
// immediately, less only after a while.
//
// # Levels
//
//   - packets: each record is passed on as it is.
//   - flows: one record per flow and second, as in package flow.
//   - top: the K flows with the most bytes in each ten seconds. Everything else becomes
//     one record per IP version, protocol, direction, and whether it was relayed: from
//     and to the unspecified address (0.0.0.0 or ::), without ports and MGEN. MGEN
//     sequence numbers and times are omitted.
//
// The sums are exact at each level and across each change of level: every packet and
// every byte of a second is in a record with a time in that second or, at level top, in
// its ten seconds. Nothing is counted twice. A second (or ten) may be emitted in
// several pieces: after a change, if packets arrive late, or if there are more flows
// than the table holds.
//
// # Accuracy of the top flows
//
// The table of ten seconds has room for 16 K flows, but at least a thousand. Up to that
// number, the top K are exactly the heaviest. Beyond it, the lighter half is moved to
// the remainder, so a flow that reappears starts from zero: its record is a lower
// bound.
//
// # Time
//
// An agent's own rates are measured by the times of its records, so that data that
// arrives late, or is replayed faster than it was recorded, is not taken for a flood.
// The rates of the fleet are measured by arrival.
package downsample
