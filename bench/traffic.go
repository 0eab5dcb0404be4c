package main

// traffic is something to watch: what, how, and on which scene.
type traffic struct {
	name       string
	what       string // for people
	scene      string
	processors int  // that send; 0 means 1
	offloads   bool // frames are many packets each
	manyFlows  bool
	wall       bool // what sends is not only the sender's threads
	// rate is how many packets a second are sent; 0 is as many as can be.
	rate float64
	// busy: another process uses the taps' processor as much as it may.
	busy bool
	make func(*scene) (sender, error)
}

func cloning(mix []share, flows int) func(*scene) (sender, error) {
	return func(s *scene) (sender, error) { return newCloning(s, mix, flows) }
}

func shooting(mix []share, flows int) func(*scene) (sender, error) {
	return func(s *scene) (sender, error) { return newShooting(s, mix, flows) }
}

// basic is the traffic of the first table; the goals are about it.
var basic = traffic{
	name: "64", what: "sent, 64 bytes, 1 flow", scene: sending, make: cloning(small, 1),
}

// others are in the second table.
var others = []traffic{
	{name: "64-1k", manyFlows: true, what: "sent, 64 bytes, 1,000 flows", scene: sending, make: cloning(small, 1000)},
	{name: "64-100k", manyFlows: true, what: "sent, 64 bytes, 100,000 flows", scene: sending, make: cloning(small, 100_000)},
	{name: "imix", what: "sent, IMIX, 1 flow", scene: sending, make: cloning(imix, 1)},
	{name: "1400", what: "sent, 1,400 bytes, 1 flow", scene: sending, make: cloning(large, 1)},
	{name: "two", what: "sent by both processors, 64 bytes", scene: sending, processors: 2, make: cloning(small, 1)},
	{name: "socket", what: "sent by a program (sendmmsg), 64 bytes", scene: sending, make: func(s *scene) (sender, error) { return newPacketSocket(s, small[0].length, 1) }},
	{name: "veth", what: "sent to a peer with a whole stack, 64 bytes", scene: cabled, make: cloning(small, 1)},
	{name: "busy-1M", what: "1 M/s, 64 bytes, next to a busy process", scene: sending, rate: 1e6, busy: true, make: cloning(small, 1)},
	{name: "busy", what: "sent, 64 bytes, next to a busy process", scene: sending, busy: true, make: cloning(small, 1)},
	{name: "queued", what: "sent through a pfifo, 64 bytes", scene: queueing, make: cloning(small, 1)},
	{name: "received", what: "received, 64 bytes, 1 flow", scene: receiving, make: shooting(small, 1)},
	{name: "received-100k", manyFlows: true, what: "received, 64 bytes, 100,000 flows", scene: receiving, make: shooting(small, 100_000)},
	{name: "received-1400", what: "received, 1,400 bytes, 1 flow", scene: receiving, make: shooting(large, 1)},
	{name: "udp-gso", what: "sent by UDP_SEGMENT, 44 x 1,400 bytes", scene: offload, offloads: true, make: newSegmenting},
	{name: "tcp-gso", wall: true, what: "sent by TCP", scene: offload, offloads: true, make: newStreaming},
}

// warmUp is what taps are fed with at the start of a session, by scene.
var warmUp = map[string]traffic{sending: basic, cabled: named("veth"), queueing: named("queued"), receiving: named("received"), offload: named("udp-gso")}

func named(name string) traffic {
	for _, t := range others {
		if t.name == name {
			return t
		}
	}
	panic("no traffic " + name)
}
