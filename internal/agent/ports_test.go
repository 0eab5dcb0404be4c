package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/host/certs"
)

// TestLinesOfPortTables: each kind of feed has its lines, an interface keeps its place when
// the table is read again, and what others wrote stays.
func TestLinesOfPortTables(t *testing.T) {
	tls := certs.Files{Cert: "c", Key: "k", CA: "a"}
	for _, tt := range []struct {
		cfg        Config
		one, other string
	}{
		{Config{Port: 7073, IPFIXPort: 4739}, "n1-eth0:127.0.0.1:7073", "lo:127.0.0.1:7074"},
		{Config{IPFIXPort: 4739}, "n1-eth0:ipfix://127.0.0.1:4739", "lo:ipfix://127.0.0.1:4740"},
		{Config{IPFIXTLSPort: 4740, TLS: tls}, "n1-eth0:ipfix+tls://127.0.0.1:4740", "lo:ipfix+tls://127.0.0.1:4741"},
		{Config{TLSPort: 7443, TLS: tls}, "n1-eth0:tls://127.0.0.1:7443", "lo:tls://127.0.0.1:7444"},
		{Config{TLSPort: 7443}, "n1-eth0:from://n1/eth0", "lo:from:///lo"}, // exports only
	} {
		tt.cfg.PortsFile = filepath.Join(t.TempDir(), "c.conf")
		if err := os.WriteFile(tt.cfg.PortsFile, []byte("1=5001\nx:from://10.0.0.1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			table, err := newPortTable(&tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			names := [][2]string{{"n1", "eth0"}, {"", "lo"}}
			for i, want := range []int{0, 1} {
				if round == 1 { // in the other order
					i, want = 1-i, 1-want
				}
				if k, fresh, err := table.get(names[i][0], names[i][1]); k != want || fresh != (round == 0) || err != nil {
					t.Errorf("%s, round %d: %d, %v, %v", tt.one, round, k, fresh, err)
				}
			}
			if err := table.save(); err != nil {
				t.Fatal(err)
			}
			table.close()
		}
		data, _ := os.ReadFile(tt.cfg.PortsFile)
		if got, want := string(data), strings.Join([]string{"1=5001", "x:from://10.0.0.1", tt.one, tt.other, ""}, "\n"); got != want {
			t.Errorf("the table is %q, want %q", got, want)
		}
	}
}
