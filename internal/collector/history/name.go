package history

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	suffix     = ".parquet"
	replaces   = ".replaces"
	tmpDir     = "tmp"
	pendingDir = "pending"
	damagedDir = "damaged"
	lockFile   = "lock"
	hourLayout = "2006-01-02/15"
	nameLayout = "20060102T150405"
	maxID      = 100
)

// name is the parsed name of a file.
type name struct {
	min, max   int64 // in seconds: earliest record, and the second after the latest
	generation int   // how often compacted
	rows       int64
	id         string
}

func nameOf(min, max int64, generation int, rows int64, id string) name {
	return name{floorSecond(min), floorSecond(max) + 1, generation, rows, id}
}

func floorSecond(t int64) int64 { return time.Unix(0, t).Unix() }

func (n name) String() string {
	return time.Unix(n.min, 0).UTC().Format(nameLayout) + "_" + time.Unix(n.max, 0).UTC().Format(nameLayout) +
		"_" + strconv.Itoa(n.generation) + "_" + strconv.FormatInt(n.rows, 10) + "_" + n.id + suffix
}

// parseName is the inverse of String; ok is false for other files.
func parseName(text string) (n name, ok bool) {
	base, found := strings.CutSuffix(text, suffix)
	parts := strings.SplitN(base, "_", 5)
	if !found || len(parts) != 5 || !validID(parts[4]) {
		return n, false
	}
	from, err1 := time.Parse(nameLayout, parts[0])
	to, err2 := time.Parse(nameLayout, parts[1])
	generation, err3 := strconv.Atoi(parts[2])
	rows, err4 := strconv.ParseInt(parts[3], 10, 64)
	n = name{from.Unix(), to.Unix(), generation, rows, parts[4]}
	return n, err1 == nil && err2 == nil && err3 == nil && err4 == nil && n.String() == text
}

func validID(id string) bool {
	if id == "" || len(id) > maxID || id[0] == '.' {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}

func joinIDs(ids []string) string { return strings.Join(ids, "\n") }

func splitIDs(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// parseHour parses a directory's name, such as 2026-11-25/15.
func parseHour(text string) (time.Time, bool) {
	t, err := time.Parse(hourLayout, text)
	return t, err == nil && t.Format(hourLayout) == text
}

// FileError is the error for a file that cannot be read.
type FileError struct {
	File string
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }
func (e *FileError) Unwrap() error { return e.Err }
