package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

// Names that would do harm if they were taken for markup.
const (
	hostileLabel = `<b/onclick=alert(1)>n3`
	hostileFlow  = `<img src=x onerror=alert(1)>`
)

// pageViews are the routes of all views, in the order of their tabs and keys.
var pageViews = []string{"map", "overview", "paths", "flows", "hosts", "matrix", "mgen", "talkers"}

// patience is for what takes a moment on a busy machine.
const patience = 40 * time.Second

// lab is a network with agents and a collector, whose page is at url.
type lab struct {
	t     *testing.T
	hosts []*nettest.Host // n1 to n3 with agents, and one for the collector
	dir   string
	bin   string // the programs
	url   string

	collector *nettest.Cmd
}

// newLab starts everything. The way to n3 is too narrow for what runTraffic
// sends there.
func newLab(t *testing.T) *lab {
	programs, err := withPage()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, dir: t.TempDir(), bin: programs}
	l.hosts = nettest.Bridge(t, 4)
	l.run(l.hosts[2].Switch, "tc", "qdisc", "add", "dev", "to-"+l.hosts[2].Name, "root", "tbf", "rate", "860kbit", "burst", "3000", "limit", "9000")
	conf := "1=M101\n2=M102\n3=M201\n"
	for i, label := range []string{"n1", "n2", hostileLabel} {
		h := l.hosts[i]
		l.run(h, "ip", "route", "add", "224.0.0.0/4", "dev", h.Interface.Name)
		l.start(h, filepath.Join(l.bin, "pcapper"), "-i", h.Interface.Name, "-m", "none", "-ipfix-port", "4739", "-f", filepath.Join(l.dir, "log"+strconv.Itoa(i)))
		conf += fmt.Sprintf("%s:ipfix://%s:4739\n", label, h.Interface.IPv4)
	}
	l.write("collector.conf", conf)
	l.write("mwmg.conf", "["+hostileFlow+"]\nColor=#123456\nRelay=#654321\n")
	l.startCollector()
	l.url = l.forward(l.hosts[3], "127.0.0.1:7080")
	l.await("the page", func() bool {
		answer, err := http.Get(l.url + "healthz")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		var health struct{ Connected int }
		json.NewDecoder(answer.Body).Decode(&health)
		return health.Connected == 3
	})
	return l
}

func (l *lab) write(name, text string) {
	if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) run(h *nettest.Host, name string, args ...string) {
	l.t.Helper()
	if out, err := h.Command(context.Background(), name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// start runs a program on a host until the test ends.
func (l *lab) start(h *nettest.Host, name string, args ...string) *nettest.Cmd {
	l.t.Helper()
	cmd := h.Command(context.Background(), name, args...)
	cmd.Dir = l.dir
	said := &bytes.Buffer{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if l.t.Failed() {
			l.t.Logf("%s said:\n%s", filepath.Base(name), said)
		}
	})
	return cmd
}

func (l *lab) startCollector() {
	l.collector = l.start(l.hosts[3], filepath.Join(l.bin, "recollect"), "-http", "127.0.0.1:7080", "-c", "collector.conf")
}

// forward makes an address of a host's namespace one of ours, where browsers
// are.
func (l *lab) forward(h *nettest.Host, address string) (url string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			here, err := listener.Accept()
			if err != nil {
				return
			}
			there, err := h.Dial("tcp", address)
			if err != nil {
				here.Close()
				continue
			}
			go func() { io.Copy(there, here); there.Close(); here.Close() }()
			go func() { io.Copy(here, there); there.Close(); here.Close() }()
		}
	}()
	return "http://" + listener.Addr().String() + "/"
}

func (l *lab) await(what string, ok func() bool) {
	l.t.Helper()
	if !nettest.Eventually(patience, ok) {
		l.t.Fatalf("%s: not within %v", what, patience)
	}
}

