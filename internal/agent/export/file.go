package export

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/internal/transport/output"
	"github.com/pcapper/pcapper/wire/ipfix"
)

func init() {
	Outputs.Register(output.Kind[Target]{
		Schemes: []string{"file"}, Form: "file:PATH",
		Help:   "a file of IPFIX messages (RFC 5655)",
		Params: option.Params{new(Target).per()},
		New:    parseFile,
	})
}

func parseFile(text string) (Target, error) {
	_, path, query := option.CutURL(text)
	t := Target{URL: text, Kind: File, Path: strings.TrimPrefix(path, "//"), Payload: ipfix.MaxDatagram, Rate: defaultRate}
	if t.Path == "" {
		return t, errors.New("no path: want file:PATH")
	}
	return t, option.Params{t.per()}.Parse(query)
}

func (t *Target) readyFile() error {
	info, err := os.Stat(filepath.Dir(t.Path))
	switch {
	case err != nil:
		return fmt.Errorf("directory %q: %w", filepath.Dir(t.Path), errors.Unwrap(err))
	case !info.IsDir():
		return fmt.Errorf("%q is no directory", filepath.Dir(t.Path))
	}
	if info, err := os.Stat(t.Path); err == nil && info.IsDir() {
		return fmt.Errorf("%q is a directory: want a file", t.Path)
	}
	return nil
}
