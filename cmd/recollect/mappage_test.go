package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
)

// fetchJSON reads what an address below url says.
func fetchJSON(t *testing.T, url string, to any) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(to); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, answer.Status, err)
	}
}

// place of a dot within the window of the browser.
func (p *page) place(dot string) (x, y float64) {
	p.t.Helper()
	text := p.text(fmt.Sprintf(`(() => { const b = document.querySelector('.map-canvas').getBoundingClientRect(); const [x, y] = document.querySelector('[data-dot=%q] button').dataset.at.split(',').map(Number); return [b.left + x, b.top + y]; })()`, dot))
	if _, err := fmt.Sscanf(text, "%g,%g", &x, &y); err != nil {
		p.t.Fatalf("where %s is: %q: %v", dot, text, err)
	}
	return x, y
}

// countsFrames has a page count how often it asks to draw.
const countsFrames = `{ const ask = requestAnimationFrame.bind(window); window.asked = 0; window.requestAnimationFrame = (f) => { window.asked++; return ask(f); }; }`

// TestMapPage: the home page is a map of the demo's hosts. It says the same as the API, shows a
// flow's way, keeps where hosts are dragged, and stands still for those who want that.
func TestMapPage(t *testing.T) {
	_, url := startCommand(t, t.TempDir(), "demo", "-lines")
	p := openPage(t, url, t.TempDir())
	p.do(chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := cdppage.AddScriptToEvaluateOnNewDocument(countsFrames).Do(ctx)
		return err
	}))
	p.show("")
	p.await(`document.querySelector('.page.map') && document.querySelectorAll('[data-dot]').length === 20`)
	p.await(`Number(document.querySelector('.map-canvas').dataset.lossy) > 5`)

	// Live numbers move on while they are compared; those of a time do not, once it is over.
	var m path.Map
	fetchJSON(t, url+"api/v1/map?from=-10", &m)
	p.show(fmt.Sprintf("map?w=10&end=%d", m.To))
	p.await(`document.querySelector('[data-figure="delivered"] b').textContent.match(/\d/)`)
	fetchJSON(t, fmt.Sprintf("%sapi/v1/map?from=%d&to=%d", url, m.To-10, m.To), &m)
	var arrived, lost uint64
	for _, d := range m.Delivery {
		arrived, lost = arrived+d.Delivered, lost+d.Lost
	}
	want := float64(arrived) / float64(arrived+lost)
	if got := number(t, strings.TrimSuffix(p.text(`document.querySelector('[data-figure="delivered"] div').textContent`), " ")); got < want-0.001 || got > want+0.001 {
		t.Errorf("delivered: the page says %g, the API %g", got, want)
	}
	if n := p.text(`document.querySelector('.map-canvas').dataset.links`); n == "0" {
		t.Error("there are no links in the past")
	}

	// The group's silent member has a cross, others say what they receive.
	p.show("map")
	p.await(`document.querySelector('.map-flows button')`)
	p.do(chromedp.Evaluate(`[...document.querySelectorAll('.map-flows button')].find((b) => b.textContent.startsWith('orders')).click()`, nil))
	p.await(`/pick=10.20.0.1/.test(decodeURIComponent(location.hash)) && document.querySelector('[data-dot="scout-6"]').textContent.includes('receives nothing')`)
	if got := p.text(`document.querySelector('[data-dot="scout-1"]').textContent`); !strings.Contains(got, "member") || !strings.Contains(got, "9") {
		t.Errorf("scout-1 of the orders: %q, want a member and its share", got)
	}
	if links, nodes := p.text(`document.querySelector('.map-canvas').dataset.links`), p.text(`document.querySelectorAll('[data-dot]').length`); links != "12" || nodes != "20" {
		t.Errorf("the orders take %s links between %s hosts, want 12 (5 from base, 1 to mast, 6 from there) and 20", links, nodes)
	}
	p.key("Escape")

	// A host stays where it is put.
	p.show("map")
	// Links have come, and with them the layout.
	p.await(`document.querySelector('[data-dot="base"] button')?.dataset.at && Number(document.querySelector('.map-canvas').dataset.links) > 20`)
	x, y := p.place("base")
	p.do(
		input.DispatchMouseEvent(input.MousePressed, x, y).WithButton(input.Left).WithClickCount(1),
		input.DispatchMouseEvent(input.MouseMoved, x+40, y+20).WithButton(input.Left).WithButtons(1),
		input.DispatchMouseEvent(input.MouseMoved, x+90, y+50).WithButton(input.Left).WithButtons(1),
		input.DispatchMouseEvent(input.MouseReleased, x+90, y+50).WithButton(input.Left).WithClickCount(1),
	)
	p.await(`localStorage.getItem('pcapper-map')?.includes('"base"')`)
	if gx, gy := p.place("base"); gx < x+88 || gx > x+92 || gy < y+48 || gy > y+52 {
		t.Errorf("base was dragged by 90, 50 from %g, %g and is at %g, %g", x, y, gx, gy)
	}
	kept := p.text(`localStorage.getItem('pcapper-map')`)
	p.do(chromedp.Reload())
	p.await(`document.querySelectorAll('[data-dot]').length === 20 && Number(document.querySelector('.map-canvas').dataset.links) > 20`)
	if got := p.text(`localStorage.getItem('pcapper-map')`); got != kept {
		t.Errorf("after a reload base is kept at %s, was at %s", got, kept)
	}

	// Something is drawn, and it moves unless that is not wanted.
	if n := p.text(`(() => { const c = document.querySelector('.map-canvas canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const seen = new Set(); for (let i = 0; i < d.length; i += 40) seen.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); return seen.size; })()`); len(n) < 2 {
		t.Errorf("the canvas has %s colours", n)
	}
	// asks reports whether, in some two seconds soon, the page asks to draw as often as is right.
	asks := func(right func(times int) bool) (times int, ok bool) {
		ok = nettest.Eventually(patience, func() bool {
			before, _ := strconv.Atoi(p.text(`window.asked`))
			time.Sleep(2 * time.Second)
			after, _ := strconv.Atoi(p.text(`window.asked`))
			times = after - before
			return right(times)
		})
		return times, ok
	}
	if n, ok := asks(func(n int) bool { return n >= 15 }); !ok {
		t.Errorf("got %d frames in two seconds, want 15 or more: nothing moves", n)
	}
	p.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-reduced-motion", Value: "reduce"}}))
	p.show("map")
	p.await(`Number(document.querySelector('.map-canvas').dataset.links) > 20`)
	// A second brings some answers, each drawn once; the layout may take a moment.
	if n, ok := asks(func(n int) bool { return n <= 14 }); !ok {
		t.Errorf("got %d frames in two seconds, want 14 or fewer: motion is not wanted", n)
	}
	p.check()
}

