package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// TestPageBadges: hosts whose clocks are wrong are marked, and what is relayed, or
// belongs to another flow first, has the configuration's second colour.
func TestPageBadges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf := "1=2000\n2=M7\n"
	agents := make(map[string]net.Listener)
	for _, label := range []string{"ahead", "behind", "right"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		agents[label] = l
		conf += label + ":" + l.Addr().String() + "\n"
	}
	for name, text := range map[string]string{
		"collector.conf": conf, "mwmg.conf": "[one]\nColor=#112233\nRelay=#445566\n[two]\nColor=#778899\nRelay=#aabbcc\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, url := startPage(t, dir)
	for label, clock := range map[string]time.Duration{"ahead": 30 * time.Second, "behind": -30 * time.Second, "right": 0} {
		conn, err := agents[label].Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			for ; ; time.Sleep(20 * time.Millisecond) {
				r := wire.Record{
					Time: time.Now().Add(clock).UnixNano(), Length: 100, SrcPort: 9, DstPort: 2000, Proto: wire.ProtoUDP,
					Flags: wire.MGEN, FlowID: 7,
				}
				r.SetSrc4([4]byte{10, 0, 0, 1})
				r.SetDst4([4]byte{10, 0, 0, 2})
				b, _ := wire.AppendBinary(nil, &r)
				if _, err := conn.Write(b); err != nil {
					return
				}
			}
		}()
	}
	p := openPage(t, url, t.TempDir())
	for _, view := range []string{"overview", "hosts"} {
		p.show(view + "?w=60")
		row := func(host int) string {
			if view == "overview" {
				return fmt.Sprintf(`document.querySelector('tr[data-host="%d"]')`, host)
			}
			return fmt.Sprintf(`document.querySelector('.host[data-host="%d"]')`, host)
		}
		p.await(row(0) + `?.querySelector('.badge.severe')?.textContent === 'future'`)
		p.await(row(1) + `?.querySelector('.badge.severe')?.textContent === 'late'`)
		if n := p.text(row(2) + `.querySelectorAll('.badge').length`); n != "0" {
			t.Errorf("%s: the host whose clock is right has %s badges", view, n)
		}
	}
	p.show("flows?w=60")
	bar := func(row int, part string) string {
		return fmt.Sprintf(`document.querySelector('[data-row="%d"] [data-host="2"] .well i:%s')`, row, part)
	}
	// The first flow's is primary, at the bottom; the second's lies on it.
	p.await(bar(0, "last-child") + `?.style.height.match(/[1-9]/) && ` + bar(1, "first-child") + `?.style.height.match(/[1-9]/)`)
	for _, test := range []struct{ bar, color string }{
		{bar(0, "last-child"), "rgb(17, 34, 51)"}, {bar(1, "first-child"), "rgb(170, 187, 204)"},
	} {
		if got := p.text(`getComputedStyle(` + test.bar + `).backgroundColor`); got != test.color {
			t.Errorf("%s: %s, want %s", test.bar, got, test.color)
		}
	}
	p.check()
}
