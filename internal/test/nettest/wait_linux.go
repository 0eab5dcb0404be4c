package nettest

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// patience is how long the kernel may take for what it does in microseconds.
const patience = 5 * time.Second

// Eventually polls until ok is true, for what the kernel gives no event for. It
// reports whether that was within the time.
func Eventually(within time.Duration, ok func() bool) bool {
	for end := time.Now().Add(within); ; {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		time.Sleep(time.Millisecond)
	}
}

// waitCarrier returns once eth0 can send: both ends of its cable are up and the
// kernel has activated its queues.
func (h *Host) waitCarrier() error {
	var last error
	up := Eventually(patience, func() bool {
		var link netlink.Link
		if link, last = h.nl.LinkByName(ifName); last != nil {
			return false
		}
		return link.Attrs().OperState == netlink.OperUp
	})
	if !up {
		return fmt.Errorf("%s is not up after %v (last error: %v)", ifName, patience, last)
	}
	return nil
}

// silent is how long nothing must have been sent for the network to be taken for
// silent: a multiple of the three ticks after which listener reports are sent.
const silent = 50 * time.Millisecond

// settle returns once the frames that the kernel cannot be talked out of have
// gone by: an MLD report for the solicited-node group (RFC 3810, 6.1), sent to
// all when the interface is ready, by some kernels twice. A kernel that sends
// none costs a second.
func settle(hosts []*Host) {
	begin := time.Now()
	last, since := uint64(0), begin
	Eventually(patience, func() bool {
		all, sum := traffic(hosts)
		if sum != last {
			last, since = sum, time.Now()
		}
		return time.Since(since) > silent && (all || time.Since(begin) > time.Second)
	})
}

// traffic is the number of frames that the hosts have sent and received, and
// whether each of them has sent one.
func traffic(hosts []*Host) (all bool, sum uint64) {
	all = true
	for _, h := range hosts {
		c, err := h.Counters(ifName)
		if err != nil || c.TxPackets == 0 {
			all = false
		}
		sum += c.TxPackets + c.RxPackets
	}
	return all, sum
}

// Counters are an interface's statistics, as `ip -s link` shows them.
func (h *Host) Counters(name string) (netlink.LinkStatistics, error) {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return netlink.LinkStatistics{}, fmt.Errorf("interface %q: %w", name, err)
	}
	if link.Attrs().Statistics == nil {
		return netlink.LinkStatistics{}, fmt.Errorf("interface %q: no statistics", name)
	}
	return *link.Attrs().Statistics, nil
}