// madeUpHosts is a collector of n made-up hosts in subnets of 25, each of which sends to its neighbour and
// to its subnet's first; one in eleven packets is lost. It gives the page's address.
func madeUpHosts(t *testing.T, n int) string {
	if _, err := withPage(); err != nil { // in the directory that assets are read from
		t.Fatal(err)
	}
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i / 25), byte(i%25 + 1)}) }
	source := &collector.Source{}
	for i := range n {
		source.Hosts = append(source.Hosts, collector.Host{Label: fmt.Sprintf("n%d", i+1), Name: addr(i).String(), From: true, IPFIX: true})
	}
	source.Run = func(ctx context.Context, take func(int, []wire.Record)) error {
		digest := uint64(1)
		for tick := time.NewTicker(400 * time.Millisecond); ; digest++ {
			select {
			case <-ctx.Done():
				return nil
			case now := <-tick.C:
				for i := range n {
					for _, to := range []int{(i + 1) % n, i / 25 * 25} {
						if to == i {
							continue
						}
						digest += 1 << 20
						r := wire.Record{
							Time: now.UnixNano(), Src: addr(i).As16(), Dst: addr(to).As16(), SrcPort: 4000, DstPort: 5000, Proto: wire.ProtoUDP,
							Length: 1000, TTL: 64, Digest: digest, Flags: wire.Outgoing,
						}
						take(i, []wire.Record{r})
						r.Flags = wire.Incoming
						if digest>>20%11 != 0 {
							take(to, []wire.Record{r})
						}
					}
				}
			}
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg := collector.Config{Unconfined: true, // this process is the test, which starts a browser
		Stdout: null, Stderr: null, Lines: true, Source: source, File: &collector.File{}, Palette: &collector.Palette{}, Names: collector.NewNames(&collector.NameFile{}, false)}
	if err := addLocalPage(&cfg, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- collector.Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		null.Close()
	})
	// This program may have been built before the page.
	data, err := url.Parse(cfg.Page)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(data)
	proxy.FlushInterval = -1
	mux := http.NewServeMux()
	mux.Handle("/api/", proxy)
	mux.Handle("/", http.FileServer(http.Dir("../../internal/collector/web/dist")))
	server := httptest.NewServer(mux)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.URL + "/"
}

