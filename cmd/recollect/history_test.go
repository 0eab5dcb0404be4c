package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
)

// pastSite is a history of 40 days, with a day twenty days ago when nobody wrote
// it. Host gone and flow 7 are no longer configured. It gives the first second
// and the one before the gap.
func pastSite(t *testing.T, dir string) (first, gap int64) {
	const day = 86400
	now := time.Now().Unix() / 600 * 600
	first, gap = now-40*day, now-20*day
	for _, run := range [][2]int64{{first, gap}, {gap + day, now - 3600}} {
		a, err := rollup.OpenArchive(rollup.ArchiveConfig{
			Dir: dir, Hosts: []rollup.Host{{Label: "n1"}, {Label: "gone"}}, Rows: []rollup.Row{{Name: "1"}, {Name: "7"}, {Name: "X"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		go a.Run()
		s := rollup.New(rollup.Config{Hosts: a.Hosts(), Rows: 2, Archive: a, Classify: func(rows []int, r *wire.Record) []int {
			return append(rows, int(r.DstPort)-1)
		}})
		for sec := run[0]; sec < run[1]; sec += 600 {
			for host := range 2 {
				r := wire.Record{Time: sec * 1e9, Length: 7500 * 60, Packets: 60, DstPort: uint16(1 + host), Src: [16]byte{10: 255, 11: 255, 12: 10, 15: byte(host)}, Flags: wire.Outgoing}
				s.Add(sec*1e9, host, &r)
			}
			s.Tick(sec * 1e9)
			for a.Backlog() > 100 {
				time.Sleep(time.Millisecond)
			}
		}
		s.Tick((run[1] - 1) * 1e9)
		s.Close()
	}
	return first, gap
}

// withPage is a directory with both programs, of which recollect has the page. That may
// not have been built when TestMain built the others' program.
var withPage = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(binDir, "page")
	for _, args := range [][]string{{"../../scripts/page", "-required"}, {"go", "build", "-o", dir + "/", ".", "../pcapper"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as users get them
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	return dir, nil
})

// startPage runs a collector until the test ends or it is killed, and gives the
// address of its page. dir is where it runs.
func startPage(t *testing.T, dir string, args ...string) (cmd *exec.Cmd, url string) {
	t.Helper()
	return startCommand(t, dir, append([]string{"-lines"}, args...)...)
}

// startCommand runs a command of the program that has a page.
func startCommand(t *testing.T, dir string, args ...string) (cmd *exec.Cmd, url string) {
	t.Helper()
	programs, err := withPage()
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	address := free.Addr().String()
	cmd = exec.Command(filepath.Join(programs, "recollect"), append(args, "-http", address)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	url = "http://" + address + "/"
	if !nettest.Eventually(patience, func() bool {
		answer, err := http.Get(url + "healthz")
		if err == nil {
			answer.Body.Close()
		}
		return err == nil // whether or not an agent is connected
	}) {
		t.Fatal("no page")
	}
	return cmd, url
}

// listenAsAgent is a port that a collector may dial, and its configuration.
func listenAsAgent(t *testing.T, dir string) net.Listener {
	t.Helper()
	agent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close() })
	if err := os.WriteFile(filepath.Join(dir, "collector.conf"), []byte("1=1\nn1:"+agent.Addr().String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return agent
}

// TestStoreKilled: a second after a collector was killed and started again its
// page has all but the seconds that were open, and then those, too, from the
// records: to the packet.
func TestStoreKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	agent := listenAsAgent(t, dir)
	sent := make(map[int64]int) // by second
	cmd, url := startPage(t, dir, "-store", "store")
	conn, err := agent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 8*time.Second; time.Sleep(5 * time.Millisecond) {
		r := wire.Record{Time: time.Now().UnixNano(), Length: 100, DstPort: 1, SrcPort: 9, Proto: wire.ProtoUDP}
		r.SetSrc4([4]byte{10, 0, 0, 1})
		r.SetDst4([4]byte{10, 0, 0, 2})
		line, ok := wire.AppendBinary(nil, &r)
		if !ok {
			t.Fatal("not expressible")
		}
		if _, err := conn.Write(line); err != nil {
			t.Fatal(err)
		}
		sent[r.Time/1e9]++
	}
	time.Sleep(time.Second) // the bus has them
	cmd.Process.Kill()
	cmd.Wait()
	conn.Close()
	first, last := slices.Min(slices.Collect(maps.Keys(sent))), slices.Max(slices.Collect(maps.Keys(sent)))
	_, url = startPage(t, dir, "-store", "store")
	packets := func(step int64) (sum int) {
		answer, err := http.Get(fmt.Sprintf("%sapi/v1/overview?from=%d&to=%d&step=%d", url, first-step, last+step, step))
		if err != nil {
			return -1
		}
		defer answer.Body.Close()
		var o struct{ Total struct{ Packets int } }
		json.NewDecoder(answer.Body).Decode(&o)
		return o.Total.Packets
	}
	total := 0
	for _, n := range sent {
		total += n
	}
	for _, step := range []int64{1, 10, 60} {
		if !nettest.Eventually(2*patience, func() bool { return packets(step) == total }) {
			t.Errorf("steps of %d s: %d packets, want %d", step, packets(step), total)
		}
	}
}

// TestPageOfMonths: presets, the strip and the calendar reach through all of the
// history, and what nobody wrote is a gap.
func TestPageOfMonths(t *testing.T) {
	// Alone: what another test starts at the wrong moment would hold the lock on the history.
	dir := t.TempDir()
	first, gap := pastSite(t, filepath.Join(dir, "store", "rollup"))
	listenAsAgent(t, dir)
	_, url := startPage(t, dir, "-store", "store")
	p := openPage(t, url, t.TempDir())
	p.show("overview")
	p.await(`document.querySelector('.link-state.connected') && document.querySelector('.when [data-value="2592000"]')?.hidden === false`)
	// The figure comes with the first frame, which may be later.
	p.await(`((text) => text.includes('days') && text.includes('on disk'))(document.querySelector('[data-figure="history"]').innerText)`)

	t.Run("presets", func(t *testing.T) {
		for _, seconds := range []int{3600, 21600, 86400, 604800, 2592000} {
			p.do(chromedp.Click(fmt.Sprintf(`.when [data-value="%d"]`, seconds), chromedp.ByQuery))
			p.await(fmt.Sprintf(`location.hash.includes('w=%d') && document.querySelector('.when [data-value="%[1]d"]').getAttribute('aria-pressed') === 'true'`, seconds))
		}
		p.do(chromedp.Click(`.when [data-value="0"]`, chromedp.ByQuery))
		p.await(`location.hash.includes('w=all') && document.querySelector('.split .note')?.textContent.includes('steps of')`)
		// A packet of 60 x 7,500 byte in ten minutes, and as many of what is gone.
		near(t, "mean of all", strings.Split(p.text(`document.querySelector('.split .note').textContent`), " on average")[0], 2*60*7500*8/600, 150)
		p.do(chromedp.Reload())
		p.await(`location.hash.includes('w=all') && document.querySelector('.when [data-value="0"]').getAttribute('aria-pressed') === 'true'`)
	})
	t.Run("former", func(t *testing.T) {
		p.show(fmt.Sprintf("hosts?w=86400&end=%d", gap-86400))
		p.await(`document.querySelector('[data-host="1"] [data-side="sent"] b')?.textContent.match(/[1-9]/)`)
		near(t, "what gone sent", p.text(`document.querySelector('[data-host="1"] [data-side="sent"] b').textContent`), 60*7500*8/600, 60)
		if got := p.text(`document.querySelector('[data-host="1"]').innerText`); !strings.Contains(got, "gone") || !strings.Contains(got, "no longer configured") || !strings.Contains(got, "7") {
			t.Errorf("the host that is gone: %q", got)
		}
		p.show("overview?w=60")
		p.await(`document.querySelectorAll('table tbody tr').length === 1`) // it is no agent
	})
	t.Run("gap", func(t *testing.T) {
		p.show(fmt.Sprintf("overview?w=3600&end=%d", gap+40000))
		p.await(`document.querySelector('.empty')?.innerText.includes('did not run')`)
		// Half of the window has nothing, which is no traffic of half the rate.
		p.show(fmt.Sprintf("overview?w=86400&end=%d", gap+43200))
		p.await(`document.querySelector('.split .note')?.textContent.includes('on average')`)
		near(t, "mean beside a gap", strings.Split(p.text(`document.querySelector('.split .note').textContent`), " on average")[0], 2*60*7500*8/600, 200)
	})
	t.Run("calendar", func(t *testing.T) {
		p.show(fmt.Sprintf("overview?w=3600&end=%d", gap-3*86400))
		p.await(`document.querySelector('.link-state.connected')`)
		p.key("d")
		p.await(`document.querySelector('.calendar').hidden === false && [...document.querySelectorAll(".day")].some((d) => d.title.includes("on average"))`)
		p.await(`document.activeElement.classList.contains('day')`)
		p.key(kb.ArrowLeft)
		p.key(kb.Enter)
		p.await(`document.querySelector('.calendar').hidden && document.body.classList.contains('paused')`)
		var window, end int64
		p.do(chromedp.Evaluate(`Number(/w=(\d+)/.exec(location.hash)[1])`, &window), chromedp.Evaluate(`Number(/end=(\d+)/.exec(location.hash)[1])`, &end))
		midnight := time.Unix(gap-3*86400-1, 0)
		midnight = time.Date(midnight.Year(), midnight.Month(), midnight.Day(), 0, 0, 0, 0, time.Local)
		if end != midnight.Unix() || window != midnight.Unix()-midnight.AddDate(0, 0, -1).Unix() {
			t.Errorf("the day before that: %d s up to %d, want up to %d", window, end, midnight.Unix())
		}
		p.key("d")
		p.await(`document.querySelector('.calendar').hidden === false`)
		p.key(kb.Escape)
		p.await(`document.querySelector('.calendar').hidden`)
	})
	t.Run("scrub", func(t *testing.T) {
		p.show("overview?w=86400")
		p.await(`document.querySelector('.link-state.connected') && document.querySelector('.past').getAttribute('aria-valuetext') === 'live'`)
		for range 45 { // a day each
			p.key(kb.ArrowLeft)
			p.do(chromedp.KeyEvent(kb.ArrowLeft, chromedp.KeyModifiers(8))) // Shift
		}
		p.await(`document.body.classList.contains('paused')`)
		var end int64
		p.do(chromedp.Evaluate(`Number(/end=(\d+)/.exec(location.hash)[1])`, &end))
		if end < first || end > first+2*86400 {
			t.Errorf("at the beginning: the window ends %d s after it", end-first)
		}
		p.await(`document.querySelector('.split .note')?.textContent.includes('on average')`)
	})
	t.Run("theme", func(t *testing.T) {
		p.show("overview?theme=dark")
		p.await(`document.documentElement.dataset.theme === 'dark'`)
		p.key("4")
		p.await(`location.hash.startsWith('#flows') && location.hash.includes('theme=dark')`)
		p.key("t")
		p.await(`document.documentElement.dataset.theme === 'light' && location.hash.includes('theme=light')`)
	})
	t.Run("phone", func(t *testing.T) {
		p.do(emulation.SetDeviceMetricsOverride(390, 844, 2, true))
		defer p.do(emulation.ClearDeviceMetricsOverride())
		p.show("overview?w=604800")
		p.await(`document.querySelector('.link-state.connected')`)
		p.do(chromedp.Click(".jump", chromedp.ByQuery))
		p.await(`document.querySelector('.calendar').hidden === false`)
		if wide := p.text(`document.documentElement.scrollWidth`); wide != "390" {
			t.Errorf("%s pixels wide on a phone of 390", wide)
		}
		var left, right float64
		p.do(chromedp.Evaluate(`document.querySelector('.calendar').getBoundingClientRect().left`, &left),
			chromedp.Evaluate(`document.querySelector('.calendar').getBoundingClientRect().right`, &right))
		if left < 0 || right > 390 {
			t.Errorf("the calendar lies from %g to %g", left, right)
		}
	})
	p.check()
}
