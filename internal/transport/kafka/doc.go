// Package kafka sends batches of records to a Kafka topic, one message per batch, in
// the encoding of package batch. Without the build tag kafka it only parses URLs.
//
// The key of a message is the agent's name, so an agent's batches are in one partition,
// in order. The header id has the batch's ID, agent/boot/first, and content-type names
// the encoding. The producer is idempotent: what it resends because a broker did not
// respond is in the topic once. A restarted collector begins another boot. Readers of
// the topic that process each (agent, boot, number) once therefore count correctly.
//
// Publishing never blocks: what does not fit in the configured memory, or is rejected
// by the brokers, is dropped and counted.
package kafka
