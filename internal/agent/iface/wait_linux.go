package iface

import (
	"context"
	"fmt"
	"time"
)

// TimeoutError means that an interface did not become ready in time.
type TimeoutError struct {
	Interface Interface     // its last state
	Reason    string        // what was missing, such as "is down"
	After     time.Duration // how long Wait waited
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("cannot capture on %q: after %s it still %s", e.Interface.Name, seconds(e.After), e.Reason)
}

// Timeout implements the method of net.Error.
func (e *TimeoutError) Timeout() bool { return true }

// Hint returns what might help.
func (e *TimeoutError) Hint() string {
	switch i := &e.Interface; {
	case !i.Up:
		return fmt.Sprintf("to bring it up: ip link set dev %s up", i.Name)
	case len(i.Addrs) == 0:
		return fmt.Sprintf("to give it an address: ip address add ADDRESS/LENGTH dev %s", i.Name)
	}
	return fmt.Sprintf("to see what it has: ip address show dev %s", e.Interface.Name)
}

// tick is how often Wait checks even if the kernel has reported nothing.
const tick = time.Second

// Wait returns the interface with this name as soon as it is ready. ready returns what
// the interface still lacks, as the end of a sentence that begins with its name ("is
// down", "has no IP address"), or "" if it is ready. If Wait has to wait, it calls say
// immediately, and again whenever the reason changes.
//
// The error is a *NotFoundError, immediately, if the interface does not exist or is
// removed (a rename does not count), a *TimeoutError after timeout, or the context's
// error.
func Wait(ctx context.Context, name string, timeout time.Duration,
	ready func(Interface) (waitingFor string), say func(string)) (Interface, error) {
	w, err := NewWatcher(Any)
	if err != nil {
		return Interface{}, err
	}
	defer w.Close()
	i, err := find(w.Interfaces(), name)
	if err != nil {
		return Interface{}, err
	}
	wt := waiter{Watcher: w, name: name, timeout: timeout, ready: ready, say: say}
	return wt.wait(ctx, i)
}

type waiter struct {
	*Watcher
	name    string
	timeout time.Duration
	ready   func(Interface) string
	say     func(string)
}

func (w *waiter) wait(ctx context.Context, i Interface) (Interface, error) {
	end := time.Now().Add(w.timeout)
	said := ""
	for {
		reason := w.ready(i)
		left := time.Until(end)
		switch {
		case reason == "":
			return i, nil
		case left <= 0:
			return i, &TimeoutError{Interface: i, Reason: reason, After: w.timeout}
		case reason != said:
			w.say(fmt.Sprintf("%s %s: waiting up to %s", i.Name, reason, seconds(left)))
			said = reason
		}
		if err := w.step(ctx, time.Now().Add(min(left, tick)), func(Event) {}); err != nil {
			return i, err
		}
		now, ok := w.have[i.Index]
		if !ok {
			return i, &NotFoundError{Name: w.name, Have: names(w.Interfaces())}
		}
		i = now
	}
}

// seconds rounds to the nearest whole second, but at least one.
func seconds(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return fmt.Sprintf("%d s", d.Round(time.Second)/time.Second)
}
