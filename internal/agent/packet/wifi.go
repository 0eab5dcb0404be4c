package packet

import "encoding/binary"

// IEEE 802.11-2020, section 9.2: the frame control field and what follows.
const (
	wifiHeader    = 24 // of a data frame with three addresses
	wifiData      = 0x08
	wifiQoS       = 0x80
	wifiNoData    = 0x40
	wifiToDS      = 0x01
	wifiFromDS    = 0x02
	wifiMoreFrags = 0x04
	wifiProtected = 0x40
	wifiOrder     = 0x80 // with QoS: there is an HT control field

	wifiAggregate = 0x80 // in the QoS control field: the payload is an A-MSDU
	wifiMesh      = 0x01 // in its second byte: a mesh control field may follow
)

// WiFi holds the fields of an 802.11 data frame's header.
type WiFi struct {
	Source    [6]byte // who created the packet (SA), not who transmitted it
	Header    int     // number of bytes before the payload
	Fragment  bool    // a later fragment: its payload does not begin with a header
	Empty     bool    // no payload, as in power management
	Protected bool    // the payload is encrypted
	Aggregate bool    // the payload is an A-MSDU: several packets
	Mesh      bool    // a mesh control field may precede the payload
}

// ParseWiFi parses the header of an 802.11 data frame. It reports false for frames that
// are not data frames, and for those that end within the header.
func ParseWiFi(b []byte) (w WiFi, ok bool) {
	if len(b) < wifiHeader || b[0]&0x0f != wifiData { // also the version, which is 0
		return w, false
	}
	source := 10
	w.Header = wifiHeader
	switch b[1] & (wifiToDS | wifiFromDS) {
	case wifiFromDS:
		source = 16
	case wifiToDS | wifiFromDS:
		source = 24
		w.Header += 6
	}
	w.Fragment = b[22]&0x0f != 0
	w.Empty = b[0]&wifiNoData != 0
	w.Protected = b[1]&wifiProtected != 0
	qos := w.Header
	if b[0]&wifiQoS != 0 {
		w.Header += 2
		if b[1]&wifiOrder != 0 {
			w.Header += 4
		}
	}
	if len(b) < w.Header {
		return w, false
	}
	if b[0]&wifiQoS != 0 {
		w.Aggregate = b[qos]&wifiAggregate != 0
		w.Mesh = b[qos+1]&wifiMesh != 0
	}
	w.Source = [6]byte(b[source:])
	return w, true
}

// Flags of radiotap.
const (
	radiotapLen     = 8
	radiotapTSFT    = 1 << 0
	radiotapFlags   = 1 << 1
	radiotapMore    = 1 << 31
	radiotapPadding = 0x20 // the payload begins at a multiple of 4 bytes
	radiotapBad     = 0x40 // the frame check sequence is wrong
)

// SkipRadiotap returns the length n of the radiotap header at the beginning of b, or 0
// if it is invalid or incomplete; whether the 802.11 header after it is padded to a
// multiple of 4 bytes; and whether the frame is damaged.
func SkipRadiotap(b []byte) (n int, padded, damaged bool) {
	if len(b) < radiotapLen || b[0] != 0 {
		return 0, false, false
	}
	n = int(binary.LittleEndian.Uint16(b[2:]))
	if n < radiotapLen || n > len(b) {
		return 0, false, false
	}
	present := binary.LittleEndian.Uint32(b[4:])
	at := radiotapLen
	for more := present; more&radiotapMore != 0; at += 4 {
		if at+4 > n {
			return n, false, false
		}
		more = binary.LittleEndian.Uint32(b[at:])
	}
	if present&radiotapTSFT != 0 {
		at = (at+7)&^7 + 8
	}
	if present&radiotapFlags == 0 || at >= n {
		return n, false, false
	}
	return n, b[at]&radiotapPadding != 0, b[at]&radiotapBad != 0
}

// SourceMAC returns the MAC address of the frame's source. It reports false if the link
// type has none, or if it is cut off.
func (f *Frame) SourceMAC() (mac [6]byte, ok bool) {
	b := f.Data
	switch f.Link {
	case Ethernet:
		if len(b) < 12 {
			return mac, false
		}
		return [6]byte(b[6:]), true
	case Radiotap:
		n, _, _ := SkipRadiotap(b)
		if n == 0 {
			return mac, false
		}
		b = b[n:]
	case IEEE80211:
	default:
		return mac, false
	}
	w, ok := ParseWiFi(b)
	return w.Source, ok
}

// HasMAC reports whether frames of a link type begin with MAC addresses.
func (l LinkType) HasMAC() bool { return l == Ethernet || l == IEEE80211 || l == Radiotap }
