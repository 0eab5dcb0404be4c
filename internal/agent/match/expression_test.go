package match

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// needCompiler skips a test of expressions where they cannot be compiled, and
// tests on a made-up interface run as if it could not be opened.
func needCompiler(t testing.TB) {
	t.Helper()
	if _, err := CompileFile(t.Context(), "udp", nil, nil, packet.Ethernet); errors.Is(err, ErrNoCompiler) {
		t.Skipf("needs tcpdump: %v", err)
	}
}

func TestExpand(t *testing.T) {
	s := scope{name: "eth0", live: true, mac: macMine, ipv4: ipMine}
	tests := map[string]string{
		"":                                  "",
		"udp":                               "udp",
		"ether src %m":                      "ether src 02:00:00:00:00:0a",
		"src %i and not ether src %m":       "src 10.0.0.1 and not ether src 02:00:00:00:00:0a",
		"%m%i":                              "02:00:00:00:00:0a10.0.0.1",
		"len %% 4 == 0":                     "len % 4 == 0",
		"%%m":                               "%m",
		"%%%m":                              "%02:00:00:00:00:0a",
		"%udp %po%rt 53":                    "udp port 53",
		"udp%":                              "udp",
		"%":                                 "",
		"host h%C3":                         "host hC3",
		"%M %I":                             "M I",
		"a very long expression, not at 15": "a very long expression, not at 15",
	}
	for text, want := range tests {
		if got, err := s.expand(text); err != nil || got != want {
			t.Errorf("%q becomes %q, %v, want %q", text, got, err, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("ether src %m and %i %% %")
	s := scope{mac: macMine, ipv4: ipMine}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := s.expand(text)
		must(t, err)
		if !strings.Contains(text, "%") && got != text {
			t.Errorf("%q becomes %q without any %%", text, got)
		}
		if strings.Count(got, "%") > strings.Count(text, "%")/2 {
			t.Errorf("%q becomes %q: too many %%", text, got)
		}
	})
}

func TestExpandErrors(t *testing.T) {
	ctx := t.Context()
	_, err := Compile(ctx, "ether host %m", tunnel)
	wantError(t, err, ErrNoMAC, `filter "ether host %m": tun0 has no MAC address`)
	v6only := Interface{Name: "eth0", Ethernet: true, MAC: macMine, Addrs: []netip.Addr{ip6Mine}}
	_, err = Compile(ctx, "host %i", v6only)
	wantError(t, err, ErrNoIPv4, `filter "host %i": eth0 has no IPv4 address`)
	_, err = CompileFile(ctx, "host %i", nil, []netip.Addr{ip6Mine}, packet.Ethernet)
	wantError(t, err, ErrNoIPv4, "the capture file has no IPv4 address")
}

// TestBlankExpression: what is empty after replacement is everything.
func TestBlankExpression(t *testing.T) {
	for _, text := range []string{"", " ", "\t\n", "%", " % "} {
		f := compile(t, text, ethernet)
		if f.Text != "everything" || f.Compiler != "built in" {
			t.Errorf("%q: %q by %q", text, f.Text, f.Compiler)
		}
	}
}

// verdicts lists which of some frames pass.
func verdicts(t *testing.T, f *Filter, frames []*packet.Frame) string {
	t.Helper()
	attach(t, f)
	var b strings.Builder
	for _, frame := range frames {
		if f.Match(frame) {
			b.WriteByte('1')
		} else {
			b.WriteByte('0')
		}
	}
	return b.String()
}

// TestFileExpressions compiles for each link type of capture files.
func TestFileExpressions(t *testing.T) {
	needCompiler(t)
	v4, v6 := ip(ipMine, ipPeer, ""), ip(ip6Peer, ip6Mine, "")
	frames := map[packet.LinkType][]*packet.Frame{
		packet.Ethernet: {
			ethernetFrame(ether(macMine, macPeer, etherIPv4, v4), packet.Unknown),
			ethernetFrame(ether(macPeer, macMine, etherIPv6, v6), packet.Unknown),
			ethernetFrame(ether(macMine, macPeer, etherIPv4, v4, tag{0x8100, 5}), packet.Unknown),
		},
		packet.Network: {
			networkFrame(etherIPv4, v4, packet.Outgoing),
			networkFrame(etherIPv6, v6, packet.Incoming),
			networkFrame(0x0806, v4, packet.Incoming), // says it is ARP, whatever it looks like
		},
		packet.RawIP: {
			{Data: v4, WireLen: len(v4), Link: packet.RawIP},
			{Data: v6, WireLen: len(v6), Link: packet.RawIP},
			{Data: []byte{0x70}, WireLen: 1, Link: packet.RawIP},
		},
	}
	tests := []struct {
		expression              string
		ethernet, network, raw_ string
	}{
		{"ip", "101", "100", "100"},
		{"ip6", "010", "010", "010"},
		{"udp dst port 5001", "111", "110", "110"},
		{"src host %i", "101", "100", "100"},
		{"ip src %i", "101", "100", "100"},
		{"ip6 and dst host 2001:db8::1", "010", "010", "010"},
		{"ip[8] = 64", "101", "100", "100"},
		{"arp", "000", "001", ""},
		{"len %% 2 = 0", "111", "111", "110"},
		{"vlan 5 and ip", "001", "", ""},
		{"ip and not vlan", "100", "", ""},
		{"ether proto 0x8100", "001", "000", ""},
		{"ether src %m", "101", "", ""},
		{"outbound", "", "100", ""},
	}
	for _, tt := range tests {
		for link, want := range map[packet.LinkType]string{packet.Ethernet: tt.ethernet, packet.Network: tt.network, packet.RawIP: tt.raw_} {
			f, err := CompileFile(t.Context(), tt.expression, macMine, addrsMine, link)
			if want == "" {
				wantError(t, err, ErrSyntax, "filter ")
				continue
			}
			must(t, err)
			if got := verdicts(t, f, frames[link]); got != want {
				t.Errorf("%q on link type %d: %s, want %s\n%v", tt.expression, link, got, want, f.prog)
			}
		}
	}
}

func TestFileModes(t *testing.T) {
	ctx := t.Context()
	_, err := CompileFile(ctx, "src", nil, addrsMine, packet.Ethernet)
	wantError(t, err, ErrNoMAC, "does not say which MAC address")
	_, err = CompileFile(ctx, "dst", macMine, addrsMine, packet.RawIP)
	wantError(t, err, ErrNoMAC, "have no MAC addresses")
	_, err = CompileFile(ctx, "spoof", macMine, nil, packet.Ethernet)
	wantError(t, err, ErrNoAddress, "no IP address is known")
	_, err = CompileFile(ctx, "ether src %m", nil, nil, packet.Ethernet)
	wantError(t, err, ErrNoMAC, "the capture file has no MAC address")

	mine := ethernetFrame(etherIP(macMine, ipMine, ipPeer), packet.Unknown)
	spoofed := ethernetFrame(etherIP(macPeer, ipMine, ipPeer), packet.Unknown)
	for mode, want := range map[string]string{"src": "10", "dst": "01", "spoof": "01", "none": "11"} {
		f, err := CompileFile(ctx, mode, macMine, addrsMine, packet.Ethernet)
		must(t, err)
		if got := verdicts(t, f, []*packet.Frame{mine, spoofed}); got != want {
			t.Errorf("%s: %s, want %s", mode, got, want)
		}
	}
	// A cooked capture has the direction in place of a MAC address.
	f, err := CompileFile(ctx, "src", nil, nil, packet.Network)
	must(t, err)
	frame := networkFrame(etherIPv4, ip(ipMine, ipPeer, ""), packet.Outgoing)
	if !f.Match(frame) || f.Text != "outgoing" {
		t.Errorf("src of a cooked file: %q", f.Text)
	}
	if f, err = CompileFile(ctx, "none", nil, nil, packet.RawIP); err != nil || !f.Match(&packet.Frame{Link: packet.RawIP}) {
		t.Errorf("none of a raw file: %v", err)
	}
}

func TestSyntaxErrors(t *testing.T) {
	needCompiler(t)
	tests := map[string]string{
		"udp port":            "syntax error",
		"port nosuchservice":  "unknown port 'nosuchservice'",
		"-w /tmp/nothing":     "syntax error",
		"-i":                  "syntax error",
		"udp\x00port 53":      "zero byte",
		"ether src 1:2:3:4:5": `filter "ether src 1:2:3:4:5"`,
		"portrange 9-":        "syntax error",
	}
	for text, want := range tests {
		_, err := CompileFile(t.Context(), text, nil, nil, packet.Ethernet)
		if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", text, err, want)
		}
		if strings.Contains(fmt.Sprint(err), "tcpdump") {
			t.Errorf("%q: %v: the user did not ask for tcpdump", text, err)
		}
	}
	if _, err := os.Stat("/tmp/nothing"); err == nil {
		t.Error("an expression became an option")
	}
}

