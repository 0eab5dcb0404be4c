package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/agent/iface"
	"github.com/pcapper/pcapper/internal/agent/match"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/host/fault"
)

// watchedInterface is the interface being watched, and its filter.
type watchedInterface struct {
	iface  iface.Interface
	mac    net.HardwareAddr // the modes' MAC; nil if it has none
	addrs  []netip.Addr     // of this host
	filter *match.Filter
	// matched is what the filter was compiled for.
	matched match.Interface
}

// prepare waits for the interface and compiles the filter for it.
func prepare(ctx context.Context, cfg *Config, say func(string, ...any)) (*watchedInterface, error) {
	wait := cfg.wait
	if wait == 0 {
		wait = interfaceWait
	}
	if cfg.MACFrom != "" {
		if _, err := cfg.macFrom(); err != nil {
			return nil, err
		}
	}
	i, err := iface.Wait(ctx, cfg.Interface, wait, cfg.missing, func(m string) { say("%s", m) })
	i, err = cfg.settle(i, err, say)
	if err != nil {
		return nil, fault.WithCode(waitCode(err), err)
	}
	t := &watchedInterface{iface: i}
	return t, t.compile(ctx, cfg)
}

// chooseInterface resolves -i auto to the interface of the default route, unless an
// interface has that name.
func (cfg *Config) chooseInterface(say func(string, ...any)) (string, error) {
	if cfg.Interface != AutoInterface {
		return cfg.Interface, nil
	}
	if _, err := iface.ByName(AutoInterface); err == nil {
		return AutoInterface, nil
	}
	i, err := iface.DefaultRoute()
	if err != nil {
		return "", fault.WithCode(ExitDevice, fmt.Errorf("-i %s: %w", AutoInterface, err))
	}
	say("-i %s: watching %s, the interface of the default route", AutoInterface, i.Name)
	return i.Name, nil
}

// missing returns what the interface lacks before it can be watched, or "". It requires
// only what the mode needs: bridge ports, mirror ports, and taps have no addresses. A
// link-local address alone is not enough, because an interface has only that while its
// other addresses are being configured; see settle.
func (cfg *Config) missing(i iface.Interface) string {
	addrs := i
	if cfg.MACFrom != "" {
		// A bridge port has no addresses, but its bridge does.
		if from, err := iface.ByName(cfg.MACFrom); err == nil {
			addrs.Addrs = append(addrs.Addrs[:len(addrs.Addrs):len(addrs.Addrs)], from.Addrs...)
		}
	}
	switch {
	case !i.Up:
		return "is down"
	case cfg.needsIPv4() && len(addrs.IPv4()) == 0:
		return fmt.Sprintf("has no IPv4 address, which %%i in -m %q needs", cfg.Mode)
	case !cfg.needsIPv4() && !match.IsSpoof(cfg.Mode):
		return ""
	case len(addrs.Addrs) == 0:
		return "has no IP address, which -m spoof needs"
	case addrs.HasLinkLocalOnly():
		return "has a link-local address only"
	}
	return ""
}

// needsIPv4 reports whether the mode uses %i, the interface's IPv4 address. Mode spoof
// works with IPv6 addresses alone.
func (cfg *Config) needsIPv4() bool { return match.NeedsIPv4(cfg.Mode) }

// settle accepts a link-local address if no other address appeared.
func (cfg *Config) settle(i iface.Interface, err error, say func(string, ...any)) (iface.Interface, error) {
	var timeout *iface.TimeoutError
	if errors.As(err, &timeout) && timeout.Interface.Up && timeout.Interface.HasLinkLocalOnly() &&
		(!cfg.needsIPv4() || len(timeout.Interface.IPv4()) > 0) {
		say("%s: going on with a link-local address only", timeout.Interface.Name)
		return timeout.Interface, nil
	}
	return i, err
}

func waitCode(err error) int {
	var timeout *iface.TimeoutError
	if errors.As(err, &timeout) && timeout.Interface.Up {
		return ExitNoAddress
	}
	return ExitDevice
}

// compile compiles the filter for the interface's current state.
func (t *watchedInterface) compile(ctx context.Context, cfg *Config) error {
	m, err := t.resolve(cfg)
	if err != nil {
		return err
	}
	if t.filter, err = match.Compile(ctx, cfg.kernelMode(), m); err != nil {
		return fault.WithCode(filterCode(err), err)
	}
	t.matched = m
	return nil
}

