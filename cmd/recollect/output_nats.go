package main

import (
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/output"
)

func init() {
	outputs.Register(output.Kind[destination]{
		Schemes: []string{"nats", "nats+tls", "tls"},
		Form:    "nats[+tls]://[USER@]HOST[:PORT][,HOST...]",
		Help:    "the same as -bus",
		Params:  new(bus.ClusterURL).Params(),
		New: func(url string) (destination, error) {
			_, err := bus.Parse(url)
			return func(o *options) error { return setOnce(&o.keep.bus, url, "one bus") }, err
		},
	})
}
