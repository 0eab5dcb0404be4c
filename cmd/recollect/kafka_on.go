//go:build kafka

package main

import (
	"errors"

	"github.com/pcapper/pcapper/internal/kafka"
)

func openKafka(text string) (sink, error) {
	t, err := kafka.Parse(text)
	if err != nil {
		return nil, err
	}
	s, err := kafka.New(t, say)
	return kafkaSink{s}, err
}

type kafkaSink struct{ *kafka.Sink }

func (s kafkaSink) Done() string { return s.Status().String() }

func kafkaHint(err error) (string, bool) {
	if e, ok := errors.AsType[*kafka.Error](err); ok {
		return e.Hint, true
	}
	return "", false
}
