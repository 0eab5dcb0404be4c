package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/ledgertest"
	"github.com/pcapper/pcapper/wire"
)

// storing is a collector with a page that keeps the records of agents.
type storing struct {
	agents *agents
	url    string
	cmd    *exec.Cmd
	said   bytes.Buffer
}

// startStoring starts it, with agents n0, n1 and so on.
func startStoring(t *testing.T, agents int, args ...string) *storing {
	t.Helper()
	programs, err := withPage()
	if err != nil {
		t.Fatal(err)
	}
	s, dir := &storing{agents: newAgents()}, t.TempDir()
	t.Cleanup(s.agents.close)
	conf := ""
	for i := range agents {
		name := fmt.Sprint("n", i)
		if err := s.agents.start(name); err != nil {
			t.Fatal(err)
		}
		conf += name + ":" + s.agents.byName[name].address + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "collector.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	page, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	page.Close()
	s.url = "http://" + page.Addr().String() + "/"
	s.cmd = exec.Command(filepath.Join(programs, "recollect"), append([]string{"-lines", "-http", page.Addr().String(), "-store", filepath.Join(dir, "kept")}, args...)...)
	s.cmd.Dir, s.cmd.Stderr = dir, &s.said
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		if t.Failed() {
			t.Logf("recollect said:\n%s", s.said.String())
		}
	})
	return s
}

// send has an agent report so many packets of as many flows, just now.
func (s *storing) send(t *testing.T, name string, packets int) {
	t.Helper()
	a, err := s.agents.attached(name)
	if err != nil {
		t.Fatal(err)
	}
	var stream []byte
	now := time.Now().Truncate(time.Second).UnixNano()
	for i := range packets {
		r := wire.Record{Time: now + int64(i), DstPort: uint16(i), Proto: wire.ProtoUDP, Length: 1000}
		r.SetSrc4([4]byte{10, 0, 0, name[1]})
		r.SetDst4([4]byte{10, 0, 0, 1})
		stream, _ = wire.AppendBinary(stream, &r)
	}
	if err := a.write(stream, 0); err != nil {
		t.Fatal(err)
	}
}

func (s *storing) get(t *testing.T, path string) string {
	t.Helper()
	return fetch(t, s.url+path)
}

// fetch is what a URL answers.
func fetch(t *testing.T, url string) string {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPageOfLess: the page marks a host of which less than packets is kept, and
// says why; so do /metrics and the summary. What was kept has all packets and bytes.
func TestPageOfLess(t *testing.T) {
	t.Parallel()
	s := startStoring(t, 3, "-detail", "n1:packets=50,calm=1h", "-detail", "n2:packets=0,flows=0")
	for i := range 3 {
		s.send(t, fmt.Sprint("n", i), 40)
	}
	p := openPage(t, s.url, t.TempDir())
	p.show("overview")
	badge := func(host int) string {
		return fmt.Sprintf(`document.querySelector('[data-host="%d"] .badge')`, host)
	}
	p.await(badge(2))
	if text, title := p.text(badge(2)+".innerText"), p.text(badge(2)+".title"); text != "only top flows kept" || !strings.Contains(title, "From the start, the history stores top flows of ten seconds and sums of the rest of this host instead of packets: as configured (-detail).") {
		t.Errorf("n2 has %q: %s", text, title)
	}
	for host := range 2 {
		if got := p.text(badge(host)); got != "null" {
			t.Errorf("n%d has a badge, too", host)
		}
	}
	s.send(t, "n1", 51)
	p.await(badge(1))
	want := "the history stores one-second flows of this host instead of packets: there were more than 50 records/s (-detail packets). All sums stay exact"
	if text, title := p.text(badge(1)+".innerText"), p.text(badge(1)+".title"); text != "only flows kept" || !strings.Contains(title, want) || !strings.HasPrefix(title, "Since "+time.Now().Format("2006-")) {
		t.Errorf("n1 has %q: %s", text, title)
	}
	p.show("hosts")
	p.await(badge(1) + "?.innerText === 'only flows kept' && " + badge(2) + "?.innerText === 'only top flows kept'")
	p.await(`document.querySelector('[data-host="1"] footer').innerText.endsWith(' · only one-second flows kept: more than 50 records/s')`)
	p.check()
	for host, level := range []int{0, 1, 2} {
		line := fmt.Sprintf(`recollect_agent_detail_level{address="%s",host="n%d"} %d`, s.agents.byName[fmt.Sprint("n", host)].address, host, level)
		if text := s.get(t, "metrics"); !strings.Contains(text, line) {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
	if rows := ledgertest.Closes(t, s.said.String()); rows["detail"].Held != 0 {
		t.Errorf("got %+v, want nothing held at the end", rows["detail"])
	}
	for _, want := range []string{"; one-second flows are kept: more than 50 records/s\n", "; the top flows of ten seconds are kept: by rule\n", ": one-second flows are kept instead of packets: more than 50 records/s (-detail packets)\n", ", 1 change of detail; 0 records lost before"} {
		if !strings.Contains(s.said.String(), want) {
			t.Errorf("stderr lacks %q", want)
		}
	}
	out, err := exec.Command(s.cmd.Path, "-query", "-store", filepath.Join(s.cmd.Dir, "kept"), "-by", "host,level").Output()
	if err != nil {
		t.Fatal(err)
	}
	sums := make(map[string][2]uint64) // packets, bytes
	rows, err := csv.NewReader(bytes.NewReader(out)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows[1:] { // host, level, records, packets, bytes
		packets, _ := strconv.ParseUint(row[3], 10, 64)
		bytes, _ := strconv.ParseUint(row[4], 10, 64)
		sums[row[0]] = [2]uint64{sums[row[0]][0] + packets, sums[row[0]][1] + bytes}
	}
	for host, n := range map[string]uint64{"n0": 40, "n1": 91, "n2": 40} {
		if sums[host] != [2]uint64{n, 1000 * n} {
			t.Errorf("%s: %v packets and bytes are kept, want %d, %d:\n%s", host, sums[host], n, 1000*n, out)
		}
	}
	if n := len(rows) - 1; n != 4 { // n1's as packets and flows
		t.Errorf("%d rows:\n%s", n, out)
	}
}
