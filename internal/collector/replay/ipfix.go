package replay

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// unwrap converts a file of IPFIX messages (RFC 5655) to lines, so that it is played
// like a log. Each line is a data record in hexadecimal, because a log line could not
// hold everything that the file contains.
type unwrap struct {
	in      io.Reader
	decoder ipfix.Decoder
	msg     []byte
	batch   []wire.Record
	cell    []byte
	text    []byte // not read yet
	whole   []byte // the buffer that contains text
}

// isIPFIX recognizes a file by its first bytes: a message's version and length.
func isIPFIX(head []byte) bool {
	n, err := ipfix.Length(head)
	return err == nil && n > 0
}

// Read returns lines.
func (u *unwrap) Read(b []byte) (int, error) {
	for len(u.text) == 0 {
		if err := u.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, u.text)
	u.text = u.text[n:]
	return n, nil
}

// next reads one message.
func (u *unwrap) next() error {
	if u.msg == nil {
		u.msg = make([]byte, ipfix.MaxMessage)
	}
	if _, err := io.ReadFull(u.in, u.msg[:4]); err != nil {
		return err
	}
	n, err := ipfix.Length(u.msg[:4])
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(u.in, u.msg[4:n]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if u.batch, err = u.decoder.Decode(u.msg[:n], u.batch[:0]); err != nil {
		return err
	}
	u.whole = u.whole[:0]
	for i := range u.batch {
		var ok bool
		if u.cell, ok = ipfix.Append(u.cell[:0], &u.batch[i]); ok {
			u.whole = append(hex.AppendEncode(u.whole, u.cell), '\n')
		}
	}
	u.text = u.whole
	return nil
}

// parser parses lines: those of a log, or unwrap's.
type parser func(line []byte, r *wire.Record) error

// rewrapped returns a parser for unwrap's lines.
func rewrapped() parser {
	var d ipfix.Decoder
	var w ipfix.Writer
	now := time.Unix(0, 0)
	if _, err := d.Decode(w.Templates(nil, now), nil); err != nil {
		panic(fmt.Sprintf("replay: own templates: %v", err))
	}
	var cell, msg []byte
	var batch []wire.Record
	return func(line []byte, r *wire.Record) (err error) {
		if len(line) == 0 || line[len(line)-1] != '\n' {
			return errors.New("no record")
		}
		if cell, err = hex.AppendDecode(cell[:0], line[:len(line)-1]); err != nil {
			return err
		}
		msg, _ = w.Message(msg[:0], now, ipfix.MaxMessage, cell, []uint32{0, uint32(len(cell))})
		if batch, err = d.Decode(msg, batch[:0]); err != nil || len(batch) != 1 {
			return fmt.Errorf("no record: %w", err)
		}
		*r = batch[0]
		return nil
	}
}

// peekIPFIX reports whether in continues with IPFIX messages.
func peekIPFIX(in *bufio.Reader) bool {
	head, _ := in.Peek(4)
	return isIPFIX(head)
}
