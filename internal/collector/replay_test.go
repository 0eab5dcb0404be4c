package collector

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/wire"
)

// TestReplayView: what is in logs of years ago is in the view, nothing of it
// late or lost, also if it comes as fast as possible, and the view stays.
func TestReplayView(t *testing.T) {
	const seconds, perSecond = 600, 200
	dir := t.TempDir()
	for h, name := range []string{"n1.log", "n2.log"} {
		var text []byte
		for i := range seconds * perSecond {
			r := udp(2000, 7, 100, 0)
			r.SetSrc4([4]byte{10, 0, 0, byte(h + 1)})
			r.Time = testTime + int64(i)*1e9/perSecond
			text = wire.AppendLine(text, &r)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replay, err := NewReplay([]string{dir}, "max", "")
	if err != nil {
		t.Fatal(err)
	}
	file := Parse("c", []byte("1=2000\n2=M7\n"))
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	views := make(chan *View, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{Unconfined: true,
			File: file, Replay: replay, Stdout: null, Stderr: null,
			View: func(ctx context.Context, v *View) error {
				views <- v
				<-ctx.Done()
				return nil
			},
		})
	}()
	v := <-views
	const total = 2 * seconds * perSecond
	snap := awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Records == total })
	if snap.Late != 0 || snap.Future != 0 || v.Counting().Lost != 0 {
		t.Errorf("%d late, %d future, %d lost", snap.Late, snap.Future, v.Counting().Lost)
	}
	o := snap.Overview(rollup.Window{From: testTime / int64(time.Second), To: testTime/int64(time.Second) + seconds + 1})
	if o.Total.Packets != total || len(o.Hosts) != 2 || len(o.Flows) != 2 {
		t.Errorf("overview %+v of %d hosts, %d flows", o.Total, len(o.Hosts), len(o.Flows))
	}
	for _, a := range v.Agents() {
		if a.Failed || a.Records != total/2 || a.Status != "" {
			t.Errorf("agent %+v", a)
		}
	}
	select {
	case err := <-done:
		t.Errorf("the view did not stay: %v", err)
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestReplayLosesNothing: stdout that is slow makes the replay wait.
func TestReplayLosesNothing(t *testing.T) {
	var text []byte
	r := udp(2000, 0, 100, 0)
	line := string(wire.AppendLine(nil, &r))
	const lines = 1_500_000 // more than the hub holds
	text = []byte(strings.Repeat(line, lines))
	name := filepath.Join(t.TempDir(), "n1.log")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	replay, err := NewReplay([]string{name}, "0", "")
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		defer write.Close()
		done <- Run(t.Context(), Config{Unconfined: true, File: &File{}, Replay: replay, Stdout: write, Stderr: stderr, Lines: true})
	}()
	got, buf := 0, make([]byte, 1<<16)
	for n, err := read.Read(buf); err == nil; n, err = read.Read(buf) {
		got += bytes.Count(buf[:n], []byte("\n"))
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(stderr.Name())
	if got != lines || err != nil || !strings.Contains(string(said), "1500000 lines written, 0 records lost") {
		t.Errorf("%d lines of %d; %s", got, lines, said)
	}
}
