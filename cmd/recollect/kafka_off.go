//go:build !kafka

package main

import (
	"errors"
)

func openKafka(string) (sink, error) {
	return nil, errors.New(`this program was built without Kafka: want one that "make kafka" builds`)
}
