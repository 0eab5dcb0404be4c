package wire

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

// TestDigest holds Digest to XXH3's own values, as other programs compute them: all
// bytes 0, counting up, all ones; a UDP datagram of 44 bytes; a TCP segment of 72.
func TestDigest(t *testing.T) {
	var zero, count, ones [DigestSize]byte
	for i := range count {
		count[i], ones[i] = byte(i), 0xff
	}
	udp := [DigestSize]byte{4, 17, 0x12, 0x34, 0, 0, 0, 44}
	copy(udp[8:], "0123456789abcdef")
	tcp := [DigestSize]byte{6, 6, 0, 0, 0, 0, 0, 72, 0, 0, 3, 232, 0, 0, 7, 208, 1, 2, 3, 4, 0x80, 1}
	for _, tt := range []struct {
		in   [DigestSize]byte
		want uint64
	}{
		{zero, 0x743df94ee4c78a2a}, {count, 0xeb173b2aa3b5397a}, {ones, 0x76fef599e99b44d6},
		{udp, 0x9561eac691ce3409}, {tcp, 0x1ae2ec1aa17ba67b},
	} {
		if got := Digest(&tt.in); got != tt.want {
			t.Errorf("the digest of %x is %#x, want %#x", tt.in, got, tt.want)
		}
	}
}

// TestNotTraffic: what is not traffic reaches nobody who reads 28 bytes or lines.
func TestNotTraffic(t *testing.T) {
	for _, flags := range []Flags{Dropped, Uncounted, Dropped | Outgoing, Uncounted | BeforeQueue, Member | Incoming} {
		r := Record{Time: 1764000000e9, Length: 100, Proto: ProtoUDP, Flags: flags}
		if b, ok := AppendBinary([]byte("x"), &r); ok || string(b) != "x" {
			t.Errorf("flags %#x: a record %q", flags, b)
		}
		var l Lines
		for _, b := range [][]byte{AppendLine([]byte("x"), &r), l.Append([]byte("x"), &r)} {
			if string(b) != "x" {
				t.Errorf("flags %#x: a line %q", flags, b)
			}
		}
		if r.IsTraffic() {
			t.Errorf("flags %#x are traffic", flags)
		}
	}
	if r := (Record{Flags: Outgoing | BeforeQueue}); !r.IsTraffic() {
		t.Error("what is seen before the queue only is not traffic")
	}
}

func TestReasons(t *testing.T) {
	if a, b := ReasonNamed("QDISC_DROP"), ReasonNamed([]byte("QDISC_DROP")); a == 0 || a != b || a.String() != "QDISC_DROP" {
		t.Errorf("%d and %d, %q", a, b, a)
	}
	if ReasonNamed("") != 0 || Reason(0).String() != "" {
		t.Error("the unknown reason has a name")
	}
	for _, bad := range []string{strings.Repeat("A", ReasonSize+1), "A B", "A\n", "\x1b[1m", "é"} {
		if r := ReasonNamed(bad); r.String() != OtherReason {
			t.Errorf("%q is the reason %q", bad, r)
		}
	}
	for i := range 2 * maxReasons {
		ReasonNamed(fmt.Sprintf("R%d", i))
	}
	if n := len(*reasons.names.Load()); n != maxReasons {
		t.Errorf("%d reasons, want %d", n, maxReasons)
	}
	if ReasonNamed("ONE_MORE").String() != OtherReason || ReasonNamed("QDISC_DROP").String() != "QDISC_DROP" {
		t.Error("a full table forgets, or grows")
	}
}

// TestRecordSize: agents write millions of records a second, and keep 262,144 of them.
func TestRecordSize(t *testing.T) {
	if n := unsafe.Sizeof(Record{}); n > 88 {
		t.Errorf("a record takes %d bytes, want at most 88", n)
	}
}
