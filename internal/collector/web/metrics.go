package web

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pcapper/pcapper/internal/collector/rollup"
)

// metrics are derived from the source's totals when they are scraped. Their labels are
// hosts and flows of the configuration, so their number does not depend on traffic.
type metrics struct {
	source    Source
	streams   *streams
	totals    *totals
	admission *admission
}

const (
	namespace = "recollect"
	perHost   = "host"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

var (
	descPackets   = desc("packets_total", "Packets that the host's agent saw, by flow, ten seconds late; level is primary or secondary.", perHost, "flow", "level")
	descBytes     = desc("bytes_total", "Bytes of IP packets that the host's agent saw, by flow, ten seconds late.", perHost, "flow", "level")
	descUp        = desc("agent_connected", "1 while the agent is connected.", perHost, "address")
	descRecords   = desc("agent_records_total", "Records received from the agent.", perHost, "address")
	descConns     = desc("agent_connections_total", "Connections made to the agent.", perHost, "address")
	descLate      = desc("agent_late_records_total", "Records that came after their second was closed.", perHost, "address")
	descFuture    = desc("agent_future_records_total", "Records whose time was ahead of this host's clock.", perHost, "address")
	descAge       = desc("agent_record_age_seconds", "Arrival of the freshest of the newest records less its packet's time.", perHost, "address")
	descLost      = desc("agent_lost_total", "What was lost in transit, by stage.", perHost, "address", "stage")
	descDetail    = desc("agent_detail_level", "What is kept of the agent's traffic: 0 packets, 1 one-second flows, 2 the top flows of ten seconds.", perHost, "address")
	descChanges   = desc("agent_detail_changes_total", "Changes of what is kept.", perHost, "address")
	descKept      = desc("agent_kept_records_total", "Records that went to be kept: packets, or sums of them.", perHost, "address")
	descUnkept    = desc("agent_unkept_records_total", "Records that were overwritten before they went to be kept.", perHost, "address")
	descMissed    = desc("collector_lost_records_total", "Records that were overwritten before they were counted.")
	descForgotten = desc("collector_forgotten_total", "Pairs, conversations and MGEN flows of single seconds that were put together, as there were too many.")
	descMemory    = desc("collector_history_bytes", "Memory that the history takes.")
	descDisk      = desc("collector_archive_bytes", "What the history has on disk.")
	descDiskMost  = desc("collector_archive_limit_bytes", "The most that it may have there.")
	descDiskLost  = desc("collector_archive_lost_total", "Frames of history, most of them seconds, that could not be written.")
	descDiskBad   = desc("collector_archive_damaged_total", "Files of history that were found damaged.")
	descDiskFail  = desc("collector_archive_failing", "1 while history cannot be written, as when the disk is full.")
	descStreams   = desc("web_streams", "Pages that are open.")
	descEvicted   = desc("web_evicted_connections_total", "Connections without a user's request that were closed to make room.")
	descRefused   = desc("web_refused_connections_total", "Connections that were refused, as there were too many of users.")
	descSkipped   = desc("web_skipped_frames_total", "Frames that slow pages did not get.")
)

// levels maps Detail.Level to numbers.
var levels = map[string]float64{"packets": 0, "flows": 1, "top": 2}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPackets, descBytes, descUp, descRecords, descConns, descLate, descFuture, descAge, descLost, descDetail, descChanges, descKept, descUnkept,
		descMissed, descForgotten, descMemory, descDisk, descDiskMost, descDiskLost, descDiskBad, descDiskFail, descStreams, descSkipped, descEvicted, descRefused} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	m.collectFlows(counter)
	hosts, seen := m.source.Setup().Hosts, make(map[[2]string]bool)
	snap := m.source.Snapshot()
	for i, state := range hostStates(m.source, snap) {
		if state.State == Removed || i >= len(hosts) {
			continue
		}
		labels := []string{hosts[i].Label, hosts[i].Address}
		if seen[[2]string(labels)] { // duplicate lines in the configuration
			continue
		}
		seen[[2]string(labels)] = true
		up := 0.0
		if state.State == Connected {
			up = 1
		}
		gauge(descUp, up, labels...)
		counter(descRecords, state.Records, labels...)
		counter(descConns, state.Connections, labels...)
		counter(descLate, state.Late, labels...)
		counter(descFuture, state.Future, labels...)
		if state.Age != nil {
			gauge(descAge, *state.Age, labels...)
		}
		for _, loss := range state.Losses {
			counter(descLost, loss.Count, append(labels, loss.Stage)...)
		}
		if d := state.Detail; d != nil {
			gauge(descDetail, levels[d.Level], labels...)
			counter(descChanges, d.Changes, labels...)
			counter(descKept, d.Records, labels...)
			counter(descUnkept, d.Lost, labels...)
		}
	}
	counter(descMissed, m.source.Lost())
	counter(descForgotten, snap.Forgotten)
	gauge(descMemory, float64(snap.Memory))
	if a := snap.Archive; a != nil {
		gauge(descDisk, float64(a.Size))
		gauge(descDiskMost, float64(a.Most))
		counter(descDiskLost, a.Lost)
		counter(descDiskBad, a.Damaged)
		failing := 0.0
		if a.Err != "" {
			failing = 1
		}
		gauge(descDiskFail, failing)
	}
	open, skipped := m.streams.count()
	gauge(descStreams, float64(open))
	counter(descSkipped, skipped)
	counter(descEvicted, m.admission.evicted.Load())
	counter(descRefused, m.admission.refused.Load())
}

// collectFlows adds up agents with the same label, which are one host.
func (m *metrics) collectFlows(counter func(*prometheus.Desc, uint64, ...string)) {
	setup := m.source.Setup()
	sums := make(map[[3]string]rollup.Counts)
	m.totals.each(func(k totalKey, c rollup.Counts) {
		level := "primary"
		if k.secondary {
			level = "secondary"
		}
		series := [3]string{setup.Hosts[k.host].Label, setup.Flows[k.row].ID, level}
		sums[series] = sums[series].Plus(c)
	})
	for series, c := range sums {
		counter(descPackets, c.Packets, series[:]...)
		counter(descBytes, c.Bytes, series[:]...)
	}
}

func (s *Server) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		&metrics{source: s.source, streams: &s.streams, totals: &s.totals, admission: s.listener},
		&s.problems,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	registry.MustRegister(s.measured...)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
