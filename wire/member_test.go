package wire

import (
	"net/netip"
	"testing"
)

func TestMembership(t *testing.T) {
	for _, group := range []string{"239.1.2.3", "ff05::12", "::ffff:239.1.2.3"} {
		want := netip.MustParseAddr(group)
		r := Membership(7, want)
		if got := r.DstAddr(); got != want.Unmap() || r.Flags&Member == 0 || r.Time != 7 || r.EndsMemberships() || r.IsTraffic() {
			t.Errorf("%v: %+v", want, r)
		}
	}
	if r := Memberships(7, 3); !r.EndsMemberships() || r.Length != 3 || r.Flags&Member == 0 || r.IsTraffic() {
		t.Errorf("%+v", r)
	}
}
