package main

import (
	"path/filepath"

	"github.com/pcapper/pcapper/internal/transport/clickhouse"
	"github.com/pcapper/pcapper/internal/transport/output"
)

func init() {
	outputs.Register(output.Kind[destination]{
		Schemes: []string{"clickhouse+http", "clickhouse+https"},
		Form:    "clickhouse+http[s]://[USER@]HOST[:PORT][/DATABASE]",
		Help:    "a table of ClickHouse",
		Params:  new(clickhouse.TableURL).Params(),
		New: func(url string) (destination, error) {
			t, err := clickhouse.Parse(url)
			return openedBy(func() (sink, error) { return openClickHouse(t) }), err
		},
	})
}

func openClickHouse(t *clickhouse.TableURL) (sink, error) {
	if t.Spool != "" {
		return openTable(t)
	}
	s, err := clickhouse.New(t, say)
	return serverSink{s, t.String(), func() sinkCounts {
		st := s.Status()
		return sinkCounts{st.Published, st.Written, st.Dropped, st.Waiting, st.String()}
	}}, err
}

// tableSink is a table for the contents of a bus; the Keeper of the bus writes to it.
type tableSink struct {
	store *clickhouse.TableStore
	dir   string
	sink
}

func openTable(t *clickhouse.TableURL) (sink, error) {
	dir, err := filepath.Abs(t.Spool)
	if err != nil {
		return nil, err
	}
	s, err := clickhouse.OpenStore(t, dir, say)
	return tableSink{store: s, dir: dir}, err
}