// message is a line of an mgen log.
type message struct {
	seq        int
	sent, recv float64 // seconds of the day; recv is 0 at the sender
}

var logLine = regexp.MustCompile(`^(\d\d):(\d\d):(\d\d\.\d+) (SEND|RECV) proto>UDP flow>(\d+) seq>(\d+) .*?(?:sent>(\d\d):(\d\d):(\d\d\.\d+) )?size>`)

// readLog is what an mgen said, by flow.
func (l *lab) readLog(name string) map[int][]message {
	f, err := os.Open(filepath.Join(l.dir, name))
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	clock := func(h, m, s string) float64 {
		hours, _ := strconv.Atoi(h)
		minutes, _ := strconv.Atoi(m)
		seconds, _ := strconv.ParseFloat(s, 64)
		return float64(hours*3600+minutes*60) + seconds
	}
	flows := make(map[int][]message)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		m := logLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		flow, _ := strconv.Atoi(m[5])
		seq, _ := strconv.Atoi(m[6])
		one := message{seq: seq, sent: clock(m[1], m[2], m[3])}
		if m[4] == "RECV" {
			one.recv, one.sent = one.sent, clock(m[7], m[8], m[9])
		}
		flows[flow] = append(flows[flow], one)
	}
	return flows
}

// traffic is what mgen's logs say of a run: who sent and who received which
// messages, and when in UNIX seconds.
type traffic struct {
	sent     map[int][]message   // by flow
	received []map[int][]message // by host, by flow
	from, to int64               // the first second, and the one after the last
}

// runTraffic sends for about ten seconds: 101 from n1 to n2, 102 from n2 to n3,
// 201 from n1 to both. The mgens have real-time priority: they stamp messages
// when they get to run, which on a busy machine may be milliseconds after the
// kernel had them.
func (l *lab) runTraffic() *traffic {
	tr := &traffic{sent: make(map[int][]message), from: time.Now().Unix() - 1}
	var receivers []*nettest.Cmd
	for i := range 3 {
		receivers = append(receivers, l.start(l.hosts[i], "chrt", "-f", "50", "mgen", "event", "listen udp 5001-5003",
			"event", "join 239.1.1.1 interface eth0", "output", fmt.Sprintf("rx%d", i)))
	}
	time.Sleep(time.Second) // mgen does not say when it listens
	events := [][]string{
		{"on 101 udp src 4101 dst 10.77.0.2/5001 periodic [100 512] count 1000", "on 201 udp src 4201 dst 239.1.1.1/5003 periodic [50 1000] count 500 interface eth0"},
		{"on 102 udp src 4102 dst 10.77.0.3/5002 periodic [200 256] count 2000"},
	}
	var wait sync.WaitGroup
	for i, list := range events {
		args := []string{"txlog", "output", fmt.Sprintf("tx%d", i)}
		for _, e := range list {
			args = append(args, "event", e)
		}
		cmd := l.start(l.hosts[i], "chrt", append([]string{"-f", "50", "mgen"}, args...)...)
		wait.Go(func() { cmd.Wait() })
	}
	wait.Wait()
	time.Sleep(500 * time.Millisecond) // for what is queued
	for _, cmd := range receivers {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}
	tr.to = time.Now().Unix() + 1
	for i := range events {
		for flow, list := range l.readLog(fmt.Sprintf("tx%d", i)) {
			tr.sent[flow] = list
		}
	}
	for i := range 3 {
		tr.received = append(tr.received, l.readLog(fmt.Sprintf("rx%d", i)))
	}
	return tr
}

// in counts the messages sent in a UNIX second.
func in(list []message, second int64) (n float64) {
	start := float64(second % 86400)
	for _, m := range list {
		if m.sent >= start && m.sent < start+1 {
			n++
		}
	}
	return n
}

