package rollup

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// job is a frame that is to be written, and what its numbers stand for.
type job struct {
	tier  int
	frame *frame
	keys  []numbered
	// owners are addresses of hosts, if they have changed.
	owners map[[16]byte]int
	// refilled: there is no frame; a hole is filled up to this second.
	refilled int64
	hole     Hole
}

// offer hands a frame over, without waiting unless wait is set.
func (a *Archive) offer(j job, wait bool) {
	a.handed.Add(1)
	if wait {
		a.jobs <- j
		return
	}
	select {
	case a.jobs <- j:
	default:
		a.shed.Add(1)
	}
}

// beatEvery is how often it is noted that the history is being written, syncEvery
// how often that the disk must have it all.
const (
	beatEvery = 2 * time.Second
	syncEvery = time.Minute
)

// archiveWriter is the part of an Archive that only OpenArchive and Run may touch.
type archiveWriter struct {
	*Archive
	tiers [len(tierSpecs)]archiveTier
	runs  *runLog
	buf   []byte
}

// recoverFiles finds the files that there are, and repairs them. known: all names in them are known, too.
func (w *archiveWriter) recoverFiles(known bool) error {
	for i := range w.tiers {
		if err := w.list(i); err != nil {
			return err
		}
	}
	if !known {
		w.learnNames()
	}
	for i := range w.tiers {
		if err := w.repair(i); err != nil {
			return err
		}
	}
	for i := 1; i < len(w.tiers); i++ {
		w.catchUp(i)
	}
	if t := &w.tiers[0]; len(t.parts) > 0 {
		w.runs.extend(t.last + 1)
	}
	return nil
}

// writeAll writes what the store hands over until the store is closed.
func (w *archiveWriter) writeAll() {
	defer close(w.done)
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	synced := time.Now()
	w.retain()
	for {
		select {
		case j, ok := <-w.jobs:
			if !ok {
				w.end()
				return
			}
			if w.runs.now.From == 0 {
				w.beat(false)
			}
			w.publish(w.write(j))
		case <-beat.C:
			w.beat(false)
		}
		if time.Since(synced) >= syncEvery {
			synced = time.Now()
			w.sync()
		}
	}
}

// beat notes that the history is written at this time.
func (w *archiveWriter) beat(last bool) {
	if now := w.now.Load(); now != 0 {
		_ = w.runs.beat(w.began.Load(), now, w.sealed.Load(), last) // the next one tries again
	}
	_ = w.blankLog.write() // likewise
}

func (w *archiveWriter) end() {
	w.beat(true)
	w.sync()
	for i := range w.tiers {
		w.closeOpen(i)
	}
	w.names.file.Close()
	w.blankLog.file.Close()
	w.runs.file.Close()
}

func (w *archiveWriter) sync() {
	for i := range w.tiers {
		if o := w.tiers[i].open; o != nil {
			_ = o.file.Sync() // what it cannot write, writing will find out
		}
	}
	_ = w.runs.file.Sync()
	_ = w.names.file.Sync()
}

func (w *archiveWriter) closeOpen(i int) {
	if o := w.tiers[i].open; o != nil {
		o.file.Close()
		w.tiers[i].open = nil
	}
}

// write puts a frame of the store's into its tier, and makes the sums that are due.
func (w *archiveWriter) write(j job) error {
	if j.frame == nil {
		if j.refilled == 0 {
			return nil
		}
		return w.runs.heal(j.hole, j.refilled)
	}
	if err := w.names.save(j.owners); err != nil {
		w.refused.Add(1)
		return err
	}
	key := func(id uint32) *entryKey {
		if i, ok := findKey(j.keys, id); ok {
			return &j.keys[i].key
		}
		return nil
	}
	if err := w.put(j.tier, j.frame, key, true); err != nil {
		w.refused.Add(1)
		return err
	}
	w.written.Add(1)
	if j.tier != memoryTiers-1 {
		return nil
	}
	return w.sumUp(j.tier+1, j.frame.start)
}