// TestCookedLimits: an access to a header that our frames do not have.
func TestCookedLimits(t *testing.T) {
	needCompiler(t)
	for _, text := range []string{"link[0] = 4", "ether[12:2] = 0x800", "vlan", "ether host 1:2:3:4:5:6"} {
		_, err := Compile(t.Context(), text, tunnel)
		wantError(t, err, ErrSyntax, "filter ")
	}
}

func TestUncook(t *testing.T) {
	tests := []struct {
		in, want bpf.RawInstruction
		bad      bool
	}{
		{in: op(unix.BPF_LD|unix.BPF_H|unix.BPF_ABS, 14), want: op(unix.BPF_LD|unix.BPF_H|unix.BPF_ABS, adProtocol)},
		{in: op(unix.BPF_LD|unix.BPF_H|unix.BPF_ABS, 0), want: op(unix.BPF_LD|unix.BPF_H|unix.BPF_ABS, adPacketType)},
		{in: op(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 28), want: op(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 12)},
		{in: op(unix.BPF_LDX|unix.BPF_B|unix.BPF_MSH, 16), want: op(unix.BPF_LDX|unix.BPF_B|unix.BPF_MSH, 0)},
		{in: op(unix.BPF_LD|unix.BPF_H|unix.BPF_IND, 18), want: op(unix.BPF_LD|unix.BPF_H|unix.BPF_IND, 2)},
		{in: op(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, adIfIndex), want: op(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, adIfIndex)},
		{in: op(unix.BPF_LD|unix.BPF_IMM, 3), want: op(unix.BPF_LD|unix.BPF_IMM, 3)},
		{in: op(unix.BPF_ALU|unix.BPF_AND, 3), want: op(unix.BPF_ALU|unix.BPF_AND, 3)},
		{in: op(unix.BPF_LD|unix.BPF_B|unix.BPF_ABS, 14), bad: true},
		{in: op(unix.BPF_LD|unix.BPF_H|unix.BPF_ABS, 2), bad: true},
		{in: op(unix.BPF_LD|unix.BPF_H|unix.BPF_IND, 14), bad: true},
	}
	for _, tt := range tests {
		got := tt.in
		if err := uncook(&got); (err != nil) != tt.bad || err == nil && got != tt.want {
			t.Errorf("%v becomes %v, %v", tt.in, got, err)
		}
	}
}

