package main

import "github.com/pcapper/pcapper/internal/transport/downsample"

// setDetail adds a rule of -detail.
func (o *options) setDetail(text string) error {
	if o.detail == nil {
		rules := downsample.DefaultRules()
		o.detail = &rules
	}
	return o.detail.Set(text)
}

// keeps reports whether records go anywhere besides the collector's own output.
func (o *options) keeps() bool { return o.open != nil || o.keep.any() }
