package agent

import (
	"net"
	"os"
	"strings"
	"testing"
)

func TestWatchedBy(t *testing.T) {
	for args, want := range map[string]string{
		"":                           "eth0",
		"-p 7073":                    "eth0",
		"-i eth1 -m src":             "eth1",
		"-i eth1 --i eth2":           "eth2",
		"-i=eth3":                    "eth3",
		"-f i -m none":               "eth0",
		"-i":                         "eth0",
		"-netns all-core -i eth*":    "",
		"-i eth0,lo -engine ring -p": "eth0,lo",
	} {
		if got := watchedBy(strings.Fields(args)); got != want && !(args == "-i" && got == "") {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}

// TestFindHolder: this very process has a port.
func TestFindHolder(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		if h, ok := findHolder(port); !ok || h.pid != os.Getpid() || h.name == "" || h.watches != "" {
			t.Errorf("%s: %+v, %v", address, h, ok)
		}
		if next := freePort(port - 1); next == port {
			t.Errorf("%d is called free", next)
		}
		ln.Close()
		if h, ok := findHolder(port); ok {
			t.Errorf("nobody has port %d, but %v", port, h)
		}
	}
}
