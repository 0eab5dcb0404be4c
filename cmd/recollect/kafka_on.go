//go:build kafka

package main

import (
	"github.com/pcapper/pcapper/internal/transport/kafka"
	"github.com/pcapper/pcapper/internal/transport/ledger"
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

func (s kafkaSink) account() []ledger.Entry {
	st := s.Status()
	return accountSink(s.name, st.Published, st.Written, st.Dropped, st.Published-min(st.Published, st.Written+st.Dropped))
}
