package collector

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseNames(t *testing.T) {
	const text = "\ufeff# like /etc/hosts\r\n" +
		"10.0.0.1\tn1 n1.lab alias # first\r\n" +
		"\n" +
		"10.0.0.1 other\n" +
		"::ffff:10.0.0.2 n2\n" +
		"2001:DB8::1   router\n" +
		"fe80::1%eth0 link\n" +
		"3 third\n" +
		"1.a weird\n" +
		"3 again" // no newline
	got, err := ParseNames("names", []byte(text))
	want := &NameFile{
		Addrs: map[netip.Addr]string{
			netip.MustParseAddr("10.0.0.1"):    "n1",
			netip.MustParseAddr("10.0.0.2"):    "n2",
			netip.MustParseAddr("2001:db8::1"): "router",
			netip.MustParseAddr("fe80::1"):     "link",
		},
		Labels: map[string]string{"3": "third", "1.a": "weird"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
	if n := got.Addr(netip.MustParseAddr("10.0.0.2")) + got.Label("3") + got.Label("4"); n != "n2third" {
		t.Errorf("names %q", n)
	}
	var none *NameFile
	if none.Addr(netip.MustParseAddr("10.0.0.1"))+none.Label("3") != "" {
		t.Error("no file, but a name")
	}
}

func TestParseNamesErrors(t *testing.T) {
	_, err := ParseNames("n", []byte("10.0.0.1\n10.0.0.300 x\n01.2.3.4 y\na\x07b c\n"))
	const want = `n:1: "10.0.0.1": no name: want an address or an agent's label, and a name behind it
n:2: "10.0.0.300": not a dotted quad: want four numbers from 0 to 255, without leading zeros
n:3: "01.2.3.4": not a dotted quad: want four numbers from 0 to 255, without leading zeros
n:4: "a\ab": not a label: want at least one character, without white space or control characters, before the first colon`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if _, err := ReadNames("/nonexistent/names"); err == nil {
		t.Error("a file that is not there has names")
	}
}

func TestNamesOfFileAlone(t *testing.T) {
	file, _ := ParseNames("n", []byte("10.0.0.1 n1\nx y\n"))
	n := NewNames(file, false)
	if err := n.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := []string{n.Addr(netip.MustParseAddr("::ffff:10.0.0.1")), n.Addr(netip.MustParseAddr("10.0.0.2")), n.Label("x")}
	if !reflect.DeepEqual(got, []string{"n1", "", "y"}) || len(n.queue) != 0 {
		t.Errorf("%q, %d asked for", got, len(n.queue))
	}
}

// TestNamesResolve: an address is asked for once in lookupAge, its name is
// there when the answer is, and neither silence nor failure is a name.
func TestNamesResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(map[string]int)
		var mu sync.Mutex
		n := NewNames(nil, true)
		n.lookup = func(ctx context.Context, addr string) ([]string, error) {
			mu.Lock()
			asked[addr]++
			mu.Unlock()
			switch addr {
			case "10.0.0.1":
				time.Sleep(time.Second)
				return []string{"n1.lab.", "other."}, nil
			case "10.0.0.2":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, errors.New("no such host")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.Run(ctx) }()
		look := func() (names []string) {
			for i := 1; i <= 3; i++ {
				names = append(names, n.Addr(netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i))))
			}
			return names
		}
		if got := look(); !reflect.DeepEqual(got, []string{"", "", ""}) {
			t.Errorf("before any answer: %q", got)
		}
		for range 100 {
			time.Sleep(lookupAge / 101)
			if got := look(); !reflect.DeepEqual(got, []string{"n1.lab", "", ""}) {
				t.Fatalf("with answers: %q", got)
			}
		}
		time.Sleep(lookupAge)
		if got := look(); got[0] != "n1.lab" {
			t.Errorf("an old name is forgotten before there is a new one: %q", got)
		}
		synctest.Wait()
		mu.Lock()
		if want := (map[string]int{"10.0.0.1": 2, "10.0.0.2": 2, "10.0.0.3": 2}); !reflect.DeepEqual(asked, want) {
			t.Errorf("asked %v, want %v", asked, want)
		}
		mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestNamesBounded: made-up addresses take no more than their share.
func TestNamesBounded(t *testing.T) {
	n := NewNames(nil, true)
	for i := range 3 * maxNames {
		n.Addr(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		if i%100 == 0 {
			for len(n.queue) > 0 {
				<-n.queue
			}
		}
	}
	if len(n.found) != maxNames {
		t.Errorf("%d names kept, want %d", len(n.found), maxNames)
	}
}

func FuzzParseNames(f *testing.F) {
	f.Add("10.0.0.1 n1\n2001:db8::1 n2 n2.lab\n3 third # x\n")
	f.Add("\x00\xff \n1.2.3 4\n")
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ParseNames("f", []byte(text)); (n == nil) == (err == nil) {
			t.Errorf("%v, %v", n, err)
		}
	})
}