// loss is the part of the messages up to the last one received that did not
// come, and delay the mean of those that did, in seconds.
func loss(list []message) (lost, delay float64) {
	last := 0
	for _, m := range list {
		last = max(last, m.seq)
		delay += m.recv - m.sent
	}
	return 1 - float64(len(list))/float64(last+1), delay / float64(len(list))
}

// reordered is how many messages came after one with a higher number (RFC 4737). The
// kernel keeps no order between processors: a sender that moves to another one, while
// the one before has yet to deliver, is overtaken by itself.
func reordered(list []message) (n float64) {
	highest := -1
	for _, m := range list {
		if m.seq < highest {
			n++
		}
		highest = max(highest, m.seq)
	}
	return n
}

// page is a browser that shows the page, and what it complained about.
type page struct {
	t   *testing.T
	ctx context.Context
	url string

	mu         sync.Mutex
	complaints []string
	offline    bool // the server is away, and it may be said so
}

func openPage(t *testing.T, url, downloads string) *page {
	said := &bytes.Buffer{}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox,
		// Otherwise the browser is killed with the thread that has started it
		// (PR_SET_PDEATHSIG), and threads end that were in another namespace.
		chromedp.ModifyCmdFunc(func(*exec.Cmd) {}), chromedp.Flag("disable-gpu", true), chromedp.WindowSize(1440, 900), chromedp.CombinedOutput(said))
	if path, err := exec.LookPath("chromium"); err == nil {
		options = append(options, chromedp.ExecPath(path))
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(func() {
		cancel()
		chromedp.FromContext(allocator).Allocator.Wait()
		if t.Failed() {
			t.Logf("the browser said:\n%s", said)
		}
	})
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	p := &page{t: t, ctx: ctx, url: url}
	chromedp.ListenTarget(ctx, p.listen)
	p.do(log.Enable(), runtime.Enable(), network.Enable(),
		browser.SetDownloadBehavior(browser.SetDownloadBehaviorBehaviorAllow).WithDownloadPath(downloads).WithEventsEnabled(true))
	return p
}

// listen keeps errors, and requests to others.
func (p *page) listen(event any) {
	complain := func(format string, args ...any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.complaints = append(p.complaints, fmt.Sprintf(format, args...))
	}
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		complain("exception: %s %v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
	case *runtime.EventConsoleAPICalled:
		complain("console.%s: %v", e.Type, e.Args)
	case *log.EventEntryAdded:
		p.mu.Lock()
		offline := p.offline && e.Entry.Source == log.SourceNetwork
		p.mu.Unlock()
		if !offline {
			complain("%s: %s: %s", e.Entry.Source, e.Entry.Level, e.Entry.Text)
		}
	case *network.EventRequestWillBeSent:
		if to := e.Request.URL; !strings.HasPrefix(to, p.url) && !strings.HasPrefix(to, "blob:"+p.url) && !strings.HasPrefix(to, "data:") && to != "about:blank" {
			complain("request to %s", to)
		}
	}
}

func (p *page) setOffline(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offline = on
}

// check fails the test for what the browser complained about.
func (p *page) check() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.complaints {
		p.t.Errorf("the browser complains: %s", c)
	}
	p.complaints = nil
}

func (p *page) do(actions ...chromedp.Action) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if p.ctx.Err() == nil && chromedp.FromContext(p.ctx).Target == nil {
		ctx = p.ctx // the first one starts the browser, which lives as long as its context
	}
	if err := chromedp.Run(ctx, actions...); err != nil {
		p.t.Fatalf("browser: %v", err)
	}
}

// text evaluates an expression to a string.
func (p *page) text(js string) (s string) {
	p.t.Helper()
	p.do(chromedp.Evaluate("String("+js+")", &s))
	return s
}

// find waits until an expression is neither null nor undefined, and gives it.
func (p *page) find(js string) string {
	p.t.Helper()
	p.await("(" + js + ") != null")
	return p.text(js)
}

