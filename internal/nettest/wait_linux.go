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

// settle returns once the one frame that the kernel cannot be talked out of has
// gone by: an MLD report for the solicited-node group (RFC 3810, 6.1), sent to
// all within three ticks of the interface coming up. A kernel that sends none
// costs 100 ms.
func settle(hosts []*Host) {
	Eventually(100*time.Millisecond, func() bool {
		for _, h := range hosts {
			c, err := h.Counters(ifName)
			if err != nil || c.TxPackets < 1 || c.RxPackets < min(1, uint64(len(hosts)-1)) {
				return false
			}
		}
		return true
	})
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
