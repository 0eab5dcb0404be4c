package wire

import (
	"sync"
	"sync/atomic"
)

// Reason identifies why a packet was dropped. Its name is the Linux kernel's, such as
// NETFILTER_DROP or QDISC_DROP (enum skb_drop_reason without its prefix). The number is
// valid in this process only, so encodings carry the name. 0 means that the reason is
// unknown.
type Reason uint16

// ReasonSize is the maximum length of a reason's name, in bytes.
const ReasonSize = 32

// maxReasons bounds the number of names, whatever agents send. The kernel has 130.
const maxReasons = 1024

var reasons = struct {
	sync.RWMutex
	byName map[string]Reason
	names  atomic.Pointer[[]string]
}{byName: map[string]Reason{"": 0}}

// OtherReason replaces invalid names, and new names once there are too many.
const OtherReason = "OTHER"

func init() {
	reasons.names.Store(&[]string{""})
	ReasonNamed([]byte(OtherReason))
}

// ReasonNamed returns the reason with this name. A name that is too long or not
// printable ASCII, or a new name once there are 1,024, becomes [OtherReason].
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

// String returns the name of the reason, or "" if it is unknown.
func (r Reason) String() string {
	if names := *reasons.names.Load(); int(r) < len(names) {
		return names[r]
	}
	return OtherReason
}