// await waits until an expression is true.
func (p *page) await(js string) {
	p.t.Helper()
	ok := false
	if !nettest.Eventually(patience, func() bool {
		p.do(chromedp.Evaluate("Boolean("+js+")", &ok))
		return ok
	}) {
		p.t.Fatalf("not within %v: %s at %s; the page says: %.600s", patience, js, p.text(`location.hash`), p.text(`document.body.innerText`))
	}
}

// show opens a view by its address, as a bookmark does.
func (p *page) show(hash string) {
	p.t.Helper()
	p.do(chromedp.Navigate("about:blank"), chromedp.Navigate(p.url+"#"+hash))
	p.await(`document.querySelector('.tab[aria-current]') && document.querySelector('#view .page')`)
}

func (p *page) key(keys string) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(keys))
}

var quantity = regexp.MustCompile(`^(−?)([\d.]+)([kMGµm]?)(bit/s|B/s|pkt/s|s|%|)$`)

// number reads what the page writes: 1.51 Mbit/s, 12 345, 4.2 %, 31 ms.
func number(t *testing.T, text string) float64 {
	t.Helper()
	m := quantity.FindStringSubmatch(strings.Join(strings.Fields(strings.ReplaceAll(text, "\u202f", " ")), ""))
	if m == nil {
		t.Errorf("%q is no number", text)
		return math.NaN()
	}
	v, _ := strconv.ParseFloat(m[2], 64)
	v *= map[string]float64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "m": 1e-3, "µ": 1e-6}[m[3]]
	if m[4] == "%" {
		v /= 100
	}
	if m[1] != "" {
		v = -v
	}
	return v
}

// near fails unless a number of the page is within 1 % of mgen's, or by less
// than slack beside it.
func near(t *testing.T, what, text string, want, slack float64) {
	t.Helper()
	if got := number(t, text); !(math.Abs(got-want) <= 0.01*math.Abs(want)+slack) {
		t.Errorf("%s: the page says %q, mgen's logs %g", what, text, want)
	}
}