// put writes a frame. If there is one of the same start, which an earlier run has
// written or one before the clock was set back, both are added up or, if not
// add, it is replaced.
func (w *archiveWriter) put(i int, f *frame, key func(uint32) *entryKey, add bool) error {
	o, err := w.appender(i, f.start)
	if err != nil {
		return err
	}
	if add && o.starts[f.start] {
		if f, key, err = w.join(o.part, f, key); err != nil {
			return err
		}
	}
	if w.buf, err = o.write(w.buf, f, key); err != nil {
		w.closeOpen(i) // its lists have what the file has not
		return err
	}
	t := &w.tiers[i]
	at := slices.IndexFunc(t.parts, func(p part) bool { return p.volume == o.volume })
	t.size += o.size - t.parts[at].size
	t.parts[at].size = o.size
	t.last = max(t.last, f.start)
	return nil
}

// join adds f to what a file has of its span.
func (w *archiveWriter) join(p part, f *frame, key func(uint32) *entryKey) (*frame, func(uint32) *entryKey, error) {
	sum := newGathering()
	c, release, err := w.names.load(p)
	if err != nil {
		return nil, nil, err
	}
	defer release()
	c.loadKeys()
	for _, old := range c.frames {
		if old.start == f.start {
			sum.addFrame(old, c.key)
		}
	}
	sum.addFrame(f, key)
	return sum.frame(f.start, f.span), sum.key, nil
}

// sumUp is told that the tier before has a new frame: what that ends is written
// as a frame of tier i, and so on.
func (w *archiveWriter) sumUp(i int, start int64) error {
	if i == len(w.tiers) {
		return nil
	}
	t := &w.tiers[i]
	from := floorTo(start, tierSpecs[i].span)
	ended, was := t.begun && from != t.current, t.current
	t.begun, t.current = true, from
	if !ended {
		return nil
	}
	if t.due = append(t.due, was); len(t.due) > mostDue {
		t.due = t.due[1:]
	}
	for len(t.due) > 0 {
		was := t.due[0]
		if err := w.build(i, was); err != nil {
			return err
		}
		t.due = t.due[1:]
		if err := w.sumUp(i+1, was); err != nil {
			return err
		}
	}
	return nil
}

// mostDue bounds what is tried again: a week of ten minutes.
const mostDue = 1008

// build makes a frame of those of the tier before.
func (w *archiveWriter) build(i int, start int64) error {
	sum := newGathering()
	w.publish(nil) // each looks at what is published
	w.view.Load().each(i-1, start, start+tierSpecs[i].span, func(f *frame) {
		f.in.loadKeys()
		sum.addFrame(f, f.in.key)
	})
	if sum.frames == 0 {
		return nil
	}
	return w.put(i, sum.frame(start, tierSpecs[i].span), sum.key, false)
}

// catchUp builds what is missing in tier i of what the tier before has: after a
// crash, or if sums could not be written.
func (w *archiveWriter) catchUp(i int) {
	t, finer := &w.tiers[i], &w.tiers[i-1]
	if len(finer.parts) == 0 {
		return
	}
	span := tierSpecs[i].span
	from := floorTo(finer.parts[0].first, span)
	if len(t.parts) > 0 {
		if from = max(from, t.last); from < finer.parts[0].first {
			from += span // the tier before does not have it whole
		}
	}
	for ; from <= finer.last; from += span {
		if w.build(i, from) != nil {
			break // it is tried again at the next start
		}
	}
	if i >= memoryTiers {
		t.begun, t.current = true, floorTo(finer.last, span)
	}
	w.closeOpen(i)
}

// gathering adds up frames of several files.
type gathering struct {
	tally  *tally
	dir    *directory
	frames int
}

func newGathering() *gathering { return &gathering{tally: newTally(), dir: newDirectory()} }

func (g *gathering) key(id uint32) *entryKey {
	if i, ok := g.dir.find(id); ok {
		return &g.dir.keys[i].key
	}
	return nil
}

