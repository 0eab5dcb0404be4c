package bus_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/transport/bus"
)

// member is one of a group, which runs until end is called.
type member struct {
	*bus.Share
	conn *bus.Conn
	end  func()
}

func join(t *testing.T, url string) *member {
	t.Helper()
	target, err := bus.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := bus.Connect(bus.Config{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	m := &member{Share: bus.NewShare(conn, "test", "host"), conn: conn}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx, nil)
	}()
	m.end = func() {
		cancel()
		<-done
		conn.Close()
	}
	t.Cleanup(m.end)
	return m
}

// keys are those of a hundred that a member has.
func (m *member) keys() (list []string) {
	for i := range 100 {
		key := fmt.Sprint("key ", i)
		if mine, _ := m.Mine(key); mine {
			list = append(list, key)
		}
	}
	return list
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// TestShare: who is alone has all keys, also without a bus; members divide them; a bus
// that is away changes nothing; and one that leaves or dies leaves its keys to the others.
func TestShare(t *testing.T) {
	server := bustest.Start(t, "")
	server.Kill()
	a := join(t, server.URL())
	until(t, "one without a bus to take all", func() bool { return len(a.keys()) == 100 })
	if a.Known() {
		t.Error("the members are known without a bus")
	}
	server.Restart()
	until(t, "the bus", a.Known)
	if n := len(a.keys()); n != 100 {
		t.Errorf("it has %d keys when the bus comes, want all", n)
	}
	b := join(t, server.URL())
	divided := func() bool {
		ofA, ofB := a.keys(), b.keys()
		return len(ofA) > 0 && len(ofB) > 0 && len(ofA)+len(ofB) == 100 && !slices.ContainsFunc(ofA, func(k string) bool { return slices.Contains(ofB, k) })
	}
	for deadline := time.Now().Add(time.Minute); !divided(); time.Sleep(time.Millisecond) {
		if len(a.keys())+len(b.keys()) > 100 && len(b.keys()) == 100 {
			t.Fatal("who joins takes keys of others")
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a minute they have %d and %d keys", len(a.keys()), len(b.keys()))
		}
	}
	before := a.keys()
	server.Kill()
	until(t, "both to miss the bus", func() bool { return !a.Known() && !b.Known() })
	for range 100 { // a second longer than anybody is waited for
		if !divided() || !slices.Equal(a.keys(), before) {
			t.Fatalf("without a bus they have %d and %d keys, want what they had", len(a.keys()), len(b.keys()))
		}
		time.Sleep(10 * time.Millisecond)
	}
	server.Restart()
	until(t, "the bus", func() bool { return a.Known() && b.Known() })
	until(t, "them to divide the keys as before", func() bool { return divided() && slices.Equal(a.keys(), before) })
	c := join(t, server.URL())
	until(t, "the third", func() bool { return len(a.keys())+len(b.keys())+len(c.keys()) == 100 && len(c.keys()) > 0 })
	b.conn.Close() // as if it had died: it says no goodbye
	until(t, "the others to have all", func() bool { return len(a.keys())+len(c.keys()) == 100 && len(a.Members()) == 2 })
	c.end()
	until(t, "the last to have all", func() bool { return len(a.keys()) == 100 })
}