// TestPage: real agents, real mgen, a real browser.
func TestPage(t *testing.T) {
	// Alone: a second that an agent could not be heard in is missing from its means.
	l := newLab(t)
	// The traffic's first second should be one that all agents were watching in.
	connected := time.Now().Unix()
	l.await("two seconds with all agents", func() bool { return l.frame().Complete > connected+1 })
	tr := l.runTraffic()
	downloads := t.TempDir()
	p := openPage(t, l.url, downloads)
	l.await("the newest second", func() bool { return l.frame().Complete > tr.to+1 })

	// Ranges that hold all of the traffic, and a second in its middle.
	seconds := float64(tr.to - max(tr.from, l.frame().Oldest))
	all := fmt.Sprintf("w=%d&end=%d", tr.to-tr.from, tr.to)
	middle := tr.from + (tr.to-tr.from)/2
	then := fmt.Sprintf("w=10&u=packets&end=%d", middle+1)
	sent := func(flow int) float64 { return float64(len(tr.sent[flow])) }
	if len(tr.sent[101]) != 1000 || len(tr.received[2][102]) == len(tr.sent[102]) {
		t.Fatalf("mgen sent %d of 1000; %d of %d came through the narrow link: want fewer", len(tr.sent[101]), len(tr.received[2][102]), len(tr.sent[102]))
	}
	bits := map[int]float64{101: 8 * 540, 102: 8 * 284, 201: 8 * 1028} // of a packet
	sum := (sent(101)*bits[101] + sent(102)*bits[102] + sent(201)*bits[201]) / seconds

	t.Run("overview", func(t *testing.T) {
		p.show("overview?" + all)
		p.await(`document.querySelector('.panel .note')?.textContent.includes('on average')`)
		near(t, "mean rate", strings.Split(p.text(`document.querySelector('.split .note').textContent`), " on average")[0], sum, 0)
		if got := p.text(`document.querySelector('[data-figure="monitoring"]').textContent`); !strings.Contains(got, "3 of 3 agents connected") {
			t.Errorf("agents: %q", got)
		}
		p.show("overview?" + then)
		p.await(`document.querySelector('.bar[data-host="0"] em')?.textContent.match(/[1-9]/)`)
		near(t, "n1 now", p.text(`document.querySelector('.bar[data-host="0"] em').textContent`), in(tr.sent[101], middle)+in(tr.sent[201], middle), 2)
	})
	t.Run("flows", func(t *testing.T) {
		p.show("flows?" + then)
		p.await(`document.querySelector('[data-row="0"] [data-host="0"] em')?.textContent.match(/[1-9]/)`)
		near(t, "flow 1 at n1 now", p.text(`document.querySelector('[data-row="0"] [data-host="0"] em').textContent`), in(tr.sent[101], middle), 1)
		near(t, "flow 2 at n1 now", p.text(`document.querySelector('[data-row="1"] [data-host="0"] em').textContent`), 0, 0)
		near(t, "flow 3 now, each packet once", p.text(`document.querySelector('[data-row="2"] .now').textContent`), in(tr.sent[201], middle), 1)
		if color := p.text(`getComputedStyle(document.querySelector('[data-row="0"] .swatch')).backgroundColor`); color != "rgb(18, 52, 86)" {
			t.Errorf("flow 1 has the colour %s, not mwmg.conf's", color)
		}
	})
	t.Run("hosts", func(t *testing.T) {
		p.show("hosts?" + all)
		side := func(host int, name string) string {
			return fmt.Sprintf(`document.querySelector('[data-host="%d"] [data-side="%s"] b')`, host, name)
		}
		p.await(side(0, "sent") + `?.textContent.match(/[1-9]/)`)
		near(t, "n1 sent", p.text(side(0, "sent")+".textContent"), (sent(101)*bits[101]+sent(201)*bits[201])/seconds, 300)
		near(t, "n3 received", p.text(side(2, "received")+".textContent"),
			(float64(len(tr.received[2][102]))*bits[102]+float64(len(tr.received[2][201]))*bits[201])/seconds, 300)
	})
	t.Run("matrix", func(t *testing.T) {
		p.show("matrix?" + all)
		p.await(`document.querySelector('.heat td.on') && document.querySelector('tr[data-group="239.1.1.1"] .fold')`)
		p.do(chromedp.Evaluate(`document.querySelector('tr[data-group="239.1.1.1"] .fold').click()`, nil))
		share := `document.querySelector('tr[data-group="239.1.1.1"][data-receiver="%d"] [data-column="share"]').textContent`
		title := p.find(`[...document.querySelectorAll('.heat td.on')].map((c) => c.title).find((s) => /^n1( \(10.77.0.1\))? to n2/.test(s))`)
		near(t, "n1 to n2", strings.Split(title, "\n")[1], sent(101)*bits[101]/seconds, 0)
		title = p.find(`[...document.querySelectorAll('.heat td.on')].map((c) => c.title).find((s) => /^n2( \(10.77.0.2\))? to <b/.test(s))`)
		lost, _ := loss(tr.received[2][102])
		near(t, "n2 to n3, lost", strings.Fields(strings.Split(title, "loss ")[1])[0]+" %", lost, 0.0006)
		near(t, "part of the multicast that n3 gets", p.text(fmt.Sprintf(share, 2)),
			float64(len(tr.received[2][201]))/sent(201), 0)
		near(t, "part of the multicast that n2 gets", p.text(fmt.Sprintf(share, 1)), 1, 0)
	})
	t.Run("mgen", func(t *testing.T) {
		p.show("mgen?" + all)
		p.await(`document.querySelectorAll('tr[data-flow]').length >= 3`)
		p.do(chromedp.Evaluate(`document.querySelector('tr[data-flow="201"] .fold').click()`, nil))
		p.await(`document.querySelector('tr.child[data-flow="201"][data-receiver="2"]')`)
		for _, test := range []struct{ flow, receiver int }{{101, 1}, {102, 2}, {201, 1}, {201, 2}} {
			name := fmt.Sprintf("flow %d at agent %d", test.flow, test.receiver)
			cell := func(column string) string {
				return p.text(fmt.Sprintf(`document.querySelector('tr[data-flow="%d"][data-receiver="%d"] [data-column="%s"]').textContent`, test.flow, test.receiver, column))
			}
			got := tr.received[test.receiver][test.flow]
			lost, delay := loss(got)
			near(t, name+", sent", cell("sent"), sent(test.flow), 0)
			near(t, name+", received", cell("received"), float64(len(got)), 0)
			near(t, name+", rate", cell("rate"), float64(len(got))*bits[test.flow]/seconds, 0)
			near(t, name+", delivered", cell("delivered"), 1-lost, 0.0006)
			if all, arrived, lost, unseen := number(t, cell("sent")), number(t, cell("received")), number(t, cell("lost")), number(t, cell("unobserved")); all != arrived+lost+unseen {
				t.Errorf("%s: sent %g is not %g on the interface + %g lost + %g not observed", name, all, arrived, lost, unseen)
			}
			// mgen stamps a message some time after the kernel has seen it.
			near(t, name+", delay", cell("delay"), delay, 0.0005)
			near(t, name+", reordered", cell("reordered"), reordered(got), 0)
		}
		p.do(chromedp.Click(`tr[data-flow="102"]`, chromedp.ByQuery))
		p.await(`location.hash.includes('mgen=102') && document.querySelectorAll('.mgen-detail canvas').length >= 5`)
	})
	t.Run("talkers", func(t *testing.T) {
		p.show("talkers?" + all)
		row := `document.querySelector('[data-key="10.77.0.2 4102 10.77.0.3 5002 17"]')`
		p.await(row)
		near(t, "packets of flow 102", p.text(row+`.lastElementChild.textContent`), sent(102), 0)
		near(t, "rate of flow 102", p.text(row+`.children[5].textContent`), sent(102)*bits[102]/seconds, 0)
	})
	t.Run("text stays text", func(t *testing.T) {
		for _, view := range pageViews {
			p.show(view + "?" + all)
			p.await(`document.querySelector('#view .page').innerText.length > 100`)
			want := hostileLabel
			if view == "flows" || view == "talkers" {
				want = hostileFlow
			}
			p.await(fmt.Sprintf(`document.querySelector('#view').textContent.includes(%q)`, want))
			if n := p.text(`document.querySelectorAll('#view img, #view [onclick], #view [onerror]').length`); n != "0" {
				t.Errorf("%s: %s elements were made of names", view, n)
			}
		}
	})
	t.Run("keys", func(t *testing.T) { testKeys(t, p) })
	t.Run("mouse", func(t *testing.T) { testMouse(t, p) })
	t.Run("download", func(t *testing.T) { testDownload(t, p, downloads, all) })
	t.Run("phone", func(t *testing.T) {
		p.do(emulation.SetDeviceMetricsOverride(390, 844, 2, true))
		defer p.do(emulation.ClearDeviceMetricsOverride())
		for _, view := range pageViews {
			p.show(view + "?" + all)
			p.await(`document.querySelector('#view .page').innerText.length > 50`)
			if wide := p.text(`document.documentElement.scrollWidth`); wide != "390" {
				t.Errorf("%s: %s pixels wide on a phone of 390", view, wide)
			}
		}
	})
	p.check()
	t.Run("restart", func(t *testing.T) {
		p.setOffline(true)
		p.show("overview")
		p.await(`document.querySelector('.link-state.connected')`)
		run := l.frame().Run
		l.collector.Process.Kill()
		p.await(`document.querySelector('.link-state.failed') && document.querySelector('.notice').textContent.includes('Connection to recollect lost')`)
		l.startCollector()
		p.await(`document.querySelector('.link-state.connected') && document.querySelector('.notice').hidden`)
		l.await("all agents", func() bool {
			return strings.Contains(p.text(`document.querySelector('[data-figure="monitoring"]').textContent`), "3 of 3 agents connected")
		})
		if l.frame().Run == run {
			t.Error("the collector was not started again")
		}
		p.setOffline(false)
	})
	p.check()
}

