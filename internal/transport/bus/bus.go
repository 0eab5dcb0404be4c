// Package bus carries batches of records from their producers to those who keep or
// display them, through streams of NATS JetStream.
//
// # Streams and subjects
//
// The batches of a tenant are in the streams PC_00, PC_01, ... (PC_TENANT_00, ... if
// the tenant is not "default"), which are its partitions. All batches of an agent are
// in the partition chosen by the hash of its name (Partition), in the order in which
// they were stored. The subjects are
//
//	pcapper.v1.TENANT.PARTITION.KIND.SITE.AGENT
//
// where KIND is pkt, flow1s, or top10s, and AGENT is the agent's name, in which any
// byte other than an ASCII letter, a digit, "-", and "_" is replaced with "=" and two
// hexadecimal digits. A message is one batch, in the encoding of package batch; its
// Nats-Msg-Id is the batch's ID.
//
// # Guarantees
//
// A Publisher keeps each batch until a stream has acknowledged it, and resends it until
// then. Therefore a stream may contain a batch twice, and in a different order than it
// was created. Batches dropped because the Publisher's queue is full are counted. A
// reader of a stream processes each record, identified by (agent, boot, number), once.
package bus

import (
	"fmt"
	"hash/fnv"

	"github.com/pcapper/pcapper/wire/batch"
)

// MaxPartitions is the maximum number of a tenant's streams.
const MaxPartitions = 100

// Partition returns which of n partitions an agent's batches are in: the 32-bit FNV-1a
// hash of its name, modulo n.
func Partition(agent string, n int) int {
	h := fnv.New32a()
	h.Write([]byte(agent))
	return int(h.Sum32() % uint32(n))
}

// streamName returns the name of a partition's stream.
func (t *ClusterURL) streamName(partition int) string {
	return fmt.Sprintf("%s%02d", t.streamPrefix(), partition)
}

func (t *ClusterURL) streamPrefix() string {
	if t.Tenant == "default" {
		return "PC_"
	}
	return "PC_" + t.Tenant + "_"
}

// streamSubjects returns the subjects that a partition's stream stores.
func (t *ClusterURL) streamSubjects(partition int) string {
	return fmt.Sprintf("pcapper.v1.%s.%02d.>", t.Tenant, partition)
}

// subject returns the subject of a batch, given the number of partitions.
func (t *ClusterURL) subject(h *batch.Header, partitions int) string {
	kind := [...]string{batch.Packets: "pkt", batch.Flows: "flow1s", batch.Top: "top10s"}[h.Level]
	return fmt.Sprintf("pcapper.v1.%s.%02d.%s.%s.%s", t.Tenant, Partition(h.Agent, partitions), kind, token(t.Site), token(h.Agent))
}
