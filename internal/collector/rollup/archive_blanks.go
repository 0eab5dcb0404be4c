package rollup

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// blankLog is the file blanks.jsonl of an archive, with a line for each time in which a
// host's agent was not watching. A Blank has one line without an end when it begins,
// and another when it is over.
type blankLog struct {
	mu   sync.Mutex
	due  []blankLine // not written yet
	file *os.File
}

type blankLine struct {
	Label   string `json:"label"`
	Address string `json:"address,omitempty"`
	From    int64  `json:"from"`
	// To is 0 until the Blank is over. Otherwise the Blank lasts until the run ends.
	To      int64 `json:"to,omitempty"`
	Partial bool  `json:"partial,omitempty"`
}

const blanksFile = "blanks.jsonl"

// openBlanks reads the blanks written by earlier runs; oldest is the first second of
// interest. The file is rewritten without earlier ones.
func openBlanks(dir string, n *names, runs []Run, oldest int64) (l *blankLog, blanks [][]Blank, err error) {
	path := filepath.Join(dir, blanksFile)
	lines, err := readBlanks(path)
	if err != nil {
		return nil, nil, err
	}
	var kept []byte
	for i, line := range lines {
		if line.To == 0 && !blankEnds(lines[i+1:], line) {
			line.To = endOfRun(runs, line.From)
		}
		host := n.host(Host{Label: line.Label, Address: line.Address})
		if line.To <= max(line.From, oldest) || host == unknown {
			continue
		}
		for int(host) >= len(blanks) {
			blanks = append(blanks, nil)
		}
		blanks[host] = insertBlank(blanks[host], Blank{Run{line.From, line.To}, line.Partial})
		text, _ := json.Marshal(line) // strings and numbers can always be encoded
		kept = append(append(kept, text...), '\n')
	}
	if err := os.WriteFile(path+".new", kept, 0o640); err != nil {
		return nil, nil, err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, nil, err
	}
	l = &blankLog{}
	l.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	return l, blanks, err
}

func readBlanks(path string) (list []blankLine, err error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var l blankLine
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.From > 0 { // skips truncated lines
			list = append(list, l)
		}
	}
	return list, nil
}

// blankEnds reports whether one of the later lines ends l.
func blankEnds(later []blankLine, l blankLine) bool {
	return slices.ContainsFunc(later, func(m blankLine) bool {
		return m.Label == l.Label && m.Address == l.Address && m.To != 0 && m.From <= l.From && m.To >= l.From
	})
}

// endOfRun returns when the run that contains t ended.
func endOfRun(runs []Run, t int64) int64 {
	for i, r := range runs {
		if t < r.To {
			return r.To
		}
		if i+1 == len(runs) || t < runs[i+1].From {
			return max(r.To, t+1)
		}
	}
	return t + 1
}

// insertBlank adds a Blank; one that has grown replaces its earlier version.
func insertBlank(list []Blank, b Blank) []Blank {
	if n := len(list); n > 0 && list[n-1].Partial == b.Partial && b.From <= list[n-1].To {
		list[n-1].From, list[n-1].To = min(list[n-1].From, b.From), max(list[n-1].To, b.To)
		return list
	}
	return append(list, b)
}

// note keeps what is to be written.
func (l *blankLog) note(h Host, b Blank) {
	line := blankLine{Label: h.Label, Address: h.Address, From: b.From, To: b.To, Partial: b.Partial}
	if b.To == forever {
		line.To = 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.due); n > 0 && line.Partial && l.due[n-1].Partial && l.due[n-1].Label == h.Label &&
		l.due[n-1].Address == h.Address && line.From <= l.due[n-1].From {
		l.due[n-1] = line // it has grown in the meantime
		return
	}
	l.due = append(l.due, line)
}

// write writes the queued lines; failed writes are retried.
func (l *blankLog) write() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.due) == 0 {
		return nil
	}
	text := []byte{'\n'} // terminates a truncated line
	for _, line := range l.due {
		t, _ := json.Marshal(line)
		text = append(append(text, t...), '\n')
	}
	if _, err := l.file.Write(text); err != nil {
		return err
	}
	l.due = nil
	return nil
}
