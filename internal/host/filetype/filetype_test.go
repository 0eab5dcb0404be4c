package filetype

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const capture = "../../agent/decode/testdata/mgen/udp4.pcap"

// TestRealFiles: what the real programs write is recognised, and the command
// gives back a capture file.
func TestRealFiles(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		program, make, name string // of a shell command that reads $IN and writes $OUT
		kind                Kind
	}{
		{"gzip", "gzip -c $IN >$OUT", "compressed by gzip", Packed},
		{"zstd", "zstd -qc $IN >$OUT", "compressed by zstd", Packed},
		{"xz", "xz -c $IN >$OUT", "compressed by xz", Packed},
		{"bzip2", "bzip2 -c $IN >$OUT", "compressed by bzip2", Packed},
		{"lz4", "lz4 -qc $IN >$OUT", "compressed by lz4", Packed},
		{"editcap", "editcap -F snoop $IN $OUT", "a snoop capture file", Foreign},
		{"editcap", "editcap -F netmon2 $IN $OUT", "a capture file of Microsoft Network Monitor", Foreign},
		{"editcap", "editcap -F ngwsniffer_2_0 $IN $OUT", "a capture file of NetXRay", Foreign},
		{"editcap", "editcap -F ngsniffer $IN $OUT", "a capture file of the Sniffer", Foreign},
		{"editcap", "editcap -F pcapng $IN $OUT", "a pcapng capture file", Capture},
		{"editcap", "editcap -F nsecpcap $IN $OUT", "a pcap capture file", Capture},
		{"cat", "cat $IN >$OUT", "a pcap capture file", Capture},
	} {
		t.Run(tt.make, func(t *testing.T) {
			if _, err := exec.LookPath(tt.program); err != nil {
				t.Skipf("%s is not installed", tt.program)
			}
			out := filepath.Join(dir, "it's a file")
			run(t, tt.make, capture, out)
			got := of(t, out)
			if got.Kind != tt.kind || got.Name != tt.name {
				t.Errorf("%+v, want %s", got, tt.name)
			}
			if command := got.Command(out); command != "" {
				back := filepath.Join(dir, "back")
				run(t, command+" >$OUT", "", back)
				if got := of(t, back); got.Kind != Capture {
					t.Errorf("%s writes %+v", command, got)
				}
			}
		})
	}
}

func run(t *testing.T, command, in, out string) {
	t.Helper()
	// Without IFS, $OUT is one word, blanks or not.
	c := exec.Command("sh", "-c", "IFS=; "+command)
	c.Env = append(os.Environ(), "IN="+in, "OUT="+out)
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, text)
	}
}

func of(t *testing.T, name string) Type {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return Of(data[:min(len(data), Need)])
}

func TestOf(t *testing.T) {
	const line = "1560390672.895279:10.0.0.1:5001:10.0.0.2:5002:732:1000:17\n"
	for head, want := range map[string]string{
		"":                 "",
		"\x0a\x0d":         "",
		line:               "an agent's log",
		"# it\n#\n" + line: "an agent's log",
		"#\n":              "",
		"Read this.\n":     "",
		"\x00\x0a\x00\x40\x65\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x02\x00\x30": "a file of IPFIX messages",
		"\x00\x0a\x00\x40\x65\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x02\x00\x31": "",
		"\x00\x0a\x00\x40": "",
	} {
		if got := Of([]byte(head)); got.Name != want {
			t.Errorf("%q: %+v, want %q", head, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	for name, want := range map[string]string{
		"a/b.pcap": "a/b.pcap", "a b": "'a b'", "it's": `'it'\''s'`, "": "''", "$x": "'$x'", "größe": "größe",
	} {
		if got := Quote(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}
