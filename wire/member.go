package wire

import "net/netip"

// An agent reports all multicast groups of its interface whenever they change, and
// now and then: a record for each group, then one that says how many these were. All
// of them have the same time.

// Membership is the record that says that the observed interface was a member of a
// multicast group at t (nanoseconds since the epoch): Dst is the group.
func Membership(t int64, group netip.Addr) Record {
	r := Record{Time: t, Dst: group.Unmap().As16(), Proto: ProtoIGMP, Flags: Member | Incoming}
	if group.Is4() || group.Is4In6() {
		r.Src = mapped([4]byte{})
	} else {
		r.Proto = ProtoICMPv6
		r.Flags |= IPv6
	}
	return r
}

// Memberships is the record that ends a list of groups: n of them have the time t.
// Who has received as many knows that the interface is a member of no other one. Dst
// is the unspecified IPv4 address, Length is n.
func Memberships(t int64, n int) Record {
	return Record{Time: t, Src: mapped([4]byte{}), Dst: mapped([4]byte{}), Length: uint32(n), Proto: ProtoIGMP, Flags: Member | Incoming}
}

// EndsMemberships reports whether r, which has the flag Member, is one of Memberships.
func (r *Record) EndsMemberships() bool { return r.Flags&IPv6 == 0 && r.Dst == mapped([4]byte{}) }