// resolve determines the MAC and IP addresses that the modes refer to.
func (t *watchedInterface) resolve(cfg *Config) (match.Interface, error) {
	t.mac = t.iface.MAC
	v4 := t.iface.IPv4()
	if cfg.MACFrom != "" {
		from, err := cfg.macFrom()
		if err != nil {
			return match.Interface{}, err
		}
		t.mac = from.MAC
		v4 = append(v4, from.IPv4()...)
	}
	var err error
	if t.addrs, err = iface.LocalAddrs(); err != nil {
		return match.Interface{}, fault.WithCode(ExitDevice, fmt.Errorf("cannot list this host's addresses: %w", err))
	}
	m := match.Interface{
		Name: t.iface.Name, Index: t.iface.Index, Ethernet: t.iface.Ethernet, WiFi: wifiLink(t.iface.Type),
		Loopback: t.iface.Loopback, MAC: t.mac, Addrs: t.addrs,
	}
	if len(v4) > 0 {
		m.IPv4 = v4[0]
	}
	return m, nil
}

// macFrom returns the interface named by -r.
func (cfg *Config) macFrom() (iface.Interface, error) {
	from, err := iface.ByName(cfg.MACFrom)
	if err != nil {
		return from, fault.WithCode(ExitNoMAC, fmt.Errorf("-r: cannot take a MAC address: %w", err))
	}
	if from.MAC == nil {
		return from, fault.WithCode(ExitNoMAC, fault.WithHint(fmt.Errorf("-r %q: that interface has no MAC address", cfg.MACFrom),
			"name an Ethernet interface, or leave out -r: direction then takes the MAC's place"))
	}
	return from, nil
}

// affected reports whether the filter for m would differ from t's: only mode spoof uses
// addresses other than the MAC address and %i.
func (t *watchedInterface) affected(cfg *Config, m match.Interface) bool {
	return !slices.Equal(m.MAC, t.matched.MAC) || m.IPv4 != t.matched.IPv4 ||
		match.IsSpoof(cfg.kernelMode()) && !slices.Equal(m.Addrs, t.matched.Addrs)
}

// local returns the host as the decoder needs to know it.
func (t *watchedInterface) local() *decode.Local { return &decode.Local{MAC: t.mac, Addrs: t.addrs} }

// wanted returns the test for fragments that the kernel's filter passes untested.
func (t *watchedInterface) wanted() *wanted {
	var w wanted
	if t.filter.Fragments() {
		w = t.filter.Wanted
	}
	return &w
}

func filterCode(err error) int {
	switch {
	case errors.Is(err, match.ErrNoMAC):
		return ExitNoMAC
	case errors.Is(err, match.ErrTooLong):
		return ExitFilterRefused
	case errors.Is(err, match.ErrNoIPv4), errors.Is(err, match.ErrNoAddress):
		return ExitNoAddress
	}
	return ExitFilterSyntax
}

// wifiLink returns the link type of an interface of that hardware type if it is a
// wireless one in monitor mode, otherwise 0.
func wifiLink(typ uint16) packet.LinkType {
	switch typ {
	case unix.ARPHRD_IEEE80211:
		return packet.IEEE80211
	case unix.ARPHRD_IEEE80211_RADIOTAP:
		return packet.Radiotap
	}
	return 0
}

// captureConfig returns the configuration common to all engines.
func (t *watchedInterface) captureConfig(cfg *Config) capture.Config {
	c := capture.Config{
		Interface: t.iface.Name, Index: t.iface.Index, Ethernet: t.iface.Ethernet, WiFi: wifiLink(t.iface.Type),
		Filter: t.filter.Instructions(), RingBytes: cfg.RingBytes, Inside: cfg.lookInside(), Parse: cfg.decoder().NoDigest,
		Point: points[cfg.Point],
		// A host's own frames are captured in any case.
		Promiscuous: strings.TrimSpace(cfg.Mode) != "src",
	}
	if !cfg.IncludeSelf {
		c.OwnPorts = cfg.ports()
	}
	return c
}
