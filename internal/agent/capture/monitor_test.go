package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/match"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// monitor is a tun device that says that it is a wireless interface in monitor
// mode, which it is to captures, and the file that its frames are written to.
func monitor(t *testing.T, h *nettest.Host, name string, typ int) *os.File {
	t.Helper()
	var file *os.File
	h.Do(func() {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file = os.NewFile(uintptr(fd), name)
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			t.Fatal(err)
		}
		ifr.SetUint16(unix.IFF_TUN)
		if err := errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr), unix.IoctlSetInt(fd, unix.TUNSETLINK, typ)); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { file.Close() })
	if err := errors.Join(h.Sysctl("ipv6/conf/"+name+"/disable_ipv6", "1"), h.Up(name)); err != nil {
		t.Fatal(err)
	}
	return file
}

// Frames of an interface in monitor mode come as they are, by every engine, and
// mode dst finds the source address in them.
func TestMonitor(t *testing.T) { everyEngine(t, testMonitor) }

func testMonitor(t *testing.T, e liveEngine) {
	if e.name == "shared" {
		return // for Ethernet alone
	}
	a, _ := nettest.Pair(t)
	mine := []byte{2, 0, 0, 0, 0, 0x0a}
	for typ, link := range map[int]packet.LinkType{unix.ARPHRD_IEEE80211: packet.IEEE80211, unix.ARPHRD_IEEE80211_RADIOTAP: packet.Radiotap} {
		file := monitor(t, a, "mon0", typ)
		filter, err := match.Compile(context.Background(), "dst", match.Interface{Name: "mon0", WiFi: link, MAC: mine})
		if err != nil {
			t.Fatal(err)
		}
		var program []bpf.RawInstruction = filter.Instructions()
		s := e.open(t, a, Config{Interface: "mon0", WiFi: link, Filter: program})
		var want [][]byte
		for i, source := range [][]byte{{2, 0, 0, 0, 0, 0x0b}, mine, {2, 0, 0, 0, 0, 0x0c}} {
			b := bytes.Join([][]byte{{0x08, 0x02, 0, 0}, make([]byte, 12), source, {0, 0}, {0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, bytes.Repeat([]byte{byte(i)}, 60)}, nil)
			if link == packet.Radiotap {
				b = append([]byte{0, 0, 12, 0, 0, 0, 0, 0, 1, 2, 3, 4}, b...)
			}
			pi := binary.BigEndian.AppendUint16([]byte{0, 0}, unix.ETH_P_802_2)
			if _, err := file.Write(append(pi, b...)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(source, mine) {
				want = append(want, b)
			}
		}
		got := seen(t, s, len(want))
		for i, f := range got {
			if f.Link != link || !bytes.Equal(f.Data, want[i]) || f.WireLen != len(want[i]) {
				t.Errorf("link type %d: frame %d is %+v, want % x", link, i, f, want[i])
			}
		}
		s.Close()
		file.Close()
	}
}
