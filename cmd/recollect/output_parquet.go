package main

import (
	"errors"
	"strings"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/internal/transport/output"
)

func init() {
	outputs.Register(output.Kind[destination]{
		Schemes: []string{"parquet"},
		Form:    "parquet:DIR",
		Help:    "the same as -store: Parquet files and the dashboard's history",
		Params:  parquetParams(new(string)),
		New:     newParquet,
	})
}

func parquetParams(keep *string) option.Params {
	return option.Params{option.Func("keep", "AGE,SIZE", "as -keep", func(text string) error {
		*keep = text
		_, err := history.ParseKeep(text)
		return err
	})}
}

func newParquet(url string) (destination, error) {
	_, dir, query := option.CutURL(url)
	dir = strings.TrimPrefix(dir, "//")
	if dir == "" {
		return nil, errors.New("no directory: want parquet:DIR")
	}
	keep := ""
	err := parquetParams(&keep).Parse(query)
	return func(o *options) error {
		if keep != "" {
			o.keep.keep = keep
		}
		return setOnce(&o.keep.dir, dir, "one directory")
	}, err
}
