//go:build !libpcap || !cgo

package capture

import (
	"errors"

	"golang.org/x/net/bpf"
)

// HavePcap reports whether this build has the libpcap engine.
const HavePcap = false

// ErrNoPcap is the error of all methods of Pcap in this build.
var ErrNoPcap = errors.New("this build has no libpcap engine")

// Pcap stands in for the libpcap engine, which this build does not have.
type Pcap struct{}

// OpenPcap fails with ErrNoPcap.
func OpenPcap(cfg Config) (*Pcap, error) {
	return nil, &Error{
		Interface: cfg.Interface,
		Err:       ErrNoPcap,
		hint:      "build with `CGO_ENABLED=1 go build -tags libpcap`, or use the ring",
	}
}

// Attach fails, like all methods that can.
func (*Pcap) Attach() error { return ErrNoPcap }

// Next fails.
func (*Pcap) Next() (*Block, error) { return nil, ErrNoPcap }

// Drain does nothing.
func (*Pcap) Drain() {}

// SetFilter fails.
func (*Pcap) SetFilter([]bpf.RawInstruction) error { return ErrNoPcap }

// Stats are zero.
func (*Pcap) Stats() Stats { return Stats{} }

// Close has nothing to close.
func (*Pcap) Close() error { return nil }
