package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

const (
	// maxNotices is how many a webhook may have to wait for.
	maxNotices = 256
	// noticeTime is how long a receiver may take for one.
	noticeTime = 10 * time.Second
	// noticeLife is how long it is tried to deliver one.
	noticeLife = 15 * time.Minute
	// firstRetry is the time before the second attempt; each next one is twice as long, up to lastRetry.
	firstRetry, lastRetry = time.Second, time.Minute
)

// Notice is what a webhook is sent.
type Notice struct {
	Event     string  `json:"event" enum:"begin,end"`
	Time      int64   `json:"time"`      // seconds since 1970
	Collector string  `json:"collector"` // the address of its page
	Link      string  `json:"link"`      // to the view of the page that shows the problem
	Problem   Problem `json:"problem"`   // at the end as it was last
}

// webhook sends notices to a server, in order, each until it has been accepted.
type webhook struct {
	url    *url.URL
	token  string // "" for none
	client *http.Client
	retry  time.Duration // the first one
	wake   chan struct{}

	mu               sync.Mutex
	queue            []Notice
	received, passed uint64
	lost             map[string]uint64 // by reason
	failing          string
	since            time.Time
}

// newWebhook reads the certificates that the system trusts: later it may not be allowed to.
func newWebhook(u *url.URL, token string) (*webhook, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if u.Scheme == "https" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &webhook{
		url: u, token: token, retry: firstRetry, wake: make(chan struct{}, 1), lost: map[string]uint64{},
		client: &http.Client{
			Transport: transport, Timeout: noticeTime,
			// A redirected POST would become a GET, or carry the token to somebody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// put queues a notice. It never waits.
func (h *webhook) put(n Notice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.received++
	if len(h.queue) >= maxNotices {
		h.lost["queue full"]++
		return
	}
	h.queue = append(h.queue, n)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// next is the first notice in the queue, which stays there until it is done.
func (h *webhook) next() (n Notice, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) == 0 {
		return n, false
	}
	return h.queue[0], true
}

// done takes the first notice out of the queue; it was lost for a reason, or else passed on.
func (h *webhook) done(lost string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue = h.queue[1:]
	if lost != "" {
		h.lost[lost]++
	} else {
		h.passed++
	}
}

// run delivers until ctx is done.
func (h *webhook) run(ctx context.Context) {
	for ctx.Err() == nil {
		n, ok := h.next()
		if ok {
			if lost, ended := h.deliver(ctx, n); !ended {
				h.done(lost)
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-h.wake:
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := uint64(len(h.queue)); n > 0 {
		h.lost["not delivered before the end"] += n
		h.queue = nil
	}
}

// deliver tries until a notice is accepted, or else returns why it was lost. It has ended if ctx is done.
func (h *webhook) deliver(ctx context.Context, n Notice) (lost string, ended bool) {
	giveUp := time.Now().Add(noticeLife)
	for wait := h.retry; ; wait = min(2*wait, lastRetry) {
		again, err := h.post(ctx, n)
		if ctx.Err() != nil {
			return "", true
		}
		h.note(err)
		switch {
		case err == nil:
			return "", false
		case !again:
			return "refused", false
		case time.Now().Add(wait).After(giveUp):
			return "not accepted in time", false
		}
		select {
		case <-ctx.Done():
			return "", true
		case <-time.After(wait):
		}
	}
}

// post sends a notice. If it fails, again says whether it may help to try once more.
func (h *webhook) post(ctx context.Context, n Notice) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url.String(), bytes.NewReader(encode(n)))
	if err != nil {
		return false, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "recollect")
	if h.token != "" {
		r.Header.Set("Authorization", "Bearer "+h.token)
	}
	answer, err := h.client.Do(r)
	if err != nil {
		return true, err
	}
	defer answer.Body.Close()
	io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	switch code := answer.StatusCode; {
	case code/100 == 2:
		return false, nil
	case code/100 == 5, code == http.StatusRequestTimeout, code == http.StatusTooManyRequests:
		return true, fmt.Errorf("the receiver answers %s", answer.Status)
	}
	return false, fmt.Errorf("the receiver answers %s", answer.Status)
}

// note remembers whether the last attempt failed.
func (h *webhook) note(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.failing = ""
	case h.failing == "":
		h.since = time.Now()
		fallthrough
	default:
		h.failing = fault.Cause(err)
	}
}

// account is the webhook's entry in the ledger. Its URL may be a secret: only the host is named.
func (h *webhook) account() []ledger.Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := ledger.Entry{Stage: ledger.Webhook, Name: h.url.Host, Unit: "notices", Received: h.received, Passed: h.passed, Held: uint64(len(h.queue))}
	for _, reason := range []string{"queue full", "refused", "not accepted in time", "not delivered before the end"} {
		e.Lose(reason, h.lost[reason])
	}
	return []ledger.Entry{e}
}

func (h *webhook) health() []ledger.Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	health := ledger.Health{Stage: ledger.Webhook, Name: h.url.Host, Failing: h.failing}
	if h.failing != "" {
		health.Since = h.since
	}
	if len(h.queue) > 0 {
		health.Oldest = time.Unix(h.queue[0].Time, 0)
	}
	return []ledger.Health{health}
}