// frame is the collector's newest.
func (l *lab) frame() (f struct {
	Run              string
	Complete, Oldest int64
}) {
	answer, err := http.Get(l.url + "api/v1/frame")
	if err != nil {
		return f
	}
	defer answer.Body.Close()
	json.NewDecoder(answer.Body).Decode(&f)
	return f
}

// testKeys: everything can be done without a mouse, and the address keeps it.
func testKeys(t *testing.T, p *page) {
	p.show("overview")
	p.await(`document.querySelector('.link-state.connected')`)
	for i, view := range pageViews {
		p.key(strconv.Itoa(i + 1))
		p.await(fmt.Sprintf(`location.hash.startsWith('#%s') && document.querySelector('.page.%s')`, view, view))
	}
	p.key("2")
	p.await(`document.querySelector('.page.overview')`)
	p.key(" ")
	p.await(`document.body.classList.contains('paused') && /end=\d+/.test(location.hash)`)
	end := func() float64 { return number(t, p.text(`/end=(\d+)/.exec(location.hash)[1]`)) }
	paused := end()
	time.Sleep(1500 * time.Millisecond)
	if end() != paused {
		t.Error("time goes on while the page is paused")
	}
	p.key(kb.ArrowLeft)
	if got := end(); got != paused-30 {
		t.Errorf("left: %g seconds back, want a tenth of the window, 30", paused-got)
	}
	p.key(kb.ArrowRight)
	p.key(kb.ArrowRight)
	p.await(`!document.body.classList.contains('paused')`) // at the end it is live
	p.key(kb.ArrowLeft)
	p.key("+")
	p.await(`location.hash.includes('w=60')`)
	p.key("-")
	p.key("-")
	p.await(`location.hash.includes('w=900')`)
	p.key("u")
	p.await(`location.hash.includes('u=bytes') && document.querySelector('.tools [data-value="bytes"]').getAttribute('aria-pressed') === 'true'`)

	// What the address says is what a reload shows.
	before := p.text(`location.hash`)
	p.do(chromedp.Reload())
	p.await(`document.querySelector('.link-state.connected') && document.body.classList.contains('paused')`)
	if after := p.text(`location.hash`); after != before {
		t.Errorf("reloaded: %s became %s", before, after)
	}
	p.await(`document.querySelector('.when [data-value="900"]').getAttribute('aria-pressed') === 'true'`)

	p.key("l")
	p.await(`!document.body.classList.contains('paused') && !location.hash.includes('end=')`)
	dark := `getComputedStyle(document.body).backgroundColor`
	before = p.text(dark)
	p.key("t")
	p.await(dark + ` !== ` + strconv.Quote(before))
	p.key("t")
	p.key("?")
	p.await(`document.querySelector('dialog.help').open`)
	p.key(kb.Escape)
	p.await(`!document.querySelector('dialog.help').open`)
	p.show("talkers?w=900")
	p.await(`document.querySelector('tr[data-key]')`)
	p.do(input.DispatchKeyEvent(input.KeyRawDown).WithKey("/"))
	p.await(`document.activeElement.matches('.filter')`)
	p.key("5002")
	p.await(`document.querySelectorAll('tr[data-key]').length === 1 && location.hash.includes('q=5002')`)
	p.key(kb.Escape)
	p.await(`document.querySelectorAll('tr[data-key]').length > 1`)
}

