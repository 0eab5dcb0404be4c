package main

import (
	"github.com/pcapper/pcapper/internal/transport/kafka"
	"github.com/pcapper/pcapper/internal/transport/output"
)

func init() { outputs.Register(kafkaKind) }

// kafkaKind describes Kafka in builds without its client, which is large and used by
// few.
var kafkaKind = output.Kind[destination]{
	Schemes: []string{"kafka", "kafka+tls"},
	Form:    "kafka[+tls]://[USER@]BROKER[:PORT][,BROKER...]/TOPIC",
	Help:    "a topic of Kafka",
	Params:  new(kafka.TopicURL).Params(), Elsewhere: `"make kafka" builds recollect-kafka, which has it`,
}
