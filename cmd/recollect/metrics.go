package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/collector/keep"
	"github.com/pcapper/pcapper/internal/transport/ledger"
	"github.com/pcapper/pcapper/internal/transport/spool"
)

// meter creates metrics from counters when /metrics is requested.
type meter struct{ ch chan<- prometheus.Metric }

func (m meter) counter(d *prometheus.Desc, v uint64, labels ...string) {
	m.ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (m meter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m.ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m meter) truth(d *prometheus.Desc, v bool, labels ...string) {
	n := 0.0
	if v {
		n = 1
	}
	m.gauge(d, n, labels...)
}

// descs are all descriptions created by desc.
var descs []*prometheus.Desc

func desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("recollect_"+name, help, labels, nil)
	descs = append(descs, d)
	return d
}

var (
	descSinkWritten = desc("sink_written_records_total", "Records stored by the sink's server.", "sink")
	descSinkDropped = desc("sink_dropped_records_total", "Records dropped before they reached the sink.", "sink")

	descBusConnected = desc("bus_connected", "1 while connected to the bus.")
	descBusPublished = desc("bus_published_records_total", "Records handed over for publishing.")
	descBusAcked     = desc("bus_acknowledged_records_total", "Published records acknowledged by a stream.")
	descBusDropped   = desc("bus_dropped_records_total", "Published records dropped because the queue was full.")
	descBusMembers   = desc("bus_members", "Collectors that share the agents, as far as this one knows.")
	descBusKnown     = desc("bus_members_known", "1 while the bus tells who the collectors are; otherwise each keeps its agents.")
	descBusAgain     = desc("bus_resent_batches_total", "Batches sent more than once.")
	descSpoolWaiting = desc("spool_waiting_packets", "Packets queued in the spool for the bus.")
	descSpoolDropped = desc("spool_dropped_packets_total", "Packets dropped by the spool since its directory was created.")
	descSpoolDisk    = desc("spool_disk_bytes", "Size of the spool on disk.")
	descSpoolFailing = desc("spool_failing", "1 while the spool cannot be written to.")

	descWriterRecords = desc("writer_records_total", "Records written and committed, by destination.", "to")
	descWriterTwice   = desc("writer_duplicate_records_total", "Duplicate records discarded.", "to")
	descWriterBad     = desc("writer_malformed_batches_total", "Messages on the bus that are not batches.", "to")
	descWriterGone    = desc("writer_gone_batches_total", "Messages that the bus dropped before they were written.", "to")
	descWriterMissing = desc("writer_missing_records", "Numbered records that have not arrived.", "to")
	descWriterLag     = desc("writer_lag_batches", "Messages on the bus waiting to be written.", "to")
	descWriterParts   = desc("writer_partitions", "Partitions of the bus written by this process.", "to")
	descWriterFailing = desc("writer_failing", "1 while writing fails.", "to")

	descHistoryReceived = desc("history_received_records_total", "Records handed to this process for writing.")
	descHistoryDropped  = desc("history_dropped_records_total", "Received records dropped because the queue was full or they could not be encoded.")
	descHistoryQueued   = desc("history_queued_records", "Records waiting to be written, including those left by earlier processes.")

	descHistorySize    = desc("history_bytes", "Size of the history's committed files.")
	descHistoryRetired = desc("history_retired_records_total", "Records removed because they were too old or the history was too large.")
	descHistoryDamaged = desc("history_damaged_files_total", "Damaged files found and set aside.")
	descHistoryFailing = desc("history_failing", "1 while files cannot be compacted or removed.")
)

// viewMetrics are the metrics of a collector itself.
type viewMetrics struct{ *collector.View }

var (
	descListenSessions   = prometheus.NewDesc("recollect_listen_sessions", "Exporters sending to -listen now.", nil, nil)
	descListenEvicted    = prometheus.NewDesc("recollect_listen_evicted_sessions_total", "Exporters forgotten to make room for others.", nil, nil)
	descListenMalformed  = prometheus.NewDesc("recollect_listen_malformed_datagrams_total", "Datagrams that are not IPFIX messages.", nil, nil)
	descListenNotAllowed = prometheus.NewDesc("recollect_listen_not_allowed_total", "Datagrams and connections from outside -allow.", nil, nil)
	descListenRefused    = prometheus.NewDesc("recollect_listen_refused_connections_total", "Connections refused because there were too many.", nil, nil)
	descWithheld         = prometheus.NewDesc("recollect_withheld_records_total", "Records discarded because another collector may have them and they have no numbers.", nil, nil)
)

