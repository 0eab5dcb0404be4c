//go:build !libpcap

package main

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire/batch"
)

// natsProgram is the static program with NATS.
var natsProgram = sync.OnceValues(func() (string, error) {
	bin, err := program()
	if err != nil {
		return "", err
	}
	bin += "-nats"
	return bin, exec.Command("sh", "-c", "CGO_ENABLED=0 go build -tags nats -o "+bin).Run()
})

// natsServer is a server of NATS on a host.
type natsServer struct {
	t    *testing.T
	host *nettest.Host
	addr string
	conf string
	cmd  *nettest.Cmd
}

func startNATS(t *testing.T, h *nettest.Host) *natsServer {
	t.Helper()
	s := &natsServer{t: t, host: h, addr: h.Interface.IPv4.String() + ":4222"}
	s.conf = bustest.WriteConfig(t, s.addr, "")
	t.Cleanup(s.kill)
	s.start()
	return s
}

func (s *natsServer) start() {
	s.t.Helper()
	bin, err := bustest.Program()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = s.host.Command(context.Background(), bin, "-c", s.conf)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *natsServer) kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

// hostDialer dials from a host.
type hostDialer struct{ *nettest.Host }

func (d hostDialer) Dial(network, address string) (net.Conn, error) {
	return d.Host.Dial(network, address)
}

func (s *natsServer) connect() (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	nc, err := nats.Connect("nats://"+s.addr, nats.SetCustomDialer(hostDialer{s.host}), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		s.t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	return nc, js
}

// makeStream makes what a collector would, in one partition.
func (s *natsServer) makeStream() {
	s.t.Helper()
	nc, js := s.connect()
	defer nc.Close()
	cfg := jetstream.StreamConfig{
		Name: "PC_lab_00", Subjects: []string{"pcapper.v1.lab.00.>"}, Metadata: map[string]string{"pcapper-partitions": "1"}, MaxBytes: 1 << 30,
		Duplicates: 2 * time.Minute,
	}
	if !nettest.Eventually(20*time.Second, func() bool {
		_, err := js.CreateStream(s.t.Context(), cfg)
		return err == nil
	}) {
		s.t.Fatal("there is no stream")
	}
}

// batches are what is stored.
func (s *natsServer) batches() (list []*batch.Batch) {
	s.t.Helper()
	nc, js := s.connect()
	defer nc.Close()
	stream, err := js.Stream(s.t.Context(), "PC_lab_00")
	if err != nil {
		s.t.Fatal(err)
	}
	var d batch.Decoder
	for n := uint64(1); n <= stream.CachedInfo().State.LastSeq; n++ {
		m, err := stream.GetMsg(s.t.Context(), n)
		if err != nil {
			s.t.Fatal(err)
		}
		if want := "pcapper.v1.lab.00.pkt.hall=20b.node=201"; m.Subject != want {
			s.t.Fatalf("subject %s, want %s", m.Subject, want)
		}
		b := new(batch.Batch)
		if err := d.Decode(m.Data, b); err != nil {
			s.t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// TestBus: an agent publishes to a server of NATS. That is away at first, the
// agent is killed, then the server, while packets flow: each is stored, once after
// leaving out batches that come again, under the numbers of the life that saw it.
func TestBus(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	dir := spoolDir(t)
	bin, err := natsProgram()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bustest.RemoveProgram)
	args := []string{"-m", "udp or tcp", "-spool", dir + ":100MB", "-metrics", "127.0.0.1:9173",
		"-export", "nats://" + b.Interface.IPv4.String() + "?tenant=lab&site=hall+b&name=node+1"}
	const n = 4000
	p := launchProgram(t, a, bin, args...)
	p.await("capturing from now on", 1)
	p.await("away:", 1)
	send(t, a, n, 20_000, numbered(a, b, 0, n)...)
	p.awaitOnDisk(n)
	p.cmd.Process.Kill()
	p.wait()

	s := startNATS(t, b)
	s.makeStream()
	p = launchProgram(t, a, bin, args...)
	p.await("4,000 packets left from a previous run", 1)
	p.await("capturing from now on", 1)
	for i := 1; i < 4; i++ {
		send(t, a, n, 10_000, numbered(a, b, i*n, n)...)
		if i == 2 {
			s.kill()
			time.Sleep(200 * time.Millisecond)
			s.start()
		}
	}
	p.awaitExport(4*n, 1)
	m := p.scrape("127.0.0.1:9173")
	if m[`pcapper_reader_delivered_total{reader="exports"}`] != 3*n || m[`pcapper_reader_lost_total{reader="exports"}`] != 0 ||
		m["pcapper_spool_waiting_packets"] != 0 {
		t.Errorf("delivered %v, lost %v", m[`pcapper_reader_delivered_total{reader="exports"}`], m[`pcapper_reader_lost_total{reader="exports"}`])
	}
	p.signal(syscall.SIGINT)
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	type number struct{ boot, n uint64 }
	seen := map[number]uint32{}
	boots := map[uint64]bool{}
	for _, b := range s.batches() {
		boots[b.Boot] = true
		for i, r := range b.Records {
			k := number{b.Boot, b.First + uint64(i)}
			if was, again := seen[k]; again && was != r.MGENSeq {
				t.Fatalf("number %v is of message %d and of %d", k, was, r.MGENSeq)
			}
			seen[k] = r.MGENSeq
		}
		if b.Dropped != 0 {
			t.Errorf("%s: %d dropped", b.ID(), b.Dropped)
		}
	}
	messages := map[uint32]int{}
	for k, seq := range seen {
		messages[seq]++
		first := uint64(0)
		if seq >= n {
			first = n
		}
		if uint64(seq)-first != k.n {
			t.Fatalf("message %d has number %d", seq, k.n)
		}
	}
	if len(messages) != 4*n || len(seen) != 4*n || len(boots) != 2 {
		t.Errorf("%d messages under %d numbers of %d lives, want %d", len(messages), len(seen), len(boots), 4*n)
	}
}

// TestNoBus: a build without NATS says what to do.
func TestNoBus(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	p := launch(t, a, "-export", "nats://127.0.0.1")
	if code := p.wait(); code != 12 || !strings.Contains(p.said(), `"make nats" builds pcapper-nats`) {
		t.Errorf("exit code %d: %s", code, p.said())
	}
}
