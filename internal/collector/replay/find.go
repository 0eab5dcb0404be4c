package replay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/pcapper/pcapper/internal/host/filetype"
	"github.com/pcapper/pcapper/wire"
)

// File is an agent's log.
type File struct {
	Label string // name of the host, derived from the path
	Path  string
}

// Find returns the logs named by paths: files, and all logs in and below directories,
// in path order. skipped are files in directories that are not logs. It is an error if
// a file named directly is not a log, or if there are no logs at all.
func Find(paths []string) (files []File, skipped []string, err error) {
	var found []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot replay %q: %w", path, reason(err))
		}
		if !info.IsDir() {
			if err := sniff(path); err != nil {
				return nil, nil, fmt.Errorf("cannot replay %q: %w", path, err)
			}
			found = append(found, path)
			continue
		}
		logs, others, err := search(path)
		if err != nil {
			return nil, nil, err
		}
		found, skipped = append(found, logs...), append(skipped, others...)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	if len(found) == 0 {
		return nil, skipped, fmt.Errorf("no agent's log in %s: want files with lines time:src:port:dst:port:length:flow:protocol, as pcapper -f writes them%s",
			strings.Join(paths, ", "), example(skipped))
	}
	for i, label := range labels(found) {
		files = append(files, File{Label: label, Path: found[i]})
	}
	return files, skipped, nil
}

// example describes one of the files that are not logs, if its type is known.
func example(skipped []string) string {
	for _, path := range skipped {
		if err, ok := errors.AsType[*foreignError](sniff(path)); ok {
			return fmt.Sprintf("; %s: %v", path, err)
		}
	}
	return ""
}

// search looks for logs in a directory. Hidden and empty files are silently ignored.
func search(dir string) (logs, others []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot replay %q: %w", path, reason(err))
		}
		if strings.HasPrefix(d.Name(), ".") && path != dir {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := os.Stat(path) // follows symbolic links
		if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
			return nil
		}
		if sniff(path) == nil {
			logs = append(logs, path)
		} else {
			others = append(others, path)
		}
		return nil
	})
	return logs, others, err
}

// sniffed is how much of a file is inspected to recognize a log.
const sniffed = 64 << 10

// sniff returns an error if the file is not a log. A file that is empty, or contains
// only the beginning of a line, may become one.
func sniff(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return reason(err)
	}
	defer f.Close()
	in, _, parse, err := unpack(f)
	if err != nil {
		return err
	}
	head, err := io.ReadAll(io.LimitReader(in, sniffed))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && len(head) == 0 {
		return reason(err)
	}
	if err := foreign(path, head); err != nil {
		return err
	}
	var first error
	whole := head[:bytes.LastIndexByte(head, '\n')+1]
	for line := range bytes.Lines(whole) {
		var r wire.Record
		err := parse(line, &r)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil && len(head) > wire.MaxLine {
		return errors.New("no log lines in it")
	}
	if first != nil {
		return fmt.Errorf("no log lines in it; the first line: %w", first)
	}
	return nil
}

// foreign returns an error with the type of a file that begins with head, and the
// command to use instead, or nil if the type is unknown.
func foreign(path string, head []byte) error {
	t := filetype.Of(head)
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	toLog := func(command string) error {
		return &foreignError{fmt.Sprintf("it is %s: to make a log of it: %s >%s", t.Name, command,
			filetype.Quote(strings.TrimSuffix(name, ".log")+".log"))}
	}
	switch {
	case t.Kind == filetype.Capture:
		return toLog("pcapper -read " + filetype.Quote(path))
	case t.Kind == filetype.Foreign, t.Kind == filetype.Packed && isCaptureName(name):
		return toLog(t.Command(path) + " | pcapper -read -")
	case t.Kind == filetype.Packed:
		return &foreignError{fmt.Sprintf("it is %s: to unpack it: %s >%s", t.Name, t.Command(path), filetype.Quote(name))}
	}
	return nil
}

// isCaptureName reports whether the file name is that of a capture file.
func isCaptureName(name string) bool {
	return slices.Contains([]string{".pcap", ".pcapng", ".cap"}, filepath.Ext(name))
}

// foreignError describes a file that is not a log.
type foreignError struct{ text string }

func (e *foreignError) Error() string { return e.text }

// unpack returns the text of f, which may be compressed with gzip, and the parser for
// its lines.
func unpack(f io.Reader) (in *bufio.Reader, packed bool, parse parser, err error) {
	in = bufio.NewReaderSize(f, readSize)
	magic, _ := in.Peek(2)
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) { // RFC 1952, 2.3.1
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, true, nil, fmt.Errorf("gzip: %w", err)
		}
		in, packed = bufio.NewReaderSize(z, readSize), true
	}
	if peekIPFIX(in) {
		return bufio.NewReaderSize(&unwrap{in: in}, readSize), true, rewrapped(), nil
	}
	return in, packed, wire.ParseLine, nil
}

// rotation matches what logrotate(8) appends to the name of a log.
var rotation = regexp.MustCompile(`(\.[0-9]{1,4}|-[0-9]{8})$`)

// stem returns a name without the parts that mark it as a log, and as which piece of
// one.
func stem(name string) string {
	name = strings.TrimSuffix(name, ".gz")
	name = rotation.ReplaceAllString(name, "")
	for _, suffix := range []string{".log", ".txt", ".conf", ".ipfix"} {
		if s, ok := strings.CutSuffix(name, suffix); ok && s != "" {
			return s
		}
	}
	return name
}

// labels names each file by the parts of its path that distinguish it: n1 for n1.log,
// and for n1/pcapper.log if there is n2/pcapper.log. All pieces of a log have the same
// label.
func labels(paths []string) []string {
	parts := make([][]string, len(paths)) // of each path, the last first
	for i, path := range paths {
		dir, name := filepath.Split(filepath.Clean(path))
		parts[i] = []string{stem(name)}
		up := strings.Split(strings.Trim(dir, "/"), "/")
		slices.Reverse(up)
		for _, d := range up {
			parts[i] = append(parts[i], stem(d))
		}
	}
	groups := make(map[string]bool)
	for _, p := range parts {
		groups[strings.Join(p, "/")] = true
	}
	names := make([]string, len(paths))
	for depth := 0; ; depth++ {
		same := alike(parts, depth)
		distinct := make(map[string]bool)
		for i, p := range parts {
			if depth < len(p) && (!same || len(groups) == 1) {
				names[i] = join(p[depth], names[i])
			}
			distinct[names[i]] = true
		}
		if len(distinct) == len(groups) {
			return names
		}
	}
}

// alike reports whether all paths have the same part at this depth, so that it does not
// distinguish them.
func alike(parts [][]string, depth int) bool {
	for _, p := range parts {
		if depth >= len(p) || depth >= len(parts[0]) || p[depth] != parts[0][depth] {
			return false
		}
	}
	return true
}

// join combines two parts into a label, without colons and white space.
func join(front, back string) string {
	front = strings.Map(func(r rune) rune {
		if r == ':' || unicode.IsSpace(r) || unicode.IsControl(r) {
			return '_'
		}
		return r
	}, front)
	if front == "" || back == "" {
		return front + back
	}
	return front + "-" + back
}

// reason returns an error without the path, which the user knows.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
