package encoders

import (
	"bytes"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/vmware/go-ipfix/pkg/entities"
	"github.com/vmware/go-ipfix/pkg/exporter"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// perMessage is how many records fit a datagram.
const perMessage = 16

var now = time.Unix(1_560_390_680, 0)

func record(i int) wire.Record {
	r := wire.Record{
		Time: 1560390672_895279_000 + int64(i), SrcPort: 5001, DstPort: uint16(i), Length: 732, Proto: wire.ProtoUDP,
		Flags: wire.MGEN | wire.MGENHeader | wire.Outgoing, FlowID: 1000, MGENSeq: uint32(i), MGENTime: 1560390672_895000,
		TTL: 64, Digest: 0x0123456789abcdef + uint64(i),
	}
	r.SetSrc4([4]byte{10, 0, 0, 1})
	r.SetDst4([4]byte{10, 0, 0, 2})
	return r
}

// ours makes messages with wire/ipfix.
type ours struct {
	w        ipfix.Writer
	buf, msg []byte
	ends     []uint32
}

func (o *ours) message(recs []wire.Record) []byte {
	o.buf, o.ends = o.buf[:0], append(o.ends[:0], 0)
	for i := range recs {
		o.buf, _ = ipfix.Append(o.buf, &recs[i])
		o.ends = append(o.ends, uint32(len(o.buf)))
	}
	o.msg, _ = o.w.Message(o.msg[:0], now, ipfix.MaxDatagram, o.buf, o.ends)
	return o.msg
}

// library makes the same messages with go-ipfix, in the cheapest way that it
// has: elements and set are used again.
type library struct {
	set      entities.Set
	elements [perMessage][]entities.InfoElementWithValue
	addrs    [perMessage][2]net.IP
	buf      bytes.Buffer
	sequence uint32
}

func newLibrary() *library {
	l := &library{set: entities.NewSet(false)}
	for i := range l.elements {
		l.addrs[i] = [2]net.IP{make(net.IP, 4), make(net.IP, 4)}
		e := func(id uint16, pen uint32, length uint16, t entities.IEDataType) *entities.InfoElement {
			return entities.NewInfoElement("", id, t, pen, length)
		}
		u8 := func(id uint16) entities.InfoElementWithValue {
			return entities.NewUnsigned8InfoElement(e(id, 0, 1, entities.Unsigned8), 0)
		}
		u16 := func(id uint16, pen uint32) entities.InfoElementWithValue {
			return entities.NewUnsigned16InfoElement(e(id, pen, 2, entities.Unsigned16), 0)
		}
		u32 := func(id uint16, pen uint32) entities.InfoElementWithValue {
			return entities.NewUnsigned32InfoElement(e(id, pen, 4, entities.Unsigned32), 0)
		}
		u64 := func(id uint16, pen uint32) entities.InfoElementWithValue {
			return entities.NewUnsigned64InfoElement(e(id, pen, 8, entities.Unsigned64), 0)
		}
		ms := func(id uint16) entities.InfoElementWithValue {
			return entities.NewDateTimeMillisecondsInfoElement(e(id, 0, 8, entities.DateTimeMilliseconds), 0)
		}
		const pen = ipfix.DefaultPEN
		l.elements[i] = []entities.InfoElementWithValue{
			entities.NewIPAddressInfoElement(e(8, 0, 4, entities.Ipv4Address), l.addrs[i][0]),
			entities.NewIPAddressInfoElement(e(12, 0, 4, entities.Ipv4Address), l.addrs[i][1]),
			u16(7, 0), u16(11, 0), u8(4), u8(60), u8(61), u32(1, 0), u32(2, 0), ms(152), ms(153), u64(325, 0),
			u32(1, pen), u32(2, pen),
			entities.NewSigned64InfoElement(e(3, pen, 8, entities.Signed64), 0), u16(4, pen),
			u8(192), u64(326, 0),
		}
	}
	return l
}

func (l *library) message(recs []wire.Record) ([]byte, error) {
	l.set.ResetSet()
	if err := l.set.PrepareSet(entities.Data, ipfix.TemplateIPv4); err != nil {
		return nil, err
	}
	for i := range recs {
		l.fill(i, &recs[i])
		if err := l.set.AddRecordV2(l.elements[i], ipfix.TemplateIPv4); err != nil {
			return nil, err
		}
	}
	l.buf.Reset()
	l.set.UpdateLenInHeader()
	_, err := exporter.WriteIPFIXMsgToBuffer(l.set, 0, l.sequence, now, &l.buf)
	l.sequence += uint32(len(recs))
	return l.buf.Bytes(), err
}

// flagsSent are those of a record that there is an element for.
const flagsSent = wire.MGEN | wire.MGENHeader | wire.Outgoing

func (l *library) fill(i int, r *wire.Record) {
	e := l.elements[i]
	copy(l.addrs[i][0], r.Src[12:])
	copy(l.addrs[i][1], r.Dst[12:])
	e[2].SetUnsigned16Value(r.SrcPort)
	e[3].SetUnsigned16Value(r.DstPort)
	e[4].SetUnsigned8Value(r.Proto)
	e[5].SetUnsigned8Value(4)
	e[6].SetUnsigned8Value(1)
	e[7].SetUnsigned32Value(r.Length)
	e[8].SetUnsigned32Value(1)
	e[9].SetUnsigned64Value(uint64(r.Time) / 1e6)
	e[10].SetUnsigned64Value(uint64(r.Time) / 1e6)
	e[11].SetUnsigned64Value(ntp(uint64(r.Time)))
	e[12].SetUnsigned32Value(r.FlowID)
	e[13].SetUnsigned32Value(r.MGENSeq)
	e[14].SetSigned64Value(r.MGENTime)
	e[15].SetUnsigned16Value(uint16(r.Flags & flagsSent))
	e[16].SetUnsigned8Value(r.TTL)
	e[17].SetUnsigned64Value(r.Digest)
}

// ntp is nanoseconds since 1970 as RFC 7011, section 6.1.10, has them.
func ntp(t uint64) uint64 {
	sec := t / 1e9
	return (sec+2_208_988_800)<<32 | ((t-sec*1e9)<<32+1e9-1)/1e9
}

// TestSame: what is compared is the same work.
func TestSame(t *testing.T) {
	recs := records()
	a := (&ours{}).message(recs)
	b, err := newLibrary().message(recs)
	if err != nil || !bytes.Equal(a, b) {
		t.Fatalf("%v; ours\n%x\nthe library's\n%x", err, a, b)
	}
	var w ipfix.Writer
	var d ipfix.Decoder
	d.Decode(w.Templates(nil, now), nil)
	if got, err := d.Decode(b, nil); err != nil || !slices.Equal(got, recs) {
		t.Errorf("%d records, want %d; %v", len(got), len(recs), err)
	}
}

func records() []wire.Record {
	recs := make([]wire.Record, perMessage)
	for i := range recs {
		recs[i] = record(i)
	}
	return recs
}

// BenchmarkMessages makes messages with both, by turns, so that whatever else
// the processor does slows both. "times" is how many times as long the library
// takes.
func BenchmarkMessages(b *testing.B) {
	recs := records()
	our, their := &ours{}, newLibrary()
	var took [2]time.Duration
	for range b.N {
		for which := range took {
			begin := time.Now()
			for range 100 {
				if which == 0 {
					our.message(recs)
				} else if _, err := their.message(recs); err != nil {
					b.Fatal(err)
				}
			}
			took[which] += time.Since(begin)
		}
	}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(b.N*100*perMessage) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(each(took[0]), "ours-ns/record")
	b.ReportMetric(each(took[1]), "library-ns/record")
	b.ReportMetric(each(took[1])/each(took[0]), "times")
}
