package collector

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// senders are agents that connect or send to us.
type senders struct {
	receivers []*feed.Receiver

	who    sync.RWMutex           // guards the next three
	by     map[netip.Addr]*agent  // agents with a line from://address
	named  map[ipfix.Names]*agent // agents with a line from://node/interface
	others *agent                 // all others together

	mu     sync.Mutex
	losses map[sender]feed.Losses
}

// sender identifies a sender and its receiver.
type sender struct {
	receiver int
	feed.Sender
}

// othersLabel is the label of agents without a line.
const othersLabel = "other"

// listen opens the ports, and adds the agents that will send to them.
func (c *collector) listen(list []feed.Listen, allow []netip.Prefix, files certs.Files) error {
	if len(list) == 0 {
		for i := range c.file.Hosts {
			if h := &c.file.Hosts[i]; h.From {
				return h.needsListen()
			}
		}
		return nil
	}
	c.senders.by, c.senders.losses = map[netip.Addr]*agent{}, map[sender]feed.Losses{}
	c.senders.named = map[ipfix.Names]*agent{}
	c.file = &File{Flows: c.file.Flows, Hosts: append(c.file.Hosts[:len(c.file.Hosts):len(c.file.Hosts)],
		Host{Label: othersLabel, Name: "others that send", From: true, IPFIX: true})}
	for i, l := range list {
		secure, err := listenTLS(l, files)
		if err != nil {
			return err
		}
		r, err := feed.NewReceiver(feed.ReceiverConfig{
			Listen:  l,
			Allow:   allow,
			Known:   c.knownSender,
			TLS:     secure,
			Records: func(from feed.Sender, records []wire.Record) { c.senderAt(from).take(records) },
			Losses:  func(from feed.Sender, l feed.Losses) { c.lose(sender{i, from}, l) },
			Session: c.session,
			Say:     c.say.printf,
		})
		if err != nil {
			return err
		}
		c.senders.receivers = append(c.senders.receivers, r)
		c.say.printf("%v", r)
	}
	return nil
}

// needsListen is the error for a host that has no port to send to.
func (h *Host) needsListen() error {
	return fmt.Errorf("line %d: %v: an agent that is not dialled takes -listen URL, where it sends to", h.Line, h)
}

// listenTLS returns the configuration of our side, with the current certificates.
func listenTLS(l feed.Listen, files certs.Files) (*tls.Config, error) {
	if !l.TLS {
		return nil, nil
	}
	if files.Cert == "" || files.Key == "" || files.CA == "" {
		return nil, fmt.Errorf("-listen %s takes -tls-cert FILE, -tls-key FILE and -tls-ca FILE", l.URL)
	}
	server, err := certs.NewServer(files)
	if err != nil {
		return nil, fmt.Errorf("-listen %s: %w", l.URL, err)
	}
	return server.Config(), nil
}

// newSender returns an agent that connects or sends to us.
func (c *collector) newSender(index uint32, host *Host) *agent {
	a := &agent{c: c, index: index, host: host}
	a.state.Store(&feed.ClientState{Phase: feed.Dialling})
	c.senders.who.Lock()
	defer c.senders.who.Unlock()
	if addr, err := netip.ParseAddr(a.host.Name); err == nil {
		c.senders.by[addr] = a
	} else if names, ok := observed(a.host.Name); ok {
		c.senders.named[names] = a
	} else {
		c.senders.others = a
	}
	return a
}

// forget assigns what a sends to others from now on, unless a is others.
func (s *senders) forget(a *agent) {
	s.who.Lock()
	defer s.who.Unlock()
	isIt := func(other *agent) bool { return other == a }
	maps.DeleteFunc(s.by, func(_ netip.Addr, other *agent) bool { return isIt(other) })
	maps.DeleteFunc(s.named, func(_ ipfix.Names, other *agent) bool { return isIt(other) })
}

// observed parses node/interface.
func observed(text string) (names ipfix.Names, ok bool) {
	names.Node, names.Interface, ok = strings.Cut(text, "/")
	return names, ok && names.Interface != ""
}

// senderAt returns the agent with this name, or with this source address.
func (c *collector) senderAt(from feed.Sender) *agent {
	c.senders.who.RLock()
	defer c.senders.who.RUnlock()
	if a := c.senders.named[from.Names]; a != nil {
		return a
	}
	if a := c.senders.by[from.Addr]; a != nil {
		return a
	}
	return c.senders.others
}

// session is called for each new stream.
func (c *collector) session(from feed.Sender, port uint16) {
	a := c.senderAt(from)
	if a.connections.Add(1) == 1 || a != c.senders.others {
		a.c.say.printf("%v: sends from %v", a, netip.AddrPortFrom(from.Addr, port))
	}
	a.state.Store(&feed.ClientState{Phase: feed.Connected})
}

// knownSender reports whether an agent is expected at an address (from://address).
func (c *collector) knownSender(a netip.Addr) bool {
	c.senders.who.RLock()
	defer c.senders.who.RUnlock()
	_, ok := c.senders.by[a.WithZone("")]
	return ok
}

// listening adds up what all receivers did not accept.
func (c *collector) listening() (sum feed.ReceiverStatus) {
	for _, r := range c.senders.receivers {
		s := r.Status()
		sum.Sessions += s.Sessions
		sum.Evicted += s.Evicted
		sum.Malformed += s.Malformed
		sum.NotAllowed += s.NotAllowed
		sum.Refused += s.Refused
	}
	return sum
}

// maxSenders bounds the number of senders whose losses are tracked separately.
const maxSenders = 4096

// lose is called with what is missing from everything that one address has sent to a
// receiver.
func (c *collector) lose(from sender, l feed.Losses) {
	s, a := &c.senders, c.senderAt(from.Sender)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.losses[from]; !known && len(s.losses) >= maxSenders {
		return
	}
	s.losses[from] = l
	sum := feed.Losses{}
	for other, l := range s.losses {
		if c.senderAt(other.Sender) == a {
			sum = sum.Plus(l)
		}
	}
	a.missing.Store(&sum)
}