// TestMapOfFleet: 500 hosts are 20 subnets, one of which opens; when all are open, a host can be
// dragged, and frames follow each other. How fast they do is logged.
func TestMapOfFleet(t *testing.T) {
	p := openPage(t, madeUpHosts(t, 500), t.TempDir())
	p.show("map?w=60")
	p.await(`document.querySelectorAll('[data-dot]').length === 20 && Number(document.querySelector('.map-canvas').dataset.links) >= 19`)
	p.await(`document.querySelector('[data-figure="worst"] b').textContent.includes('→')`)
	if n := p.text(`document.querySelectorAll('*').length`); number(t, n) > 2000 {
		t.Errorf("%s elements, want at most 2,000", n)
	}
	p.do(chromedp.Evaluate(`document.querySelector('[data-dot="/10.1.0.0/24"] button').click()`, nil))
	p.await(`document.querySelectorAll('[data-dot]').length === 44 && document.querySelector('[data-dot="n25"]')`)
	p.do(chromedp.Evaluate(`for (let i = 1; i < 20; i++) document.querySelector('[data-dot="/10.1.' + i + '.0/24"] button')?.click()`, nil))
	p.await(`Number(document.querySelector('.map-canvas').dataset.links) > 900`)
	x, y := p.place("n1")
	p.do(input.DispatchMouseEvent(input.MousePressed, x, y).WithButton(input.Left).WithClickCount(1),
		input.DispatchMouseEvent(input.MouseMoved, x+30, y+30).WithButton(input.Left).WithButtons(1))
	// One frame after the other while it is dragged, each of which draws everything.
	p.do(chromedp.Evaluate(`(async () => {
		const c = document.querySelector('.map-canvas canvas[role]'), times = [];
		let last = performance.now();
		for (let i = 0; i < 60; i++) {
			c.dispatchEvent(new PointerEvent('pointermove', { pointerId: 1, clientX: `+fmt.Sprint(x)+` + i, clientY: `+fmt.Sprint(y)+` + i, buttons: 1 }));
			await new Promise((f) => requestAnimationFrame(f));
			const now = performance.now();
			times.push(now - last);
			last = now;
		}
		times.sort((a, b) => a - b);
		window.took = [times[30], times[57]].map((v) => v.toFixed(1)).join(' and ');
	})()`, nil))
	took := p.find(`window.took`)
	t.Logf("a frame of 500 hosts takes %s ms (median, 95 %%) while one is dragged", took)
	p.do(input.DispatchMouseEvent(input.MouseReleased, x+60, y+60).WithButton(input.Left).WithClickCount(1))
	p.check()
}
