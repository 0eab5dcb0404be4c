package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestPageFollowsConfiguration: agents that come to the configuration appear on a
// page that is open, and those that go vanish.
func TestPageFollowsConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	conf := filepath.Join(dir, "collector.conf")
	var lines []string
	for _, label := range []string{"first", "second"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		lines = append(lines, label+":"+l.Addr().String()+"\n")
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("1=2000\n" + lines[0])
	_, url := startPage(t, dir)
	p := openPage(t, url, t.TempDir())
	p.show("overview?w=60")
	const agents = `[...document.querySelectorAll('tr[data-host] .agent')].map((e) => e.textContent.trim().split(' ')[0].split(/\s/)[0]).join()`
	p.await(agents + `.startsWith('first') && !` + agents + `.includes('second')`)
	write("1=2000\n2=M7\n" + lines[0] + lines[1])
	p.await(agents + `.includes('first') && ` + agents + `.includes('second')`)
	write("2=M7\n" + lines[1])
	p.await(`!` + agents + `.includes('first') && ` + agents + `.includes('second')`)
	p.check()
}
