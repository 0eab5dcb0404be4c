//go:build libpcap && cgo

package match

/*
#cgo LDFLAGS: -lpcap
#include <stdlib.h>
#include <pcap/pcap.h>
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/net/bpf"
)

// compilePcap compiles an expression with libpcap. libpcap cannot be interrupted while
// it queries a name server: if ctx ends first, the compilation continues in the
// background and its result is discarded.
func compilePcap(ctx context.Context, src source) ([]bpf.RawInstruction, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	// Here and not in the goroutine, because the network namespace is a property of the
	// thread.
	h, err := openHandle(src)
	if err != nil {
		return nil, "", err
	}
	type result struct {
		prog []bpf.RawInstruction
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer h.close()
		prog, err := h.compile(src.expression)
		done <- result{prog, err}
	}()
	select {
	case r := <-done:
		return r.prog, compilerName(), r.err
	case <-ctx.Done():
		return nil, "", ctx.Err()
	}
}

// compilerName shortens a version such as "libpcap version 1.10.3 (with TPACKET_V3)".
func compilerName() string {
	version := strings.TrimPrefix(C.GoString(C.pcap_lib_version()), "libpcap version ")
	version, _, _ = strings.Cut(version, " ")
	return "libpcap " + version
}

// handle is a pcap_t to compile with.
type handle struct {
	pcap    *C.pcap_t
	netmask C.bpf_u_int32 // for "ip broadcast"
}

func (h *handle) close() { C.pcap_close(h.pcap) }

// openHandle opens the device, or a handle for the link type that captures nothing.
func openHandle(src source) (*handle, error) {
	if src.device != "" {
		return openDevice(src)
	}
	p := C.pcap_open_dead(C.int(src.link.number), Snaplen)
	if p == nil {
		return nil, fmt.Errorf("%w: libpcap cannot open a handle", errNoCompiler)
	}
	return &handle{pcap: p, netmask: C.PCAP_NETMASK_UNKNOWN}, nil
}

func openDevice(src source) (*handle, error) {
	name := C.CString(src.device)
	defer C.free(unsafe.Pointer(name))
	var text [C.PCAP_ERRBUF_SIZE]C.char
	p := C.pcap_create(name, &text[0])
	if p == nil {
		return nil, fmt.Errorf("%s: %s", src.device, C.GoString(&text[0]))
	}
	C.pcap_set_buffer_size(p, 64<<10) // nothing is captured
	if status := C.pcap_activate(p); status < 0 {
		err := fmt.Errorf("%s: %s", src.device, C.GoString(C.pcap_statustostr(status)))
		C.pcap_close(p)
		return nil, err
	}
	if int(C.pcap_datalink(p)) != src.link.number {
		C.pcap_close(p)
		return nil, fmt.Errorf("%s: not of link type %s", src.device, src.link.name)
	}
	h := &handle{pcap: p, netmask: C.PCAP_NETMASK_UNKNOWN}
	var network C.bpf_u_int32
	if C.pcap_lookupnet(name, &network, &h.netmask, &text[0]) != 0 {
		h.netmask = C.PCAP_NETMASK_UNKNOWN
	}
	return h, nil
}

func (h *handle) compile(expression string) ([]bpf.RawInstruction, error) {
	text := C.CString(expression)
	defer C.free(unsafe.Pointer(text))
	var program C.struct_bpf_program
	const optimize = 1
	if C.pcap_compile(h.pcap, &program, text, optimize, h.netmask) != 0 {
		return nil, errors.New(strings.TrimPrefix(C.GoString(C.pcap_geterr(h.pcap)), "can't parse filter expression: "))
	}
	defer C.pcap_freecode(&program)
	insns := unsafe.Slice(program.bf_insns, program.bf_len)
	prog := make([]bpf.RawInstruction, len(insns))
	for i, in := range insns {
		prog[i] = bpf.RawInstruction{Op: uint16(in.code), Jt: uint8(in.jt), Jf: uint8(in.jf), K: uint32(in.k)}
	}
	return prog, nil
}
