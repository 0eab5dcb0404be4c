package keep

import (
	"time"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

// Account returns the Keeper's part of the ledger. It may be called concurrently, even
// after Run.
func (k *Keeper) Account() (list []ledger.Entry) {
	if k.local != nil {
		list = append(list, k.accountLocal())
	}
	if k.publisher != nil {
		list = append(list, k.accountPublisher())
	}
	if k.writer != nil {
		list = append(list, accountWriter("history", k.writer.Status()))
	}
	if k.store != nil {
		list = append(list, accountFiles("", ledger.Writer+" history", k.store)...)
	}
	if k.tables != nil {
		list = append(list, accountWriter("table", k.tables.Status()))
	}
	return list
}

// accountLocal accounts for a history without a bus: from batches, via the queue, to
// committed files.
func (k *Keeper) accountLocal() ledger.Entry {
	w, q := k.local.Status(), k.queue.Status()
	e := ledger.Entry{
		Stage: ledger.Writer, Name: "history", Unit: "records", Source: ledger.Detail,
		Received: w.Published + k.before.Waiting.Weight, Earlier: k.before.Waiting.Weight, Passed: w.Written + w.Skipped, Held: q.Waiting.Weight,
	}
	e.Lose("queue full or not writable", q.Dropped.Weight-k.before.Dropped.Weight)
	e.Lose("not queued", w.Refused)
	e.Lose("malformed", w.Malformed)
	e.As = []ledger.Amount{{Unit: "rows", Count: w.Written + w.Settled}}
	return e
}

// accountPublisher accounts for batches, via the spool or memory, to the bus.
func (k *Keeper) accountPublisher() ledger.Entry {
	ended := k.ended.Load()
	s := k.publisher.Status()
	e := ledger.Entry{Stage: ledger.Bus, Unit: "packets", Source: ledger.Detail, Received: s.PublishedPackets, Passed: s.Packets, Held: s.WaitingPackets}
	if k.queue == nil {
		e.Lose("queue full", s.DroppedPackets)
		if ended {
			e.Lose("not taken before the end", e.Held)
			e.Held = 0
		}
		return e
	}
	q := k.queue.Status()
	e.Earlier = k.before.Waiting.Weight
	e.Received += e.Earlier
	e.Held = q.Waiting.Weight
	e.Lose("spool full or not writable", q.Dropped.Weight-k.before.Dropped.Weight)
	e.Lose("not queued", s.DroppedPackets)
	return e
}

// accountWriter accounts for records from a bus to committed files, or a table. Missing
// records count as lost as soon as later ones have arrived, until they arrive.
func accountWriter(name string, s bus.WriterStatus) ledger.Entry {
	e := ledger.Entry{
		Stage: ledger.Writer, Name: name, Unit: "records",
		Received: s.Read - s.Again + s.Missing, Passed: s.Records + s.Duplicates, Held: s.Open,
	}
	e.Lose("numbered and not arrived", s.Missing)
	e.As = []ledger.Amount{{Unit: "rows", Count: s.Records}}
	return e
}

// accountFiles is of the files of a history, or a table: what retention has removed was passed on, to
// nobody. Source is the entry that the rows come from, or "".
func accountFiles(name, source string, s *history.Store) []ledger.Entry {
	c, err := s.Count()
	if err != nil {
		return nil // its health reports the error
	}
	e := ledger.Entry{
		Stage: ledger.Files, Name: name, Unit: "rows", Source: source,
		Received: c.AtOpen + c.Committed, Earlier: c.AtOpen + c.Recovered, Passed: c.Retired, Held: c.Held,
	}
	e.Lose("removed by others", c.Removed)
	return []ledger.Entry{e}
}

// Health returns the health of the Keeper's stages; absent stages have no entry. It may
// be called concurrently.
func (k *Keeper) Health() (list []ledger.Health) {
	s := k.Status()
	add := func(stage, name, why string, since time.Time) {
		list = append(list, ledger.Health{Stage: stage, Name: name, Failing: why, Since: since})
	}
	if s.Connected != nil {
		why := ""
		if !*s.Connected {
			why = "the bus is away"
		}
		add(ledger.Bus, "", why, time.Time{})
	}
	if s.Spool != nil {
		add(ledger.Bus, "queue on disk", s.Spool.Failing, time.Time{})
		list[len(list)-1].Oldest = s.Spool.Since
		if s.Local != nil {
			list[len(list)-1].Stage = ledger.Writer
		}
	}
	if s.Local != nil {
		add(ledger.Writer, "history", s.Local.Failed, s.Local.Since)
		list[len(list)-1].Oldest = s.Local.Oldest
	}
	if s.Writer != nil {
		add(ledger.Writer, "history", s.Writer.Failed, time.Time{})
	}
	if s.Tables != nil {
		add(ledger.Writer, "table", s.Tables.Failed, time.Time{})
	}
	if s.History != nil {
		add(ledger.Files, "", s.History.Failed, time.Time{})
	}
	return list
}
