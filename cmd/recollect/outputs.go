package main

import (
	"fmt"

	"github.com/pcapper/pcapper/internal/transport/output"
)

// destination is a parsed -export URL. It adds itself to the options, before anything
// is opened.
type destination func(o *options) error

// outputs is the registry of outputs for -export: each is in a file output_NAME.go.
var outputs output.Registry[destination]

func init() {
	outputs.Register(output.Kind[destination]{
		Schemes: []string{"ipfix+udp", "ipfix+tcp", "ipfix+tls", "file"}, Form: "ipfix+udp://, ipfix+tcp://, ipfix+tls://, file:",
		Help: "IPFIX", Elsewhere: "pcapper -export sends it",
	})
}

// setExport implements -export.
func (o *options) setExport(url string) error {
	d, err := outputs.New(url)
	if err != nil {
		return err
	}
	return d(o)
}

// openedBy returns a destination whose batches go to a sink of its own.
func openedBy(open func() (sink, error)) destination {
	return func(o *options) error {
		o.open = append(o.open, open)
		return nil
	}
}

// setOnce sets an option of which there can be only one.
func setOnce(p *string, value, want string) error {
	if *p != "" && *p != value {
		return fmt.Errorf("%q was given before: want %s", *p, want)
	}
	*p = value
	return nil
}
