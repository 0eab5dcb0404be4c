package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

const (
	// scrapeTime bounds the total time of one HTTP request.
	scrapeTime = 10 * time.Second
	// maxScrapers bounds the number of connections to the metrics port.
	maxScrapers = 32
)

// metricsServer serves metrics to Prometheus, and /healthz.
type metricsServer struct {
	ln       net.Listener
	http     *http.Server
	registry *prometheus.Registry
}

// newMetricsServer opens the port. It serves the registry's metrics and those of the
// process; /healthz returns 503 while failing returns a reason.
func newMetricsServer(addr string, registry *prometheus.Registry, failing func() string) (*metricsServer, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, metricsError(addr, err)
	}
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: scrapeTime / 2}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if why := failing(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return &metricsServer{
		registry: registry,
		ln:       netutil.LimitListener(ln, maxScrapers),
		http: &http.Server{
			Handler: mux, ReadTimeout: scrapeTime, WriteTimeout: scrapeTime, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
			ErrorLog: log.New(io.Discard, "", 0), // mistakes of clients are not ours to log
		},
	}, nil
}

// metricsError explains why listening on addr failed, and suggests what to write
// instead.
func metricsError(addr string, err error) error {
	code := listenCode(err)
	err = fmt.Errorf("-metrics: cannot listen on %q: %w", addr, err)
	hint := "-metrics takes address:port, such as 127.0.0.1:9173 or :9173"
	host, text, _ := net.SplitHostPort(addr)
	if port, bad := strconv.Atoi(text); bad == nil && errors.Is(err, syscall.EADDRINUSE) {
		if h, known := findHolder(port); known {
			err = fmt.Errorf("%w: %v has it", err, h)
		}
		hint = "-metrics " + net.JoinHostPort(host, strconv.Itoa(freePort(port))) + " takes another port"
	}
	return fault.WithCode(code, fault.WithHint(err, hint))
}

// announce reports where metrics are served, and for whom.
func (m *metricsServer) announce(say func(string, ...any)) {
	say("metrics on http://%s/metrics", m.ln.Addr())
	if addr, ok := m.ln.Addr().(*net.TCPAddr); ok && !addr.IP.IsLoopback() {
		say("the metrics are open to anyone who can reach that port: they have no authentication")
	}
}

// run serves until ctx is done.
func (m *metricsServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { m.http.Close() })
	defer stop()
	if err := m.http.Serve(m.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// metrics exposes the agent's counters to Prometheus. They are read where they are
// kept, at each scrape; nothing is counted twice.
type metrics struct{ a *agent }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pcapper_"+name, help, labels, nil)
}

