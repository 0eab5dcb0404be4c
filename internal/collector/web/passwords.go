package web

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	// maxWaiting is the maximum number of credentials waiting to be checked,
	// maxPerSource that of one source. A check deliberately takes a tenth of a second
	// of CPU time, and only one is made at a time, so that attackers cannot use up all
	// of the CPU.
	maxWaiting   = 64
	maxPerSource = 8
	// maxRemembered is the number of correct, and of wrong, credentials that are
	// remembered. Wrong ones are forgotten after wrongTime.
	maxRemembered = 256
	wrongTime     = 10 * time.Second
)

type mac [32]byte

// passwords checks users' passwords. Sources take turns, and the newest attempt of a
// source comes first, so that an attacker delays others by one check at most.
type passwords struct {
	users map[string][]byte
	none  []byte // a hash for unknown users, so that checking takes the same time
	key   [32]byte

	mu       sync.Mutex
	right    map[mac]struct{}
	wrong    map[mac]time.Time
	attempts map[mac]*attempt // being checked, or waiting
	waiting  []*attempt       // in order of arrival
	served   map[netip.Prefix]uint64
	turns    uint64
	busy     bool // a check is running
}

// attempt is a set of credentials to check, once for all requests that present them.
type attempt struct {
	mac      mac
	source   netip.Prefix
	hash     []byte
	password string
	known    bool
	status   int           // valid once done is closed
	done     chan struct{} //
}

func newPasswords(users map[string][]byte) *passwords {
	p := &passwords{users: users, right: map[mac]struct{}{}, wrong: map[mac]time.Time{}, attempts: map[mac]*attempt{}, served: map[netip.Prefix]uint64{}}
	rand.Read(p.key[:])
	for _, hash := range users {
		p.none = hash
	}
	return p
}

// check returns 200, 401, or, if too many are waiting, 429.
func (p *passwords) check(ctx context.Context, source netip.Prefix, name, password string) int {
	a, status := p.enter(source, name, password)
	if a == nil {
		return status
	}
	select {
	case <-a.done:
		return a.status
	case <-ctx.Done():
		return http.StatusUnauthorized
	}
}

// enter returns the attempt to wait for, or the status if it is already known.
func (p *passwords) enter(source netip.Prefix, name, password string) (*attempt, int) {
	id := p.mac(name, password)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.right[id]; ok {
		return nil, http.StatusOK
	}
	if since, ok := p.wrong[id]; ok && time.Since(since) < wrongTime {
		return nil, http.StatusUnauthorized
	}
	if a := p.attempts[id]; a != nil {
		return a, 0
	}
	hash, known := p.users[name]
	if !known {
		hash = p.none
	}
	a := &attempt{mac: id, source: source, hash: hash, password: password, known: known, done: make(chan struct{})}
	p.attempts[id] = a
	p.waiting = append(p.waiting, a)
	p.makeRoom(source)
	if !p.busy {
		p.busy = true
		go p.run()
	}
	return a, 0
}

// makeRoom rejects the oldest attempt of the source, or of the one with the most, if
// there are too many.
func (p *passwords) makeRoom(source netip.Prefix) {
	of := map[netip.Prefix]int{}
	for _, a := range p.waiting {
		of[a.source]++
	}
	switch {
	case of[source] > maxPerSource:
	case len(p.waiting) > maxWaiting:
		for s, n := range of {
			if n > of[source] {
				source = s
			}
		}
	default:
		return
	}
	i := slices.IndexFunc(p.waiting, func(a *attempt) bool { return a.source == source })
	p.finish(p.waiting[i], http.StatusTooManyRequests)
	p.waiting = slices.Delete(p.waiting, i, i+1)
}

// finish wakes those who wait for an attempt.
func (p *passwords) finish(a *attempt, status int) {
	a.status = status
	delete(p.attempts, a.mac)
	close(a.done)
}

// run checks attempts until none is waiting.
func (p *passwords) run() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.waiting) > 0 {
		a := p.next()
		p.mu.Unlock()
		right := bcrypt.CompareHashAndPassword(a.hash, []byte(a.password)) == nil && a.known
		p.mu.Lock()
		if right {
			if len(p.right) >= maxRemembered {
				clear(p.right)
			}
			p.right[a.mac] = struct{}{}
			p.finish(a, http.StatusOK)
		} else {
			p.note(a)
			p.finish(a, http.StatusUnauthorized)
		}
	}
	clear(p.served)
	p.busy = false
}

// note remembers that an attempt was wrong.
func (p *passwords) note(a *attempt) {
	if len(p.wrong) >= maxRemembered {
		maps.DeleteFunc(p.wrong, func(_ mac, at time.Time) bool { return time.Since(at) >= wrongTime })
	}
	if len(p.wrong) >= maxRemembered {
		clear(p.wrong)
	}
	p.wrong[a.mac] = time.Now()
}

// next returns the newest attempt of the source that was served longest ago.
func (p *passwords) next() *attempt {
	best := 0
	for i, a := range p.waiting {
		if p.served[a.source] <= p.served[p.waiting[best].source] {
			if p.served[a.source] < p.served[p.waiting[best].source] || a.source == p.waiting[best].source {
				best = i
			}
		}
	}
	a := p.waiting[best]
	p.waiting = slices.Delete(p.waiting, best, best+1)
	p.turns++
	p.served[a.source] = p.turns
	return a
}

func (p *passwords) mac(name, password string) (sum mac) {
	h := hmac.New(sha256.New, p.key[:])
	h.Write([]byte(name))
	h.Write([]byte{0}) // no header contains one
	h.Write([]byte(password))
	h.Sum(sum[:0])
	return sum
}
