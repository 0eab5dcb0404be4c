//go:build kafka

package main

import "github.com/pcapper/pcapper/internal/transport/kafka"

func init() {
	k := kafkaKind
	k.New = func(url string) (destination, error) {
		t, err := kafka.Parse(url)
		return openedBy(func() (sink, error) { return openKafka(t) }), err
	}
	outputs.Register(k)
}

func openKafka(t *kafka.TopicURL) (sink, error) {
	s, err := kafka.New(t, say)
	return serverSink{s, t.String(), func() sinkCounts {
		st := s.Status()
		return sinkCounts{st.Published, st.Written, st.Dropped, st.Waiting, st.String()}
	}}, err
}
