package batch_test

import (
	"fmt"
	"log"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// A consumer of the bus gets a message for each batch, perhaps twice. Here they come from a
// slice; with NATS, subscribe to pcapper.v1.default.> and pass msg.Data.
func Example() {
	type stream struct {
		agent string
		boot  uint64
	}
	next := map[stream]uint64{} // the first number that was not seen yet
	var d batch.Decoder
	var b batch.Batch
	for _, message := range messages() {
		if err := d.Decode(message, &b); err != nil {
			log.Print(err) // not a batch: skip it
			continue
		}
		from := stream{b.Agent, b.Boot}
		if b.Next() <= next[from] {
			fmt.Printf("%s: seen before\n", b.ID())
			continue
		}
		if missing := b.First - min(b.First, next[from]); missing > 0 {
			fmt.Printf("%s: %d records are missing, or come later\n", b.ID(), missing)
		}
		seen := next[from] - min(next[from], b.First)
		for _, r := range b.Records[seen:] {
			fmt.Printf("%s: %v to %v, %d bytes\n", b.Agent, r.SrcAddr(), r.DstAddr(), r.Length)
		}
		next[from] = b.Next()
	}
	// Output:
	// n1: 10.0.0.1 to 10.0.0.2, 100 bytes
	// n1: 10.0.0.1 to 10.0.0.2, 101 bytes
	// n1/7/0-2: seen before
	// n1/7/3-4: 1 records are missing, or come later
	// n1: 10.0.0.1 to 10.0.0.2, 103 bytes
}

// messages are what a bus could deliver: the first batch twice, the second never.
func messages() (list [][]byte) {
	var e batch.Encoder
	for _, numbers := range [][]uint64{{0, 1}, {0, 1}, {3}} {
		b := batch.Batch{Agent: "n1", Boot: 7, First: numbers[0]}
		for _, n := range numbers {
			r := wire.Record{Time: 1e18, Proto: wire.ProtoUDP, Length: 100 + uint32(n)}
			r.SetSrc4([4]byte{10, 0, 0, 1})
			r.SetDst4([4]byte{10, 0, 0, 2})
			b.Records = append(b.Records, r)
		}
		message, err := e.Append(nil, &b)
		if err != nil {
			log.Fatal(err)
		}
		list = append(list, message)
	}
	return list
}
