// Package kafka sends batches of records to a topic of Kafka, one message for each
// batch: the bytes that package batch describes. Without the build tag kafka it reads
// URLs, and no more.
//
// A message's key is the agent's name, so that an agent's batches are in one
// partition, in order; the header id has the batch's ID, agent/boot/first, and
// content-type what the bytes are. The producer is idempotent: what it sends again
// because a broker did not answer is in the topic once. A collector that is started
// anew begins another boot. So whoever reads the topic and counts each (agent, boot,
// number) once counts right.
//
// Publishing never waits: what does not fit into the memory that is set, or
// is refused by the brokers, is given up, and counted.
package kafka
