package wire

import "net/netip"

// Whenever the multicast groups of its interface change, and periodically, an agent
// reports all of them: one record per group, then one record with their number. All of
// these records have the same time.

// Membership returns the record which says that the observed interface was a member of
// a multicast group at t (nanoseconds since the epoch). Its Dst is the group.
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

// Memberships returns the record that ends a list of n groups with the time t. A
// receiver that has all n knows that the interface is a member of no other group. Dst
// is the unspecified IPv4 address, and Length is n.
func Memberships(t int64, n int) Record {
	return Record{Time: t, Src: mapped([4]byte{}), Dst: mapped([4]byte{}), Length: uint32(n), Proto: ProtoIGMP, Flags: Member | Incoming}
}

// EndsMemberships reports whether r, which has the flag Member, ends a list of groups
// as [Memberships] does.
func (r *Record) EndsMemberships() bool { return r.Flags&IPv6 == 0 && r.Dst == mapped([4]byte{}) }
