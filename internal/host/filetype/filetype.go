// Package filetype recognizes a file's type by its first bytes, so that a program that
// was given the wrong kind of file can name the right command.
package filetype

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/pcapper/pcapper/wire"
)

// Kind is what can be done with a file.
type Kind int

const (
	Unknown Kind = iota
	Capture      // pcapper -read prints it
	Foreign      // a capture file that other programs convert
	Packed       // compressed
	Records      // recollect -replay plays it
)

// Type is the type of a file.
type Type struct {
	Kind Kind
	// Name completes a sentence that begins with "it is".
	Name string
	// command writes the file FILE, decompressed or converted to pcap, to standard
	// output. Valid iff Kind is Foreign or Packed.
	command string
}

// Command returns a shell command that writes the named file, decompressed or
// converted, to standard output, or "" if none is needed.
func (t Type) Command(name string) string {
	return strings.Replace(t.command, "FILE", Quote(name), 1)
}

// Need is the number of bytes that Of needs, if the file has as many.
const Need = wire.MaxLine

const editcap = "editcap -F pcap FILE -"

// types are the types with a magic number.
var types = []struct {
	magic string
	Type
}{
	{"\xd4\xc3\xb2\xa1", Type{Capture, "a pcap capture file", ""}},
	{"\xa1\xb2\xc3\xd4", Type{Capture, "a pcap capture file", ""}},
	{"\x4d\x3c\xb2\xa1", Type{Capture, "a pcap capture file", ""}},
	{"\xa1\xb2\x3c\x4d", Type{Capture, "a pcap capture file", ""}},
	{"\x34\xcd\xb2\xa1", Type{Capture, "a pcap capture file", ""}},
	{"\xa1\xb2\xcd\x34", Type{Capture, "a pcap capture file", ""}},
	{"\x0a\x0d\x0d\x0a", Type{Capture, "a pcapng capture file", ""}},
	{"snoop\x00\x00\x00", Type{Foreign, "a snoop capture file", editcap}},
	{"GMBU", Type{Foreign, "a capture file of Microsoft Network Monitor", editcap}},
	{"XCP\x00", Type{Foreign, "a capture file of NetXRay", editcap}},
	{"TRSNIFF data    \x1a", Type{Foreign, "a capture file of the Sniffer", editcap}},
	{"\x1f\x8b\x08", Type{Packed, "compressed by gzip", "gzip -dc FILE"}},
	{"\x28\xb5\x2f\xfd", Type{Packed, "compressed by zstd", "zstd -dc FILE"}},
	{"\xfd7zXZ\x00", Type{Packed, "compressed by xz", "xz -dc FILE"}},
	{"BZh", Type{Packed, "compressed by bzip2", "bzip2 -dc FILE"}},
	{"\x04\x22\x4d\x18", Type{Packed, "compressed by lz4", "lz4 -dc FILE"}},
	{"\x1f\x9d", Type{Packed, "compressed by compress", "gzip -dc FILE"}},
	{"PK\x03\x04", Type{Packed, "a zip archive", "unzip -p FILE"}},
}

// Of returns the type of a file that begins with head, which has Need bytes or is the
// whole file.
func Of(head []byte) Type {
	for _, t := range types {
		if bytes.HasPrefix(head, []byte(t.magic)) {
			return t.Type
		}
	}
	switch {
	case isIPFIX(head):
		return Type{Kind: Records, Name: "a file of IPFIX messages"}
	case isLog(head):
		return Type{Kind: Records, Name: "an agent's log"}
	}
	return Type{}
}

// isIPFIX checks a message's header (RFC 7011, section 3.1): version 10, the length,
// and that of the first set after the 16 bytes.
func isIPFIX(head []byte) bool {
	if len(head) < 20 || binary.BigEndian.Uint16(head) != 10 {
		return false
	}
	message, set := binary.BigEndian.Uint16(head[2:]), binary.BigEndian.Uint16(head[18:])
	return message >= 20 && set >= 4 && set <= message-16
}

// isLog looks for a log line after any comments.
func isLog(head []byte) bool {
	for line := range bytes.Lines(head) {
		var r wire.Record
		if line[0] != '#' {
			return wire.ParseLine(line, &r) == nil
		}
	}
	return false
}

// Quote returns a file name quoted for a shell.
func Quote(name string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._+-:,@%=", r) || r > 0x7f
	}
	if name != "" && !strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}
