// Package downsample sums records up when there are too many of them: packets
// into flows of one second, and these into the heaviest of ten seconds and the
// rest. It does so for each agent by rule and at once, and less after a while.
//
// # Levels
//
//   - packets: each record passes as it is.
//   - flows: a record for each flow and second, as package flow makes them.
//   - top: of each ten seconds the K flows with the most bytes. All the rest
//     becomes one record for each IP version, protocol, direction, and whether it
//     was relayed: from and to the unspecified address (0.0.0.0 or ::), without
//     ports and MGEN. MGEN's sequence numbers and times are left out.
//
// The sums are exact at each level and across each change: every packet and
// every byte of a second is in a record with a time in that second, or, at top,
// of its ten seconds. Nothing is counted twice. A second (or ten) may come in
// several pieces: after a change, if packets come late, if there are more flows
// than the table holds.
//
// # What the top flows are
//
// The table of ten seconds has room for a thousand flows or 16 K, whichever is
// more. With as many or fewer, the top K are exactly the heaviest. Beyond, the
// light half is moved to the rest, so that a flow that comes back begins from
// nothing: its record has what it certainly had.
//
// # Time
//
// An agent's own rates are measured in seconds of its records' time, so that
// what arrives late, or is played faster than it was recorded, is not taken for
// a flood. Rates of the fleet are measured as they arrive.
package downsample
