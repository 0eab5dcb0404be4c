package ipfix

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/netsampler/goflow2/v2/decoders/netflow"

	"github.com/pcapper/pcapper/wire"
)

// random is any record that there can be.
func random(rng *rand.Rand) (r wire.Record) {
	if rng.IntN(20) == 0 {
		if rng.IntN(2) == 0 {
			return wire.CPUStat(rng.Int64(), rng.Uint32())
		}
		return wire.MemoryStat(rng.Int64(), rng.Uint64N(1<<24))
	}
	r = wire.Record{
		Time: rng.Int64(), SrcPort: uint16(rng.Uint32()), DstPort: uint16(rng.Uint32()), Length: rng.Uint32(),
		Proto: uint8(rng.Uint32()), Flags: wire.Flags(rng.Uint32()) & flagBits,
	}
	if rng.IntN(2) == 0 {
		r.SetSrc4([4]byte{byte(rng.Uint32()), 2, 3, 4})
		r.SetDst4([4]byte{5, 6, 7, byte(rng.Uint32())})
	} else {
		r.Flags |= wire.IPv6
		binary.BigEndian.PutUint64(r.Src[:], rng.Uint64())
		binary.BigEndian.PutUint64(r.Dst[8:], rng.Uint64())
	}
	if r.Flags&wire.MGEN != 0 {
		r.FlowID = rng.Uint32()
	}
	if r.Flags&wire.MGENHeader != 0 {
		r.MGENSeq, r.MGENTime = rng.Uint32(), rng.Int64()
	}
	r.TTL, r.Digest = uint8(rng.Uint32()), rng.Uint64()
	if r.Flags&wire.Dropped != 0 {
		r.Reason = wire.ReasonNamed([]string{"", "QDISC_DROP", "NETFILTER_DROP"}[rng.IntN(3)])
	}
	return r
}

// TestAgainstGoflow2: another project's decoder takes every message of random
// records, in messages of random sizes, and reads the same from them; so does
// ours.
func TestAgainstGoflow2(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	templates := netflow.CreateTemplateSystem()
	w, d := Writer{Domain: 1 + rng.Uint32N(1<<32-1), PEN: 1 + rng.Uint32N(1<<32-1)}, Decoder{}
	d.PEN = w.PEN
	sequence := map[uint32]uint32{}
	for range 200 {
		recs := make([]wire.Record, rng.IntN(200))
		for i := range recs {
			recs[i] = random(rng)
		}
		messages := encode(t, &w, MaxDatagram+rng.IntN(MaxMessage-MaxDatagram), recs)
		messages = append(messages, w.Statistics(nil, now, Statistics{NotSent: rng.Uint64()}))
		var ours []wire.Record
		var theirs []netflow.DataRecord
		options := 0
		for _, m := range messages {
			var err error
			if ours, err = d.Decode(m, ours); err != nil {
				t.Fatal(err)
			}
			var v9 netflow.NFv9Packet
			var p netflow.IPFIXPacket
			if err := netflow.DecodeMessageVersion(bytes.NewBuffer(bytes.Clone(m)), templates, &v9, &p); err != nil {
				t.Fatalf("goflow2: %v", err)
			}
			next := sequence[p.ObservationDomainId]
			if p.SequenceNumber != next {
				t.Fatalf("sequence number %d of domain %d, want %d", p.SequenceNumber, p.ObservationDomainId, next)
			}
			for _, set := range p.FlowSets {
				switch set := set.(type) {
				case netflow.DataFlowSet:
					theirs = append(theirs, set.Records...)
					sequence[p.ObservationDomainId] += uint32(len(set.Records))
				case netflow.OptionsDataFlowSet:
					options += len(set.Records)
					sequence[p.ObservationDomainId] += uint32(len(set.Records))
				case netflow.RawFlowSet:
					t.Fatal("goflow2 has no template for a set")
				}
			}
		}
		if !slices.Equal(ours, recs) {
			t.Fatalf("%d records became %d, or others", len(recs), len(ours))
		}
		packets := slices.DeleteFunc(recs, func(r wire.Record) bool { return r.Flags&wire.HostStat != 0 })
		if len(theirs) != len(packets) || options != len(ours)-len(packets)+1 {
			t.Fatalf("goflow2 has %d packets and %d options, want %d and %d", len(theirs), options, len(packets), len(ours)-len(packets)+1)
		}
		for i := range theirs {
			compareGoflow2(t, &theirs[i], &packets[i], w.PEN)
		}
	}
	if c := d.Counts(); c.Lost+c.Late+c.Other+c.Unknown != 0 {
		t.Errorf("%+v", c)
	}
}

func compareGoflow2(t *testing.T, their *netflow.DataRecord, r *wire.Record, pen uint32) {
	t.Helper()
	number := func(private bool, element uint16) (n uint64) {
		for _, f := range their.Values {
			if f.Type == element && f.PenProvided == private && (!private || f.Pen == pen) {
				for _, c := range f.Value.([]byte) {
					n = n<<8 | uint64(c)
				}
			}
		}
		return n
	}
	low := func(a [16]byte) uint64 { return binary.BigEndian.Uint64(a[8:]) }
	src, dst := number(false, 27), number(false, 28) // their last 8 bytes
	wantSrc, wantDst := low(r.Src), low(r.Dst)
	if r.Flags&wire.IPv6 == 0 {
		src, dst, wantSrc, wantDst = number(false, 8), number(false, 12), wantSrc&0xffffffff, wantDst&0xffffffff
	}
	seq := uint64(0)
	if r.Flags&wire.MGENHeader != 0 {
		seq = uint64(r.MGENSeq)
	}
	octets, packets := uint64(r.Length), uint64(1)
	if !r.IsTraffic() {
		octets, packets = 0, 0
	}
	got := []uint64{src, dst, number(false, 7), number(false, 11), number(false, 4), number(false, 1), number(false, 2), number(false, 152),
		number(true, mgenFlowID), number(true, mgenSequence), number(true, packetFlags), number(false, 192), number(false, 326), number(false, 89)}
	want := []uint64{wantSrc, wantDst, uint64(r.SrcPort), uint64(r.DstPort), uint64(r.Proto), octets, packets, uint64(r.Time) / nsPerMsec,
		uint64(r.Flow()), seq, uint64(r.Flags & flagBits), uint64(r.TTL), r.Digest, 0}
	if r.Flags&wire.Dropped != 0 {
		want[len(want)-1] = statusDropped
	}
	if !slices.Equal(got, want) {
		t.Fatalf("goflow2 reads %v, want %v of %+v", got, want, r)
	}
}
