package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFeeds: agents are those of a file or a directory, as they are now.
func TestFeeds(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := func(f *feeds, want ...string) {
		t.Helper()
		got, fresh, err := f.read()
		if err != nil || !fresh || len(got) != len(want) {
			t.Errorf("%v, %v, %v, want %v", got, fresh, err, want)
		}
		for _, a := range want {
			if _, ok := got[netip.MustParseAddrPort(a)]; !ok {
				t.Errorf("%v lacks %s", got, a)
			}
		}
	}
	file, all := &feeds{path: filepath.Join(dir, "n1.conf")}, &feeds{path: dir}
	if got, fresh, err := file.read(); got != nil || fresh || err != nil {
		t.Errorf("no file: %v, %v, %v", got, fresh, err)
	}
	write("n1.conf", "# x:10.0.0.9:1\n1=5001\n2=M1-2\nn1:10.0.0.1:7073 # eth0\nn2:ipfix+tls://[2001::2]:4740\nname:host:7073\nx:10.0.0.1\ny:1.2.3.4:99999\n")
	write("n2.conf", "n3:ipfix://10.0.0.3:4739")
	write(".hidden", "n4:10.0.0.4:7073\n")
	check(file, "10.0.0.1:7073", "[2001::2]:4740")
	check(all, "10.0.0.1:7073", "[2001::2]:4740", "10.0.0.3:4739")
	if err := os.Remove(filepath.Join(dir, "n1.conf")); err != nil {
		t.Fatal(err)
	}
	check(all, "10.0.0.3:4739")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	check(all, "10.0.0.3:4739")
	if _, fresh, err := all.read(); fresh || err != nil {
		t.Errorf("nothing has changed: %v, %v", fresh, err)
	}
}
