package main

import (
	"github.com/pcapper/pcapper/internal/transport/kafka"
	"github.com/pcapper/pcapper/internal/transport/output"
)

func init() { outputs.Register(kafkaKind) }

// kafkaKind is Kafka's as builds without it know it: its client is large, and few use it.
var kafkaKind = output.Kind[destination]{
	Schemes: []string{"kafka", "kafka+tls"},
	Form:    "kafka[+tls]://[USER@]BROKER[:PORT][,BROKER...]/TOPIC",
	Help:    "a topic of Kafka",
	Params:  new(kafka.Target).Params(), Elsewhere: `"make kafka" builds recollect-kafka, which has it`,
}