// Labels have few values: the addresses of collectors are in the summary (SIGUSR1), not
// here.
var (
	descEngine       = desc("engine_info", "Always 1; how and what is captured.", "engine", "interface", "mode")
	descCapturing    = desc("capturing", "1 while a capture runs, that is while a collector is attached.")
	descStart        = desc("start_time_seconds", "When the agent started, in UNIX time.")
	descPackets      = desc("packets_total", "Packets captured and reported.")
	descBytes        = desc("bytes_total", "IP bytes of these packets.")
	descKernel       = desc("kernel_frames_total", "Frames that passed the filter in the kernel, dropped ones included.")
	descFreezes      = desc("ring_freezes_total", "How often the kernel found the ring full.")
	descWakes        = desc("ring_wakes_total", "How often the kernel woke the reader, as far as the engine tells.")
	descOutages      = desc("interface_outages_total", "How often the interface went down under a capture.")
	descDropped      = desc("dropped_total", "Packets lost, by stage: kernel (ring full), collectors, exports and log (reader too slow), disk (log not writable).", "stage")
	descLeftOut      = desc("left_out_total", "Packets of the agent's own feed (or, with -bmf or -inner and -m spoof, of other sources), not reported on purpose.")
	descStats        = desc("host_statistics_total", "Records of this host's CPU and memory.")
	descMemberships  = desc("memberships_total", "Records of the interface's multicast groups.")
	descStackDrops   = desc("stack_dropped_packets_total", "Packets of this interface that the kernel has dropped and that were reported, by its reason.", "reason")
	descStackUntold  = desc("stack_dropped_unreported_total", "Packets of this interface that the kernel has dropped and that were not reported.", "why")
	descStackFreed   = desc("stack_freed_packets_total", "Packets of this interface that the kernel has freed without a loss, such as frames for others.")
	descFrames       = desc("decoder_total", "What the decoder met, by kind.", "kind")
	descPublished    = desc("reader_published_total", "Records published while a reader was attached, summed over readers; always the sum of delivered, skipped, lost and in flight.", "reader")
	descDelivered    = desc("reader_delivered_total", "Of these, records given to the kernel for the collector, or to the log.", "reader")
	descSkipped      = desc("reader_skipped_total", "Of these, records that the reader's format cannot express.", "reader")
	descLost         = desc("reader_lost_total", "Of these, records that a slow reader lost, or had not read when it left.", "reader")
	descInFlight     = desc("reader_in_flight", "Of these, records still to be read.", "reader")
	descLag          = desc("reader_lag", "Records that the slowest reader has still to read.", "reader")
	descReaders      = desc("collectors", "Collectors attached.", "transport", "format")
	descDeparted     = desc("collectors_departed_total", "Collectors that have left.")
	descRefused      = desc("connections_refused_total", "Connections refused, by reason.", "reason")
	descSpoolBytes   = desc("spool_bytes", "Bytes that wait for exports' receivers.", "where")
	descSpoolWaiting = desc("spool_waiting_packets", "Packets that wait for exports' receivers, those of earlier lives of the agent included.")
	descSpoolDropped = desc("spool_dropped_packets_total", "Packets that the spool dropped to make room, or could not read back, across restarts of the agent.")
	descSpoolErrors  = desc("spool_errors_total", "Errors of the spool's disk, in all lives of the agent.")
	descSpoolFailing = desc("spool_failing", "1 while the spool's disk does not work and records wait in memory.")
	descLedger       = desc("ledger_items", "What a stage received, passed on, lost by reason, and holds; received is the sum of the others.", "stage", "name", "unit", "account", "reason")
	descLogLines     = desc("log_lines_total", "Lines of the log, by outcome.", "outcome")
)

func (metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descEngine, descCapturing, descStart, descPackets, descBytes, descKernel, descFreezes, descWakes, descOutages, descDropped,
		descMemberships, descStackDrops, descStackUntold, descStackFreed,
		descLeftOut, descStats, descFrames, descPublished, descDelivered, descSkipped, descLost, descInFlight, descLag,
		descLedger, descReaders, descDeparted, descRefused, descLogLines,
		descSpoolBytes, descSpoolWaiting, descSpoolDropped, descSpoolErrors, descSpoolFailing,
	} {
		ch <- d
	}
}