func op(code uint16, k uint32) bpf.RawInstruction { return bpf.RawInstruction{Op: code, K: k} }

// TestLoopbackExpression: each packet once, unless the expression asks for a
// direction itself.
func TestLoopbackExpression(t *testing.T) {
	needCompiler(t)
	data := etherIP(make([]byte, 6), ipMine, ipMine)
	frames := []*packet.Frame{ethernetFrame(data, packet.Outgoing), ethernetFrame(data, packet.Incoming)}
	for text, want := range map[string]string{
		"udp": "01", "tcp": "00", "outbound": "10", "inbound": "01", "not inbound or udp": "11", "none": "01",
	} {
		f := compile(t, text, loopback)
		if got := verdicts(t, f, frames); got != want {
			t.Errorf("%q: %s, want %s (%s)", text, got, want, f.Text)
		}
	}
}

func TestAsksVLAN(t *testing.T) {
	for text, want := range map[string]bool{
		"vlan": true, "ip or (vlan 5)": true, "not vlan": true, "udp": false,
		"host vlan.example.org": false, "host my-vlan": false, "ether[0]=1||vlan&&ip": true,
	} {
		if asksVLAN(text) != want {
			t.Errorf("%q: want %v", text, want)
		}
	}
}

// TestContext: a context that has ended already, and one that ends meanwhile.
func TestContext(t *testing.T) {
	needCompiler(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compile(ctx, "udp", ethernet); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	ctx, cancel = context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err := Compile(ctx, "udp", ethernet)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not compiled after") {
		t.Errorf("too late: %v", err)
	}
}

// TestTooLongExpression: the kernel's limit is told, not met.
func TestTooLongExpression(t *testing.T) {
	needCompiler(t)
	var terms []string
	for n := range 900 { // enough, and soon optimized: that takes quadratic time
		terms = append(terms, fmt.Sprintf("(ip[%d:2] = %d and ip[%d] = 1)", n%40, n*7, n%60))
	}
	_, err := CompileFile(t.Context(), strings.Join(terms, " or "), nil, nil, packet.Ethernet)
	wantError(t, err, ErrTooLong, "instructions, and the kernel takes 4096")
}
