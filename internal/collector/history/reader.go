package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/parquet-go/parquet-go"
)

// dataFile is an open Parquet file of a store.
type dataFile struct {
	*parquet.File
	f    *os.File
	path string
}

// openParquet opens a file and reads what it says of itself. The error is a
// *FileError if the file is there and no whole Parquet file of ours.
func openParquet(path string) (*dataFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := readMetadata(f)
	if err != nil {
		f.Close()
	}
	return r, err
}

// readMetadata reads what an open file says of itself. The error is a *FileError.
func readMetadata(f *os.File) (*dataFile, error) {
	p, err := parquetFile(f)
	if err != nil {
		return nil, &FileError{f.Name(), err}
	}
	if have := len(p.Root().Columns()); have != columns {
		return nil, &FileError{f.Name(), fmt.Errorf("%d columns instead of %d", have, columns)}
	}
	return &dataFile{p, f, f.Name()}, nil
}

// parquetFile is an open file of ours, whatever its rows are.
func parquetFile(f *os.File) (p *parquet.File, err error) {
	defer func() {
		if x := recover(); x != nil { // the library's answer to some garbage
			p, err = nil, fmt.Errorf("no Parquet file: %v", x)
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p, err = parquet.OpenFile(f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, err
	}
	if version, _ := p.Lookup(metaVersion); version != "1" {
		return nil, fmt.Errorf("not written by this version of recollect: %s is %q", metaVersion, version)
	}
	return p, nil
}

// checkEnds checks that a file begins and ends like a Parquet file. The error is a
// *FileError if it does not.
func checkEnds(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var head [4]byte
	var tail [8]byte // length of the metadata, magic
	if info.Size() < int64(len(head)+len(tail)) {
		return &FileError{path, fmt.Errorf("only %d bytes", info.Size())}
	}
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return err
	}
	if _, err := f.ReadAt(tail[:], info.Size()-int64(len(tail))); err != nil {
		return err
	}
	if string(head[:]) != magic || string(tail[4:]) != magic || int64(binary.LittleEndian.Uint32(tail[:])) > info.Size()-12 {
		return &FileError{path, errors.New("its beginning or end is missing")}
	}
	return nil
}

const magic = "PAR1"

func (r *dataFile) close() { r.f.Close() }

// segments are the IDs of those that the file is made of.
func (r *dataFile) segments() []string {
	text, _ := r.Lookup(metaSegments)
	return splitIDs(text)
}