// testMouse: dragging in a chart zooms, dragging the handle of the time strip
// scrubs.
func testMouse(t *testing.T, p *page) {
	p.show("overview")
	p.await(`document.querySelector('.link-state.connected') && document.querySelector('.u-over')?.clientWidth > 300`)
	drag := func(selector string, from, to float64) {
		t.Helper()
		var box []float64
		p.do(chromedp.Evaluate(fmt.Sprintf(`(() => { const b = document.querySelector(%q).getBoundingClientRect(); return [b.left, b.top + b.height / 2, b.width]; })()`, selector), &box))
		at := func(part float64) float64 { return box[0] + part*box[2] }
		p.do(
			input.DispatchMouseEvent(input.MouseMoved, at(from), box[1]),
			input.DispatchMouseEvent(input.MousePressed, at(from), box[1]).WithButton(input.Left).WithClickCount(1),
			input.DispatchMouseEvent(input.MouseMoved, at((from+to)/2), box[1]).WithButton(input.Left).WithButtons(1),
			input.DispatchMouseEvent(input.MouseMoved, at(to), box[1]).WithButton(input.Left).WithButtons(1),
			input.DispatchMouseEvent(input.MouseReleased, at(to), box[1]).WithButton(input.Left).WithClickCount(1),
		)
	}
	drag(".u-over", 0.25, 0.75)
	p.await(`document.body.classList.contains('paused')`)
	if w := number(t, p.text(`/w=(\d+)/.exec(location.hash)[1]`)); w < 148 || w > 154 {
		t.Errorf("half of 300 s marked: the window is now %g s", w)
	}
	p.show("overview?w=60")
	p.await(`document.querySelector('.link-state.connected') && document.querySelector('.past').getAttribute('aria-valuetext') === 'live'`)
	drag(".past", 0.95, 0.5) // the handle is a tenth of the strip, at its right end
	p.await(`document.body.classList.contains('paused') && /end=\d+/.test(location.hash)`)
	newest := number(t, p.text(`document.querySelector('.past').getAttribute('aria-valuemax')`))
	if back := newest - number(t, p.text(`/end=(\d+)/.exec(location.hash)[1]`)); back < 260 || back > 280 {
		t.Errorf("dragged by 45 %% of 600 s: %g s back", back)
	}
	p.do(chromedp.Click(".live", chromedp.ByQuery))
	p.await(`!document.body.classList.contains('paused')`)
}

