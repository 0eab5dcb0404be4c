package keep

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/spool"
)

// openSpool opens the queue in which batches wait while the bus is away.
func (k *Keeper) openSpool() (err error) {
	cfg := &k.cfg.Spool
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return err
	}
	if k.spool, err = spool.OpenDir(cfg.Dir); err == nil {
		k.queue, err = k.spool.Open(spool.Config{Name: "bus", Size: cfg.Size, Say: k.cfg.Say})
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("-spool: cannot use %q: %w", cfg.Dir, err)
	switch {
	case errors.Is(err, spool.ErrInUse):
		return fault.WithHint(err, "each collector needs a directory of its own")
	case errors.Is(err, os.ErrNotExist):
		return fault.WithHint(err, "make the directory above it first")
	}
	return fault.WithHint(err, "-spool DIR:SIZE wants a directory that recollect may write to")
}

// waiting describes what the publisher has not delivered, in a few words.
func (k *Keeper) waiting() string {
	s := k.publisher.Status()
	if k.queue == nil {
		return fmt.Sprintf("%d waiting, %d dropped", s.Published-s.Acknowledged-s.Dropped, s.Dropped)
	}
	q := k.queue.Status()
	text := fmt.Sprintf("%d packets waiting in the spool, %d dropped in all its runs", q.Waiting.Weight, q.Dropped.Weight+s.Dropped)
	if q.Failing != "" {
		text += ", its disk: " + q.Failing
	}
	return text
}
