//go:build kafka

package main

import (
	"errors"

	"github.com/pcapper/pcapper/internal/transport/kafka"
)

func openKafka(text string) (sink, error) {
	t, err := kafka.Parse(text)
	if err != nil {
		return nil, err
	}
	s, err := kafka.New(t, say)
	return kafkaSink{s, t.String()}, err
}

type kafkaSink struct {
	*kafka.Sink
	name string
}

func (s kafkaSink) Done() string { return s.Status().String() }

func (s kafkaSink) measure(m meter) {
	m.counter(descSinkWritten, s.Status().Written, s.name)
	m.counter(descSinkDropped, s.Status().Dropped, s.name)
}

func kafkaHint(err error) (string, bool) {
	if e, ok := errors.AsType[*kafka.Error](err); ok {
		return e.Hint, true
	}
	return "", false
}
