package history

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Formats are the output formats of a Printer.
var Formats = []string{"csv", "json", "parquet"}

// Printer prints the results of a query: CSV with a header (RFC 4180), JSON with one
// object per line, or Parquet. Times are UTC in the format of RFC 3339; missing values
// are empty, or null.
type Printer struct {
	w       *bufio.Writer
	json    bool
	rows    *rowWriter // for records as Parquet
	sums    *sumWriter // for sums as Parquet
	columns []column
	line    []byte
	texts   *texts
}

// column is a column of the output.
type column struct {
	name string
	// row and sum append a value, which json requires to be quoted if necessary.
	// Exactly one of them is set.
	row func(p *Printer, dst []byte, r *Row) []byte
	sum func(p *Printer, dst []byte, s *Sum) []byte
}

// NewRowPrinter prints records. If flows is not nil, it provides the names of each
// record's flows for an additional column, except in Parquet.
func NewRowPrinter(w io.Writer, format string, flows func(r *wire.Record) []string) *Printer {
	p := newPrinter(w, format)
	if format == "parquet" {
		p.rows = newRowWriter(p.w)
		return p
	}
	p.columns = slices.Clone(rowColumns)
	if flows != nil {
		p.columns = append(p.columns, column{name: "flow", row: func(p *Printer, dst []byte, r *Row) []byte {
			return p.text(dst, strings.Join(flows(&r.Record), "+"))
		}})
	}
	p.header()
	return p
}

// NewSumPrinter prints sums.
func NewSumPrinter(w io.Writer, format string, by By) *Printer {
	p := newPrinter(w, format)
	if by.Step != 0 {
		p.columns = append(p.columns, sumColumns["time"])
	}
	for _, name := range append(slices.Clone(by.Columns), "records", "packets", "bytes") {
		c := sumColumns[name]
		c.name = name
		p.columns = append(p.columns, c)
	}
	if format == "parquet" {
		p.sums = newSumWriter(p.w, p.columns)
		return p
	}
	p.header()
	return p
}

func newPrinter(w io.Writer, format string) *Printer {
	return &Printer{w: bufio.NewWriterSize(w, 1<<16), json: format == "json", texts: newTexts()}
}

func (p *Printer) header() {
	if p.json {
		return
	}
	names := make([]string, len(p.columns))
	for i, c := range p.columns {
		names[i] = c.name
	}
	p.w.WriteString(strings.Join(names, ",") + "\n") // Close reports errors
}

// Rows prints records.
func (p *Printer) Rows(rows []Row) error {
	for i := range rows {
		r := &rows[i]
		if p.rows != nil {
			if err := p.rows.addRecord(&r.Record, r.Host, r.Level); err != nil {
				return err
			}
			continue
		}
		if err := p.print(func(dst []byte, c *column) []byte { return c.row(p, dst, r) }); err != nil {
			return err
		}
	}
	return nil
}

// Sums prints sums.
func (p *Printer) Sums(sums []Sum) error {
	if p.sums != nil {
		return p.sums.write(sums)
	}
	for i := range sums {
		if err := p.print(func(dst []byte, c *column) []byte { return c.sum(p, dst, &sums[i]) }); err != nil {
			return err
		}
	}
	return nil
}

// Close prints what is left.
func (p *Printer) Close() (err error) {
	switch {
	case p.rows != nil:
		err = p.rows.close()
	case p.sums != nil:
		err = p.sums.close()
	}
	if err != nil {
		return err
	}
	return p.w.Flush()
}

// print prints a line with what value appends for each column.
func (p *Printer) print(value func(dst []byte, c *column) []byte) error {
	b := p.line[:0]
	for i := range p.columns {
		if i > 0 {
			b = append(b, ',')
		} else if p.json {
			b = append(b, '{')
		}
		if p.json {
			b = append(append(append(b, '"'), p.columns[i].name...), '"', ':')
		}
		at := len(b)
		if b = value(b, &p.columns[i]); p.json && len(b) == at {
			b = append(b, "null"...)
		}
	}
	if p.json {
		b = append(b, '}')
	}
	p.line = append(b, '\n')
	_, err := p.w.Write(p.line)
	return err
}

// text appends a text that may contain any characters.
func (p *Printer) text(dst []byte, s string) []byte {
	s = wire.Printable(s) // the file may come from anywhere
	switch {
	case p.json:
		quoted, err := json.Marshal(s)
		if err != nil {
			panic(err) // cannot fail for a string
		}
		return append(dst, quoted...)
	case strings.ContainsAny(s, ",\"\r\n"):
		return append(append(append(dst, '"'), strings.ReplaceAll(s, `"`, `""`)...), '"')
	}
	return append(dst, s...)
}

// plain appends a text without special characters, or null if it is empty.
func (p *Printer) plain(dst []byte, s string) []byte {
	if !p.json || s == "" {
		return append(dst, s...)
	}
	return append(append(append(dst, '"'), s...), '"')
}

const (
	nanoLayout  = "2006-01-02T15:04:05.000000000Z"
	microLayout = "2006-01-02T15:04:05.000000Z"
)

func (p *Printer) time(dst []byte, t time.Time, layout string) []byte {
	if !p.json {
		return t.UTC().AppendFormat(dst, layout)
	}
	return append(t.UTC().AppendFormat(append(dst, '"'), layout), '"')
}

