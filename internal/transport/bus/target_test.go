package bus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/wire/batch"
)

func TestParse(t *testing.T) {
	got, err := Parse("tls://ann:s3cret@a,b:4333,[::1]?creds=/x&tenant=lab&site=east wing&partitions=8&age=48h&size=1000")
	if err != nil {
		t.Fatal(err)
	}
	if want := "tls://ann:s3cret@a:4222 tls://ann:s3cret@b:4333 tls://ann:s3cret@[::1]:4222"; strings.Join(got.Servers, " ") != want {
		t.Errorf("servers: %q\nwant %s", got.Servers, want)
	}
	if got.Creds != "/x" || got.Streams.Partitions != 8 || got.Streams.MaxBytes != 1000 || got.Streams.MaxAge.Hours() != 48 {
		t.Errorf("%+v", got)
	}
	for _, text := range []string{"nats+tls://ann:s3cret@a,b:4333,[::1]", "nats+tls://ann:s3cret@a,nats+tls://b:4333,[::1]"} {
		if same, err := Parse(text); err != nil || !slices.Equal(same.Servers, got.Servers) || !same.Secure {
			t.Errorf("%s: %+v, %v, want servers %q", text, same, err, got.Servers)
		}
	}
	if strings.Contains(got.String(), "s3cret") {
		t.Errorf("%s has the password", got)
	}
	if got := got.streamName(3); got != "PC_lab_03" {
		t.Error(got)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"http://a":                       "want nats://HOST",
		"nats://":                        "no host",
		"nats://a,,b":                    "no host",
		"nats://a/x":                     `path "x": want none`,
		"nats://a:s3cret@h?colour=red":   `unknown parameter "colour"`,
		"nats://a?ca=/x":                 "for nats+tls://",
		"tls://a?cert=/x":                "want both",
		"nats://a?creds=/x&nkey=/y":      "one of them",
		"nats://a?tenant=a.b":            "letters",
		"nats://a?partitions=101":        "partitions=101",
		"nats://a?replicas=0":            "replicas=0",
		"nats://a?age=yesterday":         "age=yesterday",
		"nats://a:s3cret@h?site=&size=4": `parameter "site": empty`,
		"nats://a?partition=4":           "did you mean partitions?",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}

// TestSubjects: names with what NATS gives a meaning, and back.
func TestSubjects(t *testing.T) {
	target := &ClusterURL{Tenant: "default", Site: "east wing"}
	for _, name := range []string{"a", "node 1.lan", "*", ">", "é", "a=b", "\x00"} {
		s := target.subject(&batch.Header{Agent: name, Level: batch.Top}, 4)
		if n := strings.Count(s, "."); n != 6 || strings.ContainsAny(s, " *>\x00") {
			t.Errorf("%q: subject %q", name, s)
		}
		if back, ok := untoken(s[strings.LastIndexByte(s, '.')+1:]); !ok || back != name {
			t.Errorf("%q is %q in %s", name, back, s)
		}
		if want := fmt.Sprintf("pcapper.v1.default.%02d.top10s.east=20wing.", Partition(name, 4)); !strings.HasPrefix(s, want) {
			t.Errorf("%s: want %s", s, want)
		}
	}
}

// TestRendezvous: keys are spread, and only those of a member that goes move.
func TestRendezvous(t *testing.T) {
	members := []string{"a-1", "b-2", "c-3", "d-4"}
	had := map[string]int{}
	for i := range 4000 {
		key := fmt.Sprint("agent", i)
		before := owner(members, key)
		had[before]++
		left := slices.DeleteFunc(slices.Clone(members), func(m string) bool { return m == "b-2" })
		if after := owner(left, key); before != "b-2" && after != before {
			t.Fatalf("%s moves from %s to %s", key, before, after)
		}
	}
	for m, n := range had {
		if n < 800 || n > 1200 {
			t.Errorf("%s has %d of 4000 keys", m, n)
		}
	}
}

// TestMarks: whatever comes how often and in whatever order, each record is new
// once.
func TestMarks(t *testing.T) {
	seed := [2]uint64{rand.Uint64(), rand.Uint64()}
	t.Logf("seed %v", seed)
	rnd := rand.New(rand.NewPCG(seed[0], seed[1]))
	var m mark
	seen := map[uint64]bool{}
	fresh := map[uint64]bool{}
	for range 3000 {
		from := rnd.Uint64N(m.Next/2+200) + m.Next/2
		to := from + 1 + rnd.Uint64N(40)
		waited := slices.Clone(m.Holes)
		next := m.Next
		for _, s := range m.markReceived(from, to) {
			for i := s.From; i < s.To; i++ {
				if fresh[i] {
					t.Fatalf("record %d is new twice", i)
				}
				fresh[i] = true
			}
		}
		for i := from; i < to; i++ {
			hole := slices.ContainsFunc(waited, func(h span) bool { return h.From <= i && i < h.To })
			if !fresh[i] && (i >= next || hole) {
				t.Fatalf("record %d is not new, and was not had", i)
			}
			seen[i] = true
		}
		if len(m.Holes) > maxHoles {
			t.Fatalf("%d holes", len(m.Holes))
		}
	}
	if had := m.Next - m.missing(); had != uint64(len(fresh)) {
		t.Errorf("%d records were had, and %d are new", had, len(fresh))
	}
}

// TestStateFits: a key's value fits a message, with as many agents as are known.
func TestStateFits(t *testing.T) {
	s := state{Next: 7}
	for i := range maxMarks {
		s.Marks = append(s.Marks, mark{Agent: fmt.Sprintf("agent %d of %d", i, rand.Uint64()), Boot: rand.Uint64(), Next: rand.Uint64(), Seen: uint64(i)})
	}
	data, err := s.encode()
	if err != nil || len(data) > maxValue {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	t.Logf("%d marks in %d bytes", len(s.Marks), len(data))
	back, err := decodeState(data)
	if err != nil || back.Next != 7 || len(back.Marks) != len(s.Marks) || back.Marks[1].Boot != s.Marks[1].Boot {
		t.Errorf("%v", err)
	}
}
