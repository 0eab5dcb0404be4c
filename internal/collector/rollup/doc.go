// Package rollup aggregates records for display: counts per second for hosts, flows,
// pairs of hosts, conversations, and MGEN flows, for as long as memory allows. It
// answers queries about any time window.
//
// One goroutine owns a Store: it adds records and calls Tick once a second. Tick
// publishes an immutable Snapshot, which any number of goroutines may query without
// ever making the owner wait.
//
// # Parts
//
// Files are named by their part, and none uses anything of a later one:
//
//   - what all share: counts.go (what results are made of), key.go and directory.go (what is
//     counted, and its number), frame.go and tally.go (the counts of a span of time, packed and
//     while they are added up), spans.go (how long spans are, and how long they are kept);
//   - archive*.go: an Archive writes frames to disk and reads them;
//   - query*.go: a Snapshot answers questions from frames, wherever they are;
//   - store*.go: a Store makes frames of records, and publishes Snapshots.
//
// # What is counted, and where it was seen
//
// Each record comes from one agent, the observer, who saw a packet as its
// sender, as a relay (it passed on what another host sent), or as a receiver:
// its Side. One packet may be seen by several observers. Two kinds of numbers
// result, and each field says which it is:
//
//   - seen: every record counts, as grapher lines count them. These are the
//     numbers per host.
//   - once: in every second, the packets from a source to a destination are
//     those that the best-placed observer saw: the sender's own agent, or else
//     the receiver (of several, the one who saw most). These are totals, the
//     matrix and the talkers, which so have the same sum. What a relay sent is a transmission of its own,
//     and counted apart, as Relayed.
//
// A sender whose agent has been silent for 10 s is no longer waited for.
//
// Only the richer feed says on which side a packet was seen. With the 28-byte
// feed it is worked out from addresses: those that agents are known to have
// (they were dialled there, or all that the agent reports comes from it).
// What cannot be told is taken for sent, which is the agents' default (-m src).
//
// # Time
//
// A packet counts in the second of its own time stamp. The newest seconds stay
// open for the packets of Config.Late; an older packet, and one from the future,
// counts in the nearest open second, and in its host's counters Late or Future:
// its clock is wrong, or it, the network or the collector is overloaded. After
// Stalled and Resume seconds of the minute before are open, for what had to wait.
//
// Seconds are kept for an hour, spans of ten seconds for six, minutes for a
// day, or for as long as Config.Budget lasts.
//
// # Archive
//
// With an Archive they are kept on disk, seconds for six hours, spans of ten
// seconds for two days, minutes for a month, and then of ten minutes, an hour, six
// hours and a day, each made of the ones before; memory has the newest quarter.
// A question takes the longest spans that fit into its steps, wherever they are, so
// that no window is much more to look at than another. Files name hosts, flows and
// addresses themselves: a host that is no longer configured, or is another one
// in the list, is still what it was. See Archive and volumeMagic.
//
// # Bounds
//
// A second knows at most 8,192 pairs, 4,096 conversations and 2,048 MGEN
// flows, each at each observer, kept by weighted space-saving (Metwally,
// Agrawal, El Abbadi, 2005): with that many or fewer all numbers are exact.
// Beyond, the heaviest are kept, each with what it certainly had, and the rest is
// in Other; of it, what senders' agents saw counts once. History keeps the
// heaviest 2,000 pairs, 1,000 conversations and 500 MGEN flows of each second,
// fewer if its budget is not enough for all seconds. What agents saw of flows and
// hosts is exact always.
package rollup
