package nettest

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands and the string set of ethtool(8), linux/ethtool.h.
const (
	ethtoolGetStrings   = 0x1b
	ethtoolGetSetInfo   = 0x37
	ethtoolSetFeatures  = 0x3b
	featureStrings      = 4  // ETH_SS_FEATURES
	featureStringLen    = 32 // ETH_GSTRING_LEN
	featuresPerBlock    = 32
	maxFeatures         = 256
	featureBlockSizeLen = 2 // words of struct ethtool_set_features_block
)

// offloads are the features by which frames are put together, split or given
// checksums later, by the beginning of their names.
var offloads = []string{
	"tx-checksum-", "rx-checksum", "tx-scatter-gather", "tx-generic-segmentation",
	"tx-tcp", "tx-udp-segmentation", "tx-sctp-segmentation", "tx-gso-", "tx-gre-", "tx-ipxip", "tx-udp_tnl-",
	"rx-gro", "rx-udp-gro-forwarding",
}

// SetOffloads turns all that puts frames together or splits them on or off on
// eth0. Off, every frame is what it would be on a wire; that is the default.
func (h *Host) SetOffloads(on bool) error {
	return h.SetFeatures(on, offloads...)
}

// SetFeatures turns the features of eth0 whose names begin with one of the
// prefixes on or off; names as `ethtool -k` in kernel spelling has them
// ("tx-vlan-hw-insert"). What the driver does not let be changed is left alone.
func (h *Host) SetFeatures(on bool, prefixes ...string) (err error) {
	h.Do(func() { err = setFeatures(h.Interface.Name, on, prefixes) })
	if err != nil {
		return fmt.Errorf("offloads of %s: %w", h.Name, err)
	}
	return nil
}

func setFeatures(name string, on bool, prefixes []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names, err := featureNames(fd, name)
	if err != nil {
		return fmt.Errorf("feature names: %w", err)
	}
	// struct ethtool_sfeatures: command, number of blocks, then in each block
	// the mask of features to change and their new values.
	blocks := (len(names) + featuresPerBlock - 1) / featuresPerBlock
	req := make([]uint32, 2+featureBlockSizeLen*blocks)
	req[0], req[1] = ethtoolSetFeatures, uint32(blocks)
	for i, feature := range names {
		if !hasPrefix(feature, prefixes) {
			continue
		}
		at, bit := 2+featureBlockSizeLen*(i/featuresPerBlock), uint32(1)<<(i%featuresPerBlock)
		req[at] |= bit
		if on {
			req[at+1] |= bit
		}
	}
	if err := ethtool(fd, name, unsafe.Pointer(&req[0])); err != nil {
		return fmt.Errorf("set features: %w", err)
	}
	return nil
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// featureNames are the kernel's features in the order of their bits.
func featureNames(fd int, name string) ([]string, error) {
	var info struct {
		cmd, reserved uint32
		mask          uint64
		size          uint32
		_             uint32
	}
	info.cmd, info.mask = ethtoolGetSetInfo, 1<<featureStrings
	if err := ethtool(fd, name, unsafe.Pointer(&info)); err != nil {
		return nil, err
	}
	var strs struct {
		cmd, set, size uint32
		data           [maxFeatures * featureStringLen]byte
	}
	if info.size > maxFeatures {
		return nil, fmt.Errorf("%d features: more than %d", info.size, maxFeatures)
	}
	strs.cmd, strs.set, strs.size = ethtoolGetStrings, featureStrings, info.size
	if err := ethtool(fd, name, unsafe.Pointer(&strs)); err != nil {
		return nil, err
	}
	names := make([]string, info.size)
	for i := range names {
		names[i] = unix.ByteSliceToString(strs.data[i*featureStringLen : (i+1)*featureStringLen])
	}
	return names, nil
}

// ethtool is ioctl(SIOCETHTOOL) with data, which begins with a command.
func ethtool(fd int, name string, data unsafe.Pointer) error {
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	req.data = data
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&req)
	if errno != 0 {
		return errno
	}
	return nil
}
