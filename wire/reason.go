package wire

import (
	"sync"
	"sync/atomic"
)

// Reason is why a packet was dropped, by a name such as the Linux kernel's
// NETFILTER_DROP or QDISC_DROP (enum skb_drop_reason without its prefix). The number is
// valid in this process only: formats carry the name. 0 is an unknown reason.
type Reason uint16

// ReasonSize is how long the name of a reason may be, bytes.
const ReasonSize = 32

// maxReasons bounds how many names there can be, whatever agents send. The kernel has 130.
const maxReasons = 1024

var reasons = struct {
	sync.RWMutex
	byName map[string]Reason
	names  atomic.Pointer[[]string]
}{byName: map[string]Reason{"": 0}}

// OtherReason is the name of what is not a name, or one too many.
const OtherReason = "OTHER"

func init() {
	reasons.names.Store(&[]string{""})
	ReasonNamed([]byte(OtherReason))
}

// ReasonNamed returns the reason of this name. A name that is too long or has bytes other
// than printable ASCII, and any new one after 1,024, is [OtherReason].
func ReasonNamed[T string | []byte](name T) Reason {
	reasons.RLock()
	r, ok := reasons.byName[string(name)]
	reasons.RUnlock()
	if ok {
		return r
	}
	return addReason(string(name))
}

func addReason(name string) Reason {
	reasons.Lock()
	defer reasons.Unlock()
	names := *reasons.names.Load()
	if r, ok := reasons.byName[name]; ok {
		return r
	}
	if !printable(name) || len(name) > ReasonSize || len(names) >= maxReasons {
		return reasons.byName[OtherReason]
	}
	r := Reason(len(names))
	names = append(names[:len(names):len(names)], name)
	reasons.names.Store(&names)
	reasons.byName[name] = r
	return r
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// String returns the name, "" for an unknown reason.
func (r Reason) String() string {
	if names := *reasons.names.Load(); int(r) < len(names) {
		return names[r]
	}
	return OtherReason
}
