package iface

import (
	"net/netip"
	"slices"
)

// List returns all interfaces of the namespace, by index.
func List() ([]Interface, error) {
	k, err := dial()
	if err != nil {
		return nil, err
	}
	defer k.close()
	return k.list()
}

// ByName returns the interface with this name or alternative name. If there is none,
// the error is a *NotFoundError.
func ByName(name string) (Interface, error) {
	list, err := List()
	if err != nil {
		return Interface{}, err
	}
	return find(list, name)
}

func find(list []Interface, name string) (Interface, error) {
	i := slices.IndexFunc(list, func(i Interface) bool { return i.named(name) })
	if i < 0 {
		return Interface{}, &NotFoundError{Name: name, Have: names(list)}
	}
	return list[i], nil
}

func names(list []Interface) []string {
	have := make([]string, len(list))
	for n, i := range list {
		have[n] = i.Name
	}
	return have
}

// LocalAddrs returns every address of every interface of the namespace, sorted, without
// duplicates. To follow changes, see Watcher.LocalAddrs.
func LocalAddrs() ([]netip.Addr, error) {
	list, err := List()
	if err != nil {
		return nil, err
	}
	return localAddrs(list), nil
}

func localAddrs(list []Interface) []netip.Addr {
	var addrs []netip.Addr
	for _, i := range list {
		for _, p := range i.Addrs {
			addrs = append(addrs, p.Addr())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