// Collect is called for each scrape, possibly concurrently.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	a := m.a
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descEngine, 1, a.engine.name, a.cfg.Interface, a.cfg.Mode)
	gauge(descStart, float64(a.started.UnixMilli())/1e3)
	capturing := 0.0
	if a.capture.capturing() {
		capturing = 1
	}
	gauge(descCapturing, capturing)

	// Losses are read before totals, so that no scrape shows more packets lost than
	// captured.
	kernel := a.capture.stats()
	packets, leftOut, bytes := a.capture.counters.get()
	stats := uint64(0)
	if a.stats != nil {
		stats = a.stats.sent.Load()
	}
	count(descStats, stats)
	count(descMemberships, a.groups.count())
	drops := a.drops.Load().counts()
	count(descPackets, a.hub.Published()-stats-drops.sum-a.groups.count()-a.capture.counters.uncounted())
	for reason, n := range drops.reasons {
		count(descStackDrops, n, reason)
	}
	count(descStackUntold, drops.untold, "too many at once")
	count(descStackUntold, drops.undecoded, "no record")
	count(descStackFreed, drops.harmless)
	count(descBytes, bytes)
	count(descKernel, kernel.Received)
	count(descFreezes, kernel.Freezes)
	count(descWakes, kernel.Wakes)
	count(descOutages, kernel.Outages)
	count(descDropped, kernel.Dropped, "kernel")
	count(descLeftOut, leftOut+kernel.Own)
	packets.Each(func(kind string, n uint64) { count(descFrames, n, kind) })

	sum, lag, departed, attached := a.readers()
	reader := func(name string, s hub.Status, lag uint64) {
		count(descPublished, s.Published, name)
		count(descDelivered, s.Delivered, name)
		count(descSkipped, s.Skipped, name)
		count(descLost, s.Lost, name)
		gauge(descInFlight, float64(s.Pending), name)
		gauge(descLag, float64(lag), name)
		count(descDropped, s.Lost, name)
	}
	reader("collectors", sum, lag)
	for k, n := range attached {
		gauge(descReaders, float64(n), k.transport, k.format)
	}
	count(descDeparted, uint64(departed))
	refused := a.feed.Refused()
	count(descRefused, refused.NotAllowed, "address not allowed")
	count(descRefused, refused.TooMany, "too many from its address")
	count(descRefused, refused.Handshake, "TLS handshake")
	if len(a.exports) > 0 {
		var all hub.Status
		most := uint64(0)
		for _, x := range a.exports {
			s := x.status()
			addStatus(&all, s)
			most = max(most, s.Pending)
		}
		reader("exports", all, most)
		m.spool(count, gauge)
	}
	for _, e := range a.ledger() {
		gauge(descLedger, float64(e.Received), e.Stage, e.Name, e.Unit, "received", "")
		gauge(descLedger, float64(e.Passed), e.Stage, e.Name, e.Unit, "passed", "")
		gauge(descLedger, float64(e.Held), e.Stage, e.Name, e.Unit, "held", "")
		for _, l := range e.Lost {
			gauge(descLedger, float64(l.Count), e.Stage, e.Name, e.Unit, "lost", l.Reason)
		}
	}
	if a.log != nil {
		s := a.log.reader.Status()
		reader("log", s, s.Pending)
		written, lost := a.log.file.Lines()
		count(descDropped, lost, "disk")
		count(descLogLines, written, "written")
		count(descLogLines, lost, "lost")
	}
}

// spool adds up the queues of all exports.
func (m metrics) spool(count func(*prometheus.Desc, uint64, ...string), gauge func(*prometheus.Desc, float64, ...string)) {
	if m.a.spoolDir == nil {
		return
	}
	var all spool.Status
	failing := 0.0
	for _, x := range m.a.exports {
		if x.queue == nil {
			continue
		}
		s := x.queue.Status()
		all.Disk += s.Disk
		all.InMemory += s.InMemory
		all.Waiting.Weight += s.Waiting.Weight
		all.Dropped.Weight += s.Dropped.Weight
		all.Errors += s.Errors
		if s.Failing != "" {
			failing = 1
		}
	}
	gauge(descSpoolBytes, float64(all.Disk), "disk")
	gauge(descSpoolBytes, float64(all.InMemory), "memory")
	gauge(descSpoolWaiting, float64(all.Waiting.Weight))
	count(descSpoolDropped, all.Dropped.Weight)
	count(descSpoolErrors, all.Errors)
	gauge(descSpoolFailing, failing)
}

// kind is the key by which attached collectors are counted.
type kind struct{ transport, format string }

// readers adds up all collectors, present and past.
func (a *agent) readers() (sum hub.Status, lag uint64, departed int, attached map[kind]int) {
	attached = map[kind]int{}
	for _, transport := range []string{"tcp", "tls"} {
		for _, format := range []string{"records", "bulk", "text", "ipfix"} {
			attached[kind{transport, format}] = 0
		}
	}
	a.feed.Snapshot(func(c collector) {
		s := c.Reader.Status()
		addStatus(&sum, s)
		lag = max(lag, s.Pending)
		k := kind{"tcp", c.Format}
		if c.TLS {
			k.transport = "tls"
		}
		if k.format == "" {
			k.format = "records" // until the collector announces otherwise
		}
		attached[k]++
	}, func() {
		a.past.mu.Lock()
		defer a.past.mu.Unlock()
		addStatus(&sum, a.past.total)
		departed = a.past.n
	})
	return sum, lag, departed, attached
}
