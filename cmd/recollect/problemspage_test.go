package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPageSaysWhatIsWrong: nothing while there are no agents, and then that one is down.
func TestPageSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf := filepath.Join(dir, "collector.conf")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := l.Addr().String()
	l.Close()
	if err := os.WriteFile(conf, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, url := startPage(t, dir)
	p := openPage(t, url, t.TempDir())
	p.show("overview?w=60&theme=light")
	p.await(`document.querySelector('.link-state.connected') && document.querySelector('.wrong.well')`)
	if err := os.WriteFile(conf, []byte("n1:"+away+"\n"+strings.Repeat("long-label-", 9)+":"+away+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.await(`document.querySelectorAll('.wrong-list li[data-kind="agent"]').length === 2 && !document.querySelector('.wrong.well')`)
	if got := p.text(`document.querySelector('.wrong-list li').textContent`); !strings.Contains(got, "agent n1 is not connected: ") || !strings.Contains(got, "since ") {
		t.Errorf("the page says %q", got)
	}
	p.check()
}
