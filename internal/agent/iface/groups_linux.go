package iface

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// GroupReader reads which multicast groups the interfaces of a network namespace have
// joined.
type GroupReader struct {
	v4, v6 *os.File // nil if the kernel does not have the protocol
	buf    bytes.Buffer
}

// OpenGroups opens a reader for the calling thread's namespace. The caller must Close
// it.
func OpenGroups() (*GroupReader, error) {
	r := new(GroupReader)
	for path, to := range map[string]**os.File{"/proc/thread-self/net/igmp": &r.v4, "/proc/thread-self/net/igmp6": &r.v6} {
		f, err := os.Open(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.Close()
			return nil, fmt.Errorf("cannot read multicast groups: %w", err)
		}
		if err == nil {
			*to = f
		}
	}
	if r.v4 == nil && r.v6 == nil {
		return nil, errors.New("cannot read multicast groups: /proc/net has neither igmp nor igmp6")
	}
	return r, nil
}

// Close closes the files.
func (r *GroupReader) Close() {
	r.v4.Close()
	r.v6.Close()
}

// Read returns the groups joined on the interface with this index, in order. Groups
// that every host is in, and those that the kernel joins by itself, are left out: see
// wanted.
func (r *GroupReader) Read(index int) (groups []netip.Addr, err error) {
	for _, f := range []*os.File{r.v4, r.v6} {
		if f == nil {
			continue
		}
		r.buf.Reset()
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("cannot read multicast groups: %w", err)
		}
		if _, err := r.buf.ReadFrom(f); err != nil {
			return nil, fmt.Errorf("cannot read multicast groups: %w", err)
		}
		parse := parseIGMP
		if f == r.v6 {
			parse = parseIGMP6
		}
		for group := range parse(r.buf.Bytes(), index) {
			if wanted(group) {
				groups = append(groups, group)
			}
		}
	}
	slices.SortFunc(groups, netip.Addr.Compare)
	return slices.Compact(groups), nil
}

// parseIGMP parses /proc/net/igmp: one line per interface, which begins with its index,
// followed by one line per group, which begins with the address in host byte order.
func parseIGMP(text []byte, index int) func(func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		ours := false
		for line := range bytes.Lines(text) {
			fields := bytes.Fields(line)
			if len(fields) == 0 {
				continue
			}
			if line[0] != '\t' {
				n, err := strconv.Atoi(string(fields[0]))
				ours = err == nil && n == index
				continue
			}
			v, err := strconv.ParseUint(string(fields[0]), 16, 32)
			if !ours || err != nil {
				continue
			}
			var b [4]byte
			binary.NativeEndian.PutUint32(b[:], uint32(v))
			if !yield(netip.AddrFrom4(b)) {
				return
			}
		}
	}
}

// parseIGMP6 parses /proc/net/igmp6: one line per interface and group, with the index,
// the name, and the group's address.
func parseIGMP6(text []byte, index int) func(func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for line := range bytes.Lines(text) {
			fields := bytes.Fields(line)
			if len(fields) < 3 {
				continue
			}
			n, err := strconv.Atoi(string(fields[0]))
			if err != nil || n != index {
				continue
			}
			var b [16]byte
			if k, err := hex.Decode(b[:], fields[2]); err != nil || k != len(b) {
				continue
			}
			if !yield(netip.AddrFrom16(b)) {
				return
			}
		}
	}
}

// unasked are groups that the kernel joins by itself: as any host, as a router, and as
// a bridge that looks for multicast routers.
var unasked = []netip.Addr{
	netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("224.0.0.106"),
	netip.MustParseAddr("ff01::1"), netip.MustParseAddr("ff02::1"),
	netip.MustParseAddr("ff01::2"), netip.MustParseAddr("ff02::2"), netip.MustParseAddr("ff05::2"), netip.MustParseAddr("ff02::6a"),
}

// solicited are the groups of neighbor discovery (RFC 4291, section 2.7.1).
var solicited = netip.MustParsePrefix("ff02::1:ff00:0/104")

func wanted(group netip.Addr) bool {
	return !solicited.Contains(group) && !slices.Contains(unasked, group)
}

// Multicast groups of rtnetlink, in linux/rtnetlink.h since Linux 6.14.
const (
	groupMulticast4 = 37
	groupMulticast6 = 38
)

// FollowGroups makes Run also report when an interface joins or leaves a multicast
// group, as Kind Groups. It fails before Linux 6.14, which does not report that.
func (w *Watcher) FollowGroups() error {
	var failed error
	err := w.events.raw.Control(func(fd uintptr) {
		for _, group := range []int{groupMulticast4, groupMulticast6} {
			if failed == nil {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
			}
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("the kernel does not tell of multicast groups: %w", err)
	}
	w.groups = true
	return nil
}