func (g *gathering) addFrame(f *frame, key func(uint32) *entryKey) {
	g.frames++
	g.tally.addRenumbered(f, key, g.dir.id)
}

func (g *gathering) frame(start, span int64) *frame {
	most := mostEntries
	g.tally.prune(&most)
	f, _ := g.tally.pack(start, span, nil)
	return f
}

// appender writes to one volume.
type appender struct {
	part
	names  *names
	file   *os.File
	last   int64
	starts map[int64]bool
	hosts  map[uint32]uint32 // the store's numbers -> the file's
	rows   map[uint32]uint32
	ids    map[entryKey]uint32 // in the store's numbers
	// Lists that the file does not have yet.
	newHosts, newRows, newKeys []byte
	nhosts, nrows, nkeys       uint32
}

// maxVolumeKeys is when another file is begun, so that the lists of keys stay
// small.
const maxVolumeKeys = 1 << 15

// appender is the file that a frame belongs into: the one that is open, an older
// one, or a new one.
func (w *archiveWriter) appender(i int, start int64) (*appender, error) {
	t := &w.tiers[i]
	at, found := slices.BinarySearchFunc(t.parts, start, func(p part, t int64) int { return int(p.first - t) })
	if !found {
		at--
	}
	length := tierSpecs[i].span * tierSpecs[i].disk.frames
	if at >= 0 && (found || floorTo(t.parts[at].first, length) == floorTo(start, length)) {
		o, err := w.reopen(i, t.parts[at])
		if err != nil || start <= o.last || o.nkeys < maxVolumeKeys {
			return o, err
		}
	}
	return w.create(i, at+1, start)
}

// reopen goes on with a volume.
func (w *archiveWriter) reopen(i int, p part) (*appender, error) {
	t := &w.tiers[i]
	if t.open != nil && t.open.volume == p.volume {
		return t.open, nil
	}
	w.closeOpen(i)
	c, release, err := w.names.load(p)
	if err != nil {
		return nil, err
	}
	defer release()
	if c.size < p.size {
		w.damaged.Add(1)
		if err := os.Truncate(p.path, c.size); err != nil {
			return nil, err
		}
	}
	o := newAppender(w.names, p)
	o.size = c.size
	c.loadKeys()
	o.read(c)
	if o.file, err = os.OpenFile(p.path, os.O_WRONLY, 0); err != nil {
		return nil, err
	}
	t.open = o
	return o, nil
}

func newAppender(n *names, p part) *appender {
	return &appender{
		part: p, names: n, starts: make(map[int64]bool), hosts: make(map[uint32]uint32),
		rows: make(map[uint32]uint32), ids: make(map[entryKey]uint32),
	}
}

// read learns what the file has.
func (o *appender) read(c *contents) {
	for i, host := range c.hosts {
		o.hosts[host] = uint32(i)
	}
	for i, row := range c.rows {
		o.rows[row] = uint32(i)
	}
	o.nhosts, o.nrows, o.nkeys = uint32(len(c.hosts)), uint32(len(c.rows)), uint32(len(c.keys))
	for id, k := range c.keys {
		o.ids[k] = uint32(id)
	}
	for _, f := range c.frames {
		o.starts[f.start] = true
		o.last = f.start
	}
}

// create begins a volume, as the tier's part number at.
func (w *archiveWriter) create(i, at int, start int64) (*appender, error) {
	w.closeOpen(i)
	path := filepath.Join(w.tierDir(i), time.Unix(start, 0).UTC().Format(fileTime))
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, err
	}
	if _, err = file.WriteString(volumeMagic); err != nil {
		file.Close()
		os.Remove(path)
		return nil, err
	}
	o := newAppender(w.names, part{&volume{path, start}, int64(len(volumeMagic))})
	o.file, o.last = file, start-1
	t := &w.tiers[i]
	t.parts = slices.Insert(slices.Clone(t.parts), at, o.part)
	t.size += o.size
	if len(t.parts) == 1 {
		t.last = start
	}
	t.open = o
	w.retain()
	return o, nil
}

