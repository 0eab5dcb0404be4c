//go:build !libpcap

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

// TestExportersOfOthers: recollect -listen counts the packets and bits of other programs' IPFIX, and
// names the versions of NetFlow that it does not read.
func TestExportersOfOthers(t *testing.T) {
	const n = 100
	a, b := nettest.Pair(t)
	dir := t.TempDir()
	frame := nettest.Between(a, b, 4001, 5001, make([]byte, 100))
	frame.DstMAC = nettest.MAC{2, 0, 0, 0, 0, 0xcc} // nobody answers
	size := len(frame.IP())
	file := filepath.Join(dir, "packets.pcap")
	writeFrames(t, file, frame.Ethernet(), n)

	to := func(port int) string { return fmt.Sprintf("%v:%d", b.Interface.IPv4, port) }
	// softflowd's captures have packets wait until there are many, so it reads a file.
	softflowd := func(version string) func(port int) []string {
		return func(port int) []string {
			return []string{"softflowd", "-d", "-r", file, "-v", version, "-n", to(port), "-c", "none", "-p", filepath.Join(dir, "softflowd"+version)}
		}
	}
	nfprobe := func(version int) func(port int) []string {
		return func(port int) []string {
			conf := filepath.Join(dir, fmt.Sprintf("nfprobe%d", version))
			text := fmt.Sprintf("daemonize: false\npcap_interface: eth0\npcap_filter: dst port 5001\nplugins: nfprobe\n"+
				"aggregate: src_host, dst_host, src_port, dst_port, proto\nnfprobe_receiver: %s\nnfprobe_version: %d\n"+
				"nfprobe_timeouts: maxlife=1:expint=1:udp=1\n", to(port), version)
			if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			return []string{"pmacctd", "-f", conf}
		}
	}
	fprobe := func(port int) []string {
		return []string{"fprobe", "-l2:pcapper", "-i", "eth0", "-e", "1", "-n", "5", to(port)}
	}
	for i, x := range []struct {
		name  string
		args  func(port int) []string
		names string // the version, if recollect does not read it
	}{
		{"softflowd, IPFIX", softflowd("10"), ""},
		{"softflowd, v9", softflowd("9"), "it is NetFlow v9; have its sender export IPFIX (version 10)"},
		{"softflowd, v5", softflowd("5"), "it is NetFlow v5; have its sender export IPFIX (version 10)"},
		{"nfprobe, IPFIX", nfprobe(10), ""},
		{"nfprobe, v9", nfprobe(9), "it is NetFlow v9; have its sender export IPFIX (version 10)"},
		{"fprobe, v5", fprobe, "it is NetFlow v5; have its sender export IPFIX (version 10)"},
	} {
		t.Run(x.name, func(t *testing.T) {
			port := 9010 + i
			c := startCollector(t, b, "1=5001\nx:from://"+a.Interface.IPv4.String()+"\n", "-listen", fmt.Sprintf("ipfix+udp://0.0.0.0:%d", port))
			args := x.args(port)
			_, stop, said := daemon(t, a, args[0], args[1:]...)
			defer stop()
			if args[0] == "pmacctd" && !nettest.Eventually(20*time.Second, func() bool { return strings.Contains(said.String(), "link type is") }) {
				t.Fatalf("it does not capture: %s", said.String())
			}
			if x.names == "" {
				if args[0] != "softflowd" {
					send(t, a, n, 1000, frame.Ethernet())
				}
				c.awaitLines(n)
				lines, bits := 0, 0
				for _, line := range c.stop() {
					if f := strings.Split(line, ":"); f[1] == "x" && f[2] == "1" {
						lines++
						bits += number(t, f[3])
					}
				}
				if lines != n || bits != 8*n*size {
					t.Errorf("%d packets of %d bits, want %d of %d; it said %s", lines, bits, n, 8*n*size, said.String())
				}
				return
			}
			named := func() bool {
				if args[0] != "softflowd" {
					send(t, a, 10, 1000, frame.Ethernet())
				}
				time.Sleep(100 * time.Millisecond)
				return strings.Contains(c.said.String(), x.names)
			}
			if !nettest.Eventually(30*time.Second, named) {
				t.Errorf("recollect said:\n%swant %q; the exporter said %s", c.said.String(), x.names, said.String())
			}
			if lines := len(c.stop()); lines != 0 {
				t.Errorf("%d lines of what is not read", lines)
			}
		})
	}
}

// writeFrames writes n copies of a frame to a capture file, a millisecond apart.
func writeFrames(t *testing.T, name string, frame []byte, n int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	begin := time.Now().Add(-time.Duration(n) * time.Millisecond)
	for i := range n {
		at := gopacket.CaptureInfo{Timestamp: begin.Add(time.Duration(i) * time.Millisecond), CaptureLength: len(frame), Length: len(frame)}
		if err := w.WritePacket(at, frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
