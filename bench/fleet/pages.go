package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pageAddress is where a measured recollect serves its page.
const pageAddress = "127.0.0.1:17080"

// pageStream is what a page that shows everything follows.
const pageStream = "http://" + pageAddress + "/api/v1/stream?topic=matrix:60&topic=mgen:60&topic=talkers:60&topic=hosts:300"

// pages are browsers as far as the collector can tell: each follows the stream.
type pages struct {
	list []*page
	stop context.CancelFunc
	done sync.WaitGroup
}

type page struct {
	frames, bytes atomic.Uint64
	err           atomic.Pointer[error]
}

func openPages(n int) *pages {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pages{stop: cancel}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, DialContext: dialPatiently}}
	for range n {
		one := &page{}
		p.list = append(p.list, one)
		p.done.Go(func() {
			if err := one.follow(ctx, client); err != nil && ctx.Err() == nil {
				one.err.Store(&err)
			}
		})
	}
	return p
}

// dialPatiently waits for a collector that is just starting.
func dialPatiently(ctx context.Context, network, address string) (conn net.Conn, err error) {
	for range 100 {
		var d net.Dialer
		if conn, err = d.DialContext(ctx, network, address); err == nil || ctx.Err() != nil {
			return conn, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, err
}

func (p *page) follow(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, pageStream, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	for r := bufio.NewReaderSize(answer.Body, 64<<10); ; {
		line, err := r.ReadSlice('\n')
		p.bytes.Add(uint64(len(line)))
		if err != nil && err != bufio.ErrBufferFull {
			return err
		}
		if strings.HasPrefix(string(line), "event: frame") {
			p.frames.Add(1)
		}
	}
}

// counts are the frames of each page so far, and all bytes.
func (p *pages) counts() (frames []uint64, bytes uint64) {
	for _, one := range p.list {
		frames = append(frames, one.frames.Load())
		bytes += one.bytes.Load()
	}
	return frames, bytes
}

// report says what pages got between two counts.
func (p *pages) report(before, after []uint64, bytes uint64, elapsed time.Duration) {
	var got []uint64
	for i := range after {
		got = append(got, after[i]-before[i])
	}
	slices.Sort(got)
	failed := 0
	for _, one := range p.list {
		if err := one.err.Load(); err != nil {
			if failed++; failed == 1 {
				fmt.Println("a page failed:", *err)
			}
		}
	}
	fmt.Printf("%d pages: %d to %d frames each, %.1f MB/s together, %d failed\n",
		len(got), got[0], got[len(got)-1], float64(bytes)/1e6/elapsed.Seconds(), failed)
}