// write adds a frame and what the file's lists lack for it. After an error the
// file is as long as before.
func (o *appender) write(buf []byte, f *frame, key func(uint32) *entryKey) ([]byte, error) {
	named := newTally()
	named.addRenumbered(f, key, o.id)
	o.rename(named)
	f, _ = named.pack(f.start, f.span, nil)
	b := buf[:0]
	for _, list := range [...]struct {
		kind byte
		text *[]byte
	}{{hostsBlock, &o.newHosts}, {rowsBlock, &o.newRows}, {keysBlock, &o.newKeys}} {
		if len(*list.text) > 0 {
			b = appendBlock(b, list.kind, func(b []byte) []byte { return append(b, *list.text...) })
			*list.text = (*list.text)[:0]
		}
	}
	b = appendBlock(b, frameBlock, f.appendTo)
	if _, err := o.file.WriteAt(b, o.size); err != nil {
		_ = o.file.Truncate(o.size) // if it does not work either, the end is cut off at the next start
		return b, err
	}
	o.size += int64(len(b))
	o.starts[f.start] = true
	o.last = max(o.last, f.start)
	return b, nil
}

// rename gives t's hosts and rows the file's numbers.
func (o *appender) rename(t *tally) {
	rows, cells := maps.Clone(t.rows), maps.Clone(t.cells)
	clear(t.rows)
	clear(t.cells)
	for k, c := range rows {
		k.row = o.row(k.row)
		t.rows[k] = t.rows[k].Plus(c)
	}
	for k, c := range cells {
		k.host, k.row = o.host(k.host), o.row(k.row)
		t.cells[k] = t.cells[k].Plus(c)
	}
}

func (o *appender) host(host uint32) uint32 {
	n, ok := o.hosts[host]
	if !ok {
		n = o.nhosts
		o.nhosts++
		o.hosts[host] = n
		h := o.names.at(host)
		o.newHosts = appendString(appendString(o.newHosts, h.Label), h.Address)
	}
	return n
}

func (o *appender) row(row uint32) uint32 {
	if row == allRows {
		return row
	}
	n, ok := o.rows[row]
	if !ok {
		n = o.nrows
		o.nrows++
		o.rows[row] = n
		r := o.names.rowAt(row)
		o.newRows = appendString(appendString(o.newRows, r.Name), r.Detail)
	}
	return n
}

func (o *appender) id(k *entryKey) uint32 {
	id, ok := o.ids[*k]
	if !ok {
		id = o.nkeys
		o.nkeys++
		o.ids[*k] = id
		named := *k
		named.host = o.host(k.host)
		if k.kind == talks {
			named.row = o.row(k.row)
		}
		o.newKeys = appendKey(o.newKeys, &named)
	}
	return id
}

// retain gives up what is too old, and then, while the archive is too large, the
// oldest of the tier that has most beyond its share. A file goes once no
// snapshot knows it any more.
func (w *archiveWriter) retain() {
	now := w.now.Load()
	total := int64(0)
	for i := range w.tiers {
		keep := int64(w.cfg.Keep / time.Second)
		if own := tierSpecs[i].disk.keep; own != 0 {
			keep = min(keep, own)
		}
		t := &w.tiers[i]
		for now != 0 && t.canDrop() && t.parts[1].first <= now-keep {
			t.dropOldest()
		}
		total += t.size
	}
	for total > w.cfg.Size {
		t := w.largest()
		if t == nil {
			return
		}
		total -= t.parts[0].size
		t.dropOldest()
	}
}

// largest is the tier that has most beyond its share, of those that can give up
// a file.
func (w *archiveWriter) largest() (largest *archiveTier) {
	most := int64(0)
	for i := range w.tiers {
		t := &w.tiers[i]
		over := t.size - w.cfg.Size*tierSpecs[i].disk.share/100
		if t.canDrop() && (largest == nil || over > most) {
			largest, most = t, over
		}
	}
	return largest
}

