package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/host/fault"
)

// engine opens captures of one kind.
type engine struct {
	name string
	why  string
	open func(capture.Config) (capture.Source, error)
	// close frees what is kept open for the next capture.
	close func() error
}

// newTaps returns the eBPF engine, whose programs stay loaded between captures.
func newTaps() engine {
	taps := new(capture.Taps)
	return engine{name: engineEBPF, open: opener(taps.Open), close: taps.Close}
}

const engineEBPF = "ebpf"

func nothing() error { return nil }

var (
	engineRing = engine{name: "ring (AF_PACKET TPACKET_V3)", open: opener(capture.OpenRing), close: nothing}
	enginePcap = engine{name: "libpcap", open: opener(capture.OpenPcap), close: nothing}
)

// points are the values of -point.
var points = map[string]capture.Point{"": capture.AfterQueue, "after": capture.AfterQueue, "before": capture.BeforeQueue, "both": capture.BothPoints}

// checkEngine rejects unknown engines and points.
func checkEngine(name, point string) error {
	if _, ok := points[point]; !ok {
		return fault.WithCode(ExitUsage, fault.WithHint(fmt.Errorf("no point %q", point), "-point takes after, before or both"))
	}
	switch name {
	case "auto", engineEBPF, "ring", "libpcap":
		return nil
	}
	return fault.WithCode(ExitUsage, fault.WithHint(fmt.Errorf("no engine %q", name), "engines are auto, ebpf, ring and libpcap"))
}

// onlyAfter returns a note if the requested point is not available with the engine.
func onlyAfter(point capture.Point) string {
	if point == capture.AfterQueue {
		return ""
	}
	return fmt.Sprintf("; without ebpf, -point %v is -point after", point)
}

// chooseEngine resolves -engine. For auto it tries the fastest engine by attaching it
// for a moment, and reports what is missing if that fails: only trying shows whether
// the kernel, a container's limits, and the filter allow it.
func chooseEngine(name string, cfg capture.Config) engine {
	var e engine
	switch name {
	case engineEBPF:
		e = newTaps()
	case "ring":
		e = engineRing
	case "libpcap":
		e = enginePcap
	}
	if e.open != nil {
		e.why = "as asked with -engine"
		if name != engineEBPF {
			e.why += onlyAfter(cfg.Point)
		}
		return e
	}
	e = newTaps()
	src, err := e.open(cfg)
	if err == nil {
		e.why = src.(*capture.Tap).Position()
		err = src.Attach()
		src.Drain()
		src.Close()
	}
	if err == nil {
		return e
	}
	e.close()
	e = engineRing
	e.why = "needs CAP_NET_RAW only and sees what leaves after the queueing discipline"
	var refused *capture.Error
	switch {
	case errors.As(err, &refused) && errors.Is(err, fs.ErrPermission):
		e.why += fmt.Sprintf("; ebpf would be faster, but: %v (it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)", refused.Err)
	case refused != nil:
		e.why += fmt.Sprintf("; ebpf would be faster, but: %v", refused.Err)
	}
	e.why += onlyAfter(cfg.Point)
	return e
}

// opener adapts an engine's open function to return the interface, which must be nil
// after an error.
func opener[S capture.Source](open func(capture.Config) (S, error)) func(capture.Config) (capture.Source, error) {
	return func(c capture.Config) (capture.Source, error) {
		s, err := open(c)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}

// leaver is implemented by engines that can filter out our own feed themselves.
type leaver interface{ SetOwnAddrs([]netip.Addr) error }