func number[T uint8 | uint16 | uint32 | uint64](dst []byte, n T) []byte {
	return strconv.AppendUint(dst, uint64(n), 10)
}

// rowColumns are the columns of the files.
var rowColumns = []column{
	{name: "time", row: func(p *Printer, b []byte, r *Row) []byte { return p.time(b, time.Unix(0, r.Record.Time), nanoLayout) }},
	{name: "host", row: func(p *Printer, b []byte, r *Row) []byte { return p.text(b, r.Host) }},
	{name: "level", row: func(p *Printer, b []byte, r *Row) []byte { return p.plain(b, r.Level.String()) }},
	{name: "src", row: func(p *Printer, b []byte, r *Row) []byte {
		return p.plain(b, p.texts.addr(&r.Record.Src, r.Record.Flags&wire.IPv6 != 0))
	}},
	{name: "dst", row: func(p *Printer, b []byte, r *Row) []byte {
		return p.plain(b, p.texts.addr(&r.Record.Dst, r.Record.Flags&wire.IPv6 != 0))
	}},
	{name: "src_port", row: func(p *Printer, b []byte, r *Row) []byte { return number(b, r.Record.SrcPort) }},
	{name: "dst_port", row: func(p *Printer, b []byte, r *Row) []byte { return number(b, r.Record.DstPort) }},
	{name: "proto", row: func(p *Printer, b []byte, r *Row) []byte { return number(b, r.Record.Proto) }},
	{name: "direction", row: func(p *Printer, b []byte, r *Row) []byte { return p.plain(b, direction(r.Record.Flags)) }},
	{name: "bytes", row: func(p *Printer, b []byte, r *Row) []byte { return number(b, r.Record.Length) }},
	{name: "packets", row: func(p *Printer, b []byte, r *Row) []byte { return number(b, r.Record.Count()) }},
	{name: "mgen_flow", row: func(p *Printer, b []byte, r *Row) []byte {
		if r.Record.Flags&wire.MGEN == 0 {
			return b
		}
		return number(b, r.Record.FlowID)
	}},
	{name: "mgen_seq", row: func(p *Printer, b []byte, r *Row) []byte {
		if r.Record.Flags&wire.MGENHeader == 0 {
			return b
		}
		return number(b, r.Record.MGENSeq)
	}},
	{name: "mgen_time", row: func(p *Printer, b []byte, r *Row) []byte {
		if r.Record.Flags&wire.MGENHeader == 0 {
			return b
		}
		return p.time(b, time.UnixMicro(r.Record.MGENTime), microLayout)
	}},
	{name: "relayed", row: func(p *Printer, b []byte, r *Row) []byte {
		return strconv.AppendBool(b, r.Record.Flags&wire.Relayed != 0)
	}},
	{name: "flags", row: func(p *Printer, b []byte, r *Row) []byte { return number(b, uint16(r.Record.Flags)) }},
}

// sumColumns maps names to columns.
var sumColumns = map[string]column{
	"time":      {name: "time", sum: func(p *Printer, b []byte, s *Sum) []byte { return p.time(b, time.Unix(0, s.Time), nanoLayout) }},
	"host":      {sum: func(p *Printer, b []byte, s *Sum) []byte { return p.text(b, s.Host) }},
	"level":     {sum: func(p *Printer, b []byte, s *Sum) []byte { return p.plain(b, s.Level.String()) }},
	"src":       {sum: func(p *Printer, b []byte, s *Sum) []byte { return p.plain(b, addrText(s.Src)) }},
	"dst":       {sum: func(p *Printer, b []byte, s *Sum) []byte { return p.plain(b, addrText(s.Dst)) }},
	"src_port":  {sum: func(p *Printer, b []byte, s *Sum) []byte { return number(b, s.SrcPort) }},
	"dst_port":  {sum: func(p *Printer, b []byte, s *Sum) []byte { return number(b, s.DstPort) }},
	"proto":     {sum: func(p *Printer, b []byte, s *Sum) []byte { return number(b, s.Proto) }},
	"direction": {sum: func(p *Printer, b []byte, s *Sum) []byte { return p.plain(b, direction(s.Direction)) }},
	"relayed":   {sum: func(p *Printer, b []byte, s *Sum) []byte { return strconv.AppendBool(b, s.Relayed) }},
	"mgen_flow": {sum: func(p *Printer, b []byte, s *Sum) []byte {
		if !s.MGEN {
			return b
		}
		return number(b, s.MGENFlow)
	}},
	"flow":    {sum: func(p *Printer, b []byte, s *Sum) []byte { return p.text(b, s.Flow) }},
	"records": {sum: func(p *Printer, b []byte, s *Sum) []byte { return number(b, s.Records) }},
	"packets": {sum: func(p *Printer, b []byte, s *Sum) []byte { return number(b, s.Packets) }},
	"bytes":   {sum: func(p *Printer, b []byte, s *Sum) []byte { return number(b, s.Bytes) }},
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// CheckFormat returns an error for an unknown format.
func CheckFormat(format string) error {
	if !slices.Contains(Formats, format) {
		return fmt.Errorf("format %q: want %s", format, strings.Join(Formats, ", "))
	}
	return nil
}