// canDrop: there is more than one file, and the first is not being written.
func (t *archiveTier) canDrop() bool {
	return len(t.parts) > 1 && (t.open == nil || t.open.volume != t.parts[0].volume)
}

func (t *archiveTier) dropOldest() {
	p := t.parts[0]
	t.parts = slices.Clone(t.parts[1:])
	t.size -= p.size
	runtime.AddCleanup(p.volume, func(path string) { os.Remove(path) }, p.path)
}

// archiveTier is the files of one tier.
type archiveTier struct {
	parts   []part // by their first frames, whose spans do not overlap
	open    *appender
	size    int64
	last    int64 // start of the latest frame; valid iff parts is not empty
	current int64 // start of the span, of a tier that is made of another, that is not over
	begun   bool  // current is valid
	// due are spans that are over, but could not be written.
	due []int64
}

// list finds a tier's files.
func (w *archiveWriter) list(i int) error {
	dir := w.tierDir(i)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	t := &w.tiers[i]
	for _, e := range entries {
		first, err := time.Parse(fileTime, e.Name())
		info, statErr := e.Info()
		if err != nil || statErr != nil || !strings.HasSuffix(e.Name(), ".roll") {
			continue // not ours
		}
		t.parts = append(t.parts, part{&volume{filepath.Join(dir, e.Name()), first.Unix()}, info.Size()})
		t.size += info.Size()
	}
	slices.SortFunc(t.parts, func(a, b part) int { return int(a.first - b.first) })
	return nil
}

// learnNames reads all files, for an archive whose list of names is gone.
func (w *archiveWriter) learnNames() {
	for i := range w.tiers {
		for _, p := range w.tiers[i].parts {
			buf, err := readFile(nil, p)
			if err != nil || len(buf) < len(volumeMagic) {
				continue
			}
			kind, payload, rest, ok := nextBlock(buf[len(volumeMagic):])
			for ; ok; kind, payload, rest, ok = nextBlock(rest) {
				u := unpacker{payload}
				for len(u.b) > 0 && kind == hostsBlock {
					w.names.rememberHost(Host{Label: u.string(), Address: u.string()})
				}
				for len(u.b) > 0 && kind == rowsBlock {
					w.names.rememberRow(Row{Name: u.string(), Detail: u.string()})
				}
			}
		}
	}
}

// repair finds out what the newest file of a tier has, and cuts off what is not
// whole: only there may somebody have been writing.
func (w *archiveWriter) repair(i int) error {
	t := &w.tiers[i]
	for n := len(t.parts) - 1; n >= 0; n-- {
		p := &t.parts[n]
		c, release, err := w.names.load(*p)
		if err != nil || len(c.frames) == 0 {
			if err == nil {
				release()
			}
			w.setAside(p.path, err)
			t.size -= p.size
			t.parts = t.parts[:n]
			continue
		}
		t.last = c.frames[len(c.frames)-1].start
		whole := c.size
		release()
		if whole == p.size {
			return nil
		}
		w.damaged.Add(1)
		t.size -= p.size - whole
		p.size = whole
		return os.Truncate(p.path, whole)
	}
	return nil
}

// setAside renames what is no file of ours, or has nothing in it.
func (w *archiveWriter) setAside(path string, err error) {
	if err == nil {
		os.Remove(path)
		return
	}
	w.damaged.Add(1)
	os.Rename(path, path+".bad")
}

// publish makes what is written visible to the next snapshot. err is what came of
// the last write.
func (w *archiveWriter) publish(err error) {
	v := &archived{archive: w.Archive, owners: w.names.owners}
	v.runs = w.runs.past
	for i := range w.tiers {
		t := &w.tiers[i]
		to := &v.tiers[i]
		to.parts, to.last, to.current, to.begun = slices.Clone(t.parts), t.last, t.current, t.begun
		v.status.Size += t.size
	}
	v.status.Dir, v.status.Most, v.status.Cut = w.cfg.Dir, w.cfg.Size, w.runs.cut
	v.status.Err, v.status.Full = failure(err)
	w.view.Store(v)
}
