//go:build !nats

package agent

import (
	"errors"

	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/host/fault"
)

// errNoBus: the client of NATS is 1 MB and five modules, which few agents need.
var errNoBus = errors.New(`this pcapper has no NATS: "make nats" builds pcapper-nats, which has`)

// CheckExport refuses an export that this build has not, or that no
// connection can be made from.
func CheckExport(t *export.Target) error {
	if t.Kind == export.NATS {
		return errNoBus
	}
	return nil
}

func (x *exporting) prepareBus() error { return fault.WithCode(ExitUsage, errNoBus) }
