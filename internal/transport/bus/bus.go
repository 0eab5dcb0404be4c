// Package bus carries batches of records from those who have them to those who
// keep or show them, through streams of NATS JetStream.
//
// # Streams and subjects
//
// A tenant's batches are in the streams PC_00, PC_01, ... (PC_TENANT_00, ... if
// the tenant is not "default"), its partitions. An agent's are all in the one that
// its name's hash chooses (Partition), in the order in which they were stored. Subjects are
//
//	pcapper.v1.TENANT.PARTITION.KIND.SITE.AGENT
//
// where KIND is pkt, flow1s or top10s, and AGENT the name with what is no ASCII
// letter, digit, "-" or "_" as "=" and two hexadecimal digits. A message is one
// batch, as package batch describes it; its Nats-Msg-Id is the batch's ID.
//
// # What is promised
//
// A Publisher forgets no batch before a stream has acknowledged it, and sends it
// again until then; so a stream may have a batch twice, and in another order than
// it was made. What it has to give up, because its queue is full, it counts.
// A reader of a stream counts each record, identified by (agent, boot, number), once.
package bus

import (
	"fmt"
	"hash/fnv"

	"github.com/pcapper/pcapper/wire/batch"
)

// MaxPartitions is the most streams of a tenant.
const MaxPartitions = 100

// Partition is which of n partitions an agent's batches are in: FNV-1a, 32 bit,
// of its name, modulo n.
func Partition(agent string, n int) int {
	h := fnv.New32a()
	h.Write([]byte(agent))
	return int(h.Sum32() % uint32(n))
}

// streamName is the name of a partition's stream.
func (t *Target) streamName(partition int) string {
	return fmt.Sprintf("%s%02d", t.streamPrefix(), partition)
}

func (t *Target) streamPrefix() string {
	if t.Tenant == "default" {
		return "PC_"
	}
	return "PC_" + t.Tenant + "_"
}

// streamSubjects is what a partition's stream takes.
func (t *Target) streamSubjects(partition int) string {
	return fmt.Sprintf("pcapper.v1.%s.%02d.>", t.Tenant, partition)
}

// subject is where a batch goes, given how many partitions there are.
func (t *Target) subject(h *batch.Header, partitions int) string {
	kind := [...]string{batch.Packets: "pkt", batch.Flows: "flow1s", batch.Top: "top10s"}[h.Level]
	return fmt.Sprintf("pcapper.v1.%s.%02d.%s.%s.%s", t.Tenant, Partition(h.Agent, partitions), kind, token(t.Site), token(h.Agent))
}
