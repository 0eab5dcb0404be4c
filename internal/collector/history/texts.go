package history

import "net/netip"

// texts caches addresses as text: few addresses occur often.
type texts struct{ v4, v6 map[[16]byte]string }

// maxTexts bounds each map; a full one is emptied.
const maxTexts = 1 << 16

func newTexts() *texts {
	return &texts{v4: make(map[[16]byte]string), v6: make(map[[16]byte]string)}
}

// addr returns an address of a record as text. IPv6 addresses that contain IPv4 ones
// stay IPv6.
func (t *texts) addr(a *[16]byte, v6 bool) string {
	m := t.v4
	if v6 {
		m = t.v6
	}
	if s, ok := m[*a]; ok {
		return s
	}
	if len(m) >= maxTexts {
		clear(m)
	}
	addr := netip.AddrFrom16(*a)
	if !v6 {
		addr = netip.AddrFrom4([4]byte(a[12:]))
	}
	s := addr.String()
	m[*a] = s
	return s
}
