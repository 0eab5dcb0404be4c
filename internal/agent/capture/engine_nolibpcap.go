//go:build !libpcap || !cgo

package capture

import (
	"errors"

	"golang.org/x/net/bpf"
)

// HavePcap reports whether this build has the libpcap engine.
const HavePcap = false

// ErrNoPcap says that it does not.
var ErrNoPcap = errors.New("this build has no libpcap engine")

// Pcap is the libpcap engine, of which this build has none.
type Pcap struct{}

// OpenPcap fails with ErrNoPcap.
func OpenPcap(cfg Config) (*Pcap, error) {
	return nil, &Error{
		Interface: cfg.Interface,
		Err:       ErrNoPcap,
		hint:      "build with `CGO_ENABLED=1 go build -tags libpcap`, or use the ring",
	}
}

// Attach fails, as do all methods of a Pcap that does not exist.
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