// testDownload: the CSV has the numbers of the view, and the PNG is a picture.
func testDownload(t *testing.T, p *page, dir, all string) {
	p.show("talkers?" + all)
	p.await(`document.querySelector('tr[data-key]')`)
	find := func(pattern string) (data []byte) {
		t.Helper()
		if !nettest.Eventually(patience, func() bool {
			names, _ := filepath.Glob(filepath.Join(dir, pattern))
			if len(names) == 0 {
				return false
			}
			data, _ = os.ReadFile(names[0])
			return len(data) > 0
		}) {
			t.Fatalf("no file %s", pattern)
		}
		return data
	}
	p.key("c")
	if text := string(find("pcapper-talkers-*.csv")); !strings.Contains(text, "10.77.0.2,4102,10.77.0.3,5002,UDP,2,") {
		t.Errorf("CSV: %.300s", text)
	}
	p.key("p")
	picture, err := png.Decode(bytes.NewReader(find("pcapper-talkers-*.png")))
	if err != nil {
		t.Fatal(err)
	}
	colors := make(map[[3]uint32]bool)
	for y := 0; y < picture.Bounds().Dy(); y += 3 {
		for x := 0; x < picture.Bounds().Dx(); x += 3 {
			r, g, b, _ := picture.At(x, y).RGBA()
			colors[[3]uint32{r, g, b}] = true
		}
	}
	if picture.Bounds().Dx() < 1000 || len(colors) < 20 {
		t.Errorf("PNG: %v, with %d colours", picture.Bounds(), len(colors))
	}
}