// Describe implements prometheus.Collector.
func (viewMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descListenSessions, descListenEvicted, descListenMalformed, descListenNotAllowed, descListenRefused, descWithheld} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (v viewMetrics) Collect(ch chan<- prometheus.Metric) {
	m, l := meter{ch}, v.Listening()
	m.gauge(descListenSessions, float64(l.Sessions))
	m.counter(descListenEvicted, l.Evicted)
	m.counter(descListenMalformed, l.Malformed)
	m.counter(descListenNotAllowed, l.NotAllowed)
	m.counter(descListenRefused, l.Refused)
	m.counter(descWithheld, v.Withheld())
}

// Describe implements prometheus.Collector.
func (s sinks) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s sinks) Collect(ch chan<- prometheus.Metric) {
	for _, one := range s {
		one.measure(meter{ch})
	}
}

// keeper is a keep.Keeper as a sink.
type keeper struct{ *keep.Keeper }

func (k keeper) account() []ledger.Entry { return k.Account() }

func (k keeper) measure(m meter) {
	s := k.Status()
	if s.Connected != nil {
		m.truth(descBusConnected, *s.Connected)
	}
	if a := k.Agents(); a != nil {
		m.gauge(descBusMembers, float64(len(a.Members())))
		m.truth(descBusKnown, a.Known())
	}
	measureLocal(m, s.Local, s.Spool)
	if p := s.Publisher; p != nil {
		m.counter(descBusPublished, p.Published)
		m.counter(descBusAcked, p.Acknowledged)
		m.counter(descBusDropped, p.Dropped)
		m.counter(descBusAgain, p.Again)
	}
	if q := s.Spool; q != nil && s.Local == nil {
		m.gauge(descSpoolWaiting, float64(q.Waiting.Weight))
		m.counter(descSpoolDropped, q.Dropped.Weight)
		m.gauge(descSpoolDisk, float64(q.Disk))
		m.truth(descSpoolFailing, q.Failing != "")
	}
	if h := s.History; h != nil {
		m.gauge(descHistorySize, float64(h.Size))
		m.counter(descHistoryRetired, h.RetiredRows)
		m.counter(descHistoryDamaged, uint64(len(h.Damaged)))
		m.truth(descHistoryFailing, h.Failed != "")
	}
	measureWriter(m, s.Writer, "history")
	measureWriter(m, s.Tables, "table")
}

// measureLocal measures a history without a bus. The first four metrics add up.
func measureLocal(m meter, w *history.WriterStatus, q *spool.Status) {
	if w == nil {
		return
	}
	m.counter(descHistoryReceived, w.Published)
	m.counter(descWriterRecords, w.Written, "history")
	m.counter(descHistoryDropped, q.DroppedNew+w.Refused+w.Malformed)
	m.gauge(descHistoryQueued, float64(q.Waiting.Weight))
	m.counter(descWriterTwice, w.Skipped, "history")
	m.counter(descWriterBad, w.Malformed, "history")
	m.gauge(descWriterMissing, float64(w.Missing), "history")
	m.truth(descWriterFailing, w.Failed != "", "history")
}

func measureWriter(m meter, w *keep.WriterStatus, to string) {
	if w == nil {
		return
	}
	m.counter(descWriterRecords, w.Records, to)
	m.counter(descWriterTwice, w.Duplicates, to)
	m.counter(descWriterBad, w.Malformed, to)
	m.counter(descWriterGone, w.Gone, to)
	m.gauge(descWriterMissing, float64(w.Missing), to)
	m.gauge(descWriterLag, float64(w.Lag), to)
	m.gauge(descWriterParts, float64(w.Partitions), to)
	m.truth(descWriterFailing, w.Failed != "", to)
}
