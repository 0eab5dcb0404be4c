package replay

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLabels(t *testing.T) {
	for _, c := range []struct{ paths, want string }{
		{"logs/n1.log", "n1"},
		{"logs/n1.log logs/n2.log.gz", "n1 n2"},
		{"n1/pcapper.log n2/pcapper.log", "n1 n2"},
		{"/tmp/pycore.1/n1.conf/var.log/pcapper.conf /tmp/pycore.1/n2.conf/var.log/pcapper.conf", "n1 n2"},
		{"n1.log n1.log.1 n1.log.2.gz n1.log-20261125.gz", "n1 n1 n1 n1"},
		{"d/n1/a.log d/n1/b.log d/n2/a.log", "n1-a n1-b n2-a"},
		{"10.0.0.1.log 10.0.0.2.log", "10.0.0.1 10.0.0.2"},
		{"a/x/pcapper.log b/x/pcapper.log", "a b"},
		{"pcapper.conf", "pcapper"},
		{"a:b/x y.log a:b/z.log", "x_y z"},
		{"n1/l.log n1/s/l.log", "n1 s"},
		{".log", ".log"},
	} {
		paths := strings.Split(c.paths, " ")
		if strings.Contains(c.paths, "x y") {
			paths = []string{"a:b/x y.log", "a:b/z.log"}
		}
		if got := strings.Join(labels(paths), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.paths, got, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	good := line(1, 1)
	write(t, dir, "n1.log", good)
	write(t, dir, "n2.log.gz", packed("# a comment\n"+good))
	write(t, dir, "deep/n3.txt", good[:20]) // not one line yet
	write(t, dir, "README", "Read this.\n")
	write(t, dir, "empty", "")
	write(t, dir, ".hidden", good)
	write(t, dir, ".git/x.log", good)
	write(t, dir, "noise", strings.Repeat("z", 1000))
	if err := os.Symlink("n1.log", filepath.Join(dir, "n4.log")); err != nil {
		t.Fatal(err)
	}
	files, skipped, err := Find([]string{dir, filepath.Join(dir, "n1.log")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.Label)
	}
	if !reflect.DeepEqual(got, []string{"n3", "n1", "n2", "n4"}) {
		t.Errorf("found %v", files)
	}
	for i := range skipped {
		skipped[i] = filepath.Base(skipped[i])
	}
	if slices.Sort(skipped); !reflect.DeepEqual(skipped, []string{"README", "noise"}) {
		t.Errorf("skipped %v", skipped)
	}
	bad := write(t, dir, "bad/README", "Read this.\nAnd this.\n")
	pcap := write(t, dir, "caps/x y.pcap", "\xd4\xc3\xb2\xa1\x02\x00\x04\x00")
	ng := write(t, dir, "ng.pcapng.gz", packed("\x0a\x0d\x0d\x0a\x1c\x00\x00\x00"))
	snoop := write(t, dir, "x.snoop", "snoop\x00\x00\x00")
	packedPcap := write(t, dir, "x.pcap.zst", "\x28\xb5\x2f\xfd\n\n\n")
	zst := write(t, dir, "n1.log.zst", "\x28\xb5\x2f\xfd\n\n\n")
	for path, want := range map[string]string{
		bad:               `README": no log lines in it; the first line: wire: log line "Read this.": time "Read this.": want seconds with six decimals`,
		filepath.Dir(bad): "no agent's log in ",
		dir + "/none":     `none": no such file or directory`,
		pcap:              `x y.pcap": it is a pcap capture file: to make a log of it: pcapper -read '` + pcap + `' >'x y.log'`,
		filepath.Dir(pcap): "no agent's log in " + filepath.Dir(pcap) + ": want files with lines time:src:port:dst:port:length:flow:protocol, " +
			"as pcapper -f writes them; " + pcap + ": it is a pcap capture file",
		ng:         "it is a pcapng capture file: to make a log of it: pcapper -read " + ng + " >ng.pcapng.log",
		snoop:      "it is a snoop capture file: to make a log of it: editcap -F pcap " + snoop + " - | pcapper -read - >x.log",
		packedPcap: "to make a log of it: zstd -dc " + packedPcap + " | pcapper -read - >x.pcap.log",
		zst:        "it is compressed by zstd: to unpack it: zstd -dc " + zst + " >n1.log",
	} {
		if _, _, err := Find([]string{path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

func TestParsePlace(t *testing.T) {
	old := time.Local
	time.Local = time.FixedZone("here", 2*3600)
	defer func() { time.Local = old }()
	first := time.Date(2019, 6, 13, 3, 51, 12, 0, time.Local).UnixNano()
	for text, want := range map[string]string{
		"+90s":                 "2019-06-13 03:52:42.000",
		"+0s":                  "2019-06-13 03:51:12.000",
		"1560390672.895279":    "2019-06-13 03:51:12.895",
		"2019-06-13 04:00:00":  "2019-06-13 04:00:00.000",
		"2019-06-13T04:00:00":  "2019-06-13 04:00:00.000",
		"2019-06-13T02:00:00Z": "2019-06-13 04:00:00.000",
		"2019-06-14":           "2019-06-14 00:00:00.000",
		"04:00":                "2019-06-13 04:00:00.000",
		"03:51:12":             "2019-06-13 03:51:12.000",
		"03:51:11":             "2019-06-14 03:51:11.000",
	} {
		p, err := ParsePlace(text)
		if err != nil {
			t.Error(err)
		} else if got := Time(p.at(first)); got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"", "now", "+", "-90s", "+-1s", "25:00", "NaN", "1e300", "2019-06-31"} {
		if p, err := ParsePlace(text); err == nil {
			t.Errorf("%q is %v", text, p)
		} else if !strings.Contains(err.Error(), "want one like") {
			t.Error(err)
		}
	}
}
