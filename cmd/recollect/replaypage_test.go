package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestPageSteersReplay: the page pauses logs that are played, changes their pace
// and skips what has no traffic.
func TestPageSteersReplay(t *testing.T) {
	t.Parallel()
	var log []byte
	for i := range 2000 {
		log = fmt.Appendf(log, "%d.500000:10.0.0.1:5001:10.0.0.2:2000:125:0:17\n", 1560390600+i)
	}
	log = append(log, "1560490000.000000:10.0.0.1:5001:10.0.0.2:2000:125:0:17\n"...)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "n1.log"), log, 0o600); err != nil {
		t.Fatal(err)
	}
	// So slowly that nothing depends on how fast the test is.
	_, url := startPage(t, dir, "-replay", "n1.log", "-speed", "0.125")
	p := openPage(t, url, t.TempDir())
	p.show("overview?w=60")
	p.await(`document.querySelector('.replay')?.hidden === false && document.querySelector('.where b').textContent.includes('13\u00a0Jun\u00a02019')`)
	p.do(chromedp.Click(`.replay > button`, chromedp.ByQuery))
	p.await(`document.querySelector('.replay').classList.contains('stopped') && document.querySelector('.replay-note').textContent.includes('paused')`)
	p.key("]")
	p.key("]")
	p.await(`document.querySelector('.speed').textContent === '×0.5'`)
	p.do(chromedp.Click(`.pace button`, chromedp.ByQuery))
	p.await(`document.querySelector('.speed').textContent === '×0.25'`)
	// What is skipped has been counted all the same.
	before := p.text(`document.querySelector('.where b').textContent`)
	for range 2 {
		p.do(chromedp.Click(`[aria-label="Forward by a minute"]`, chromedp.ByQuery))
	}
	p.await(fmt.Sprintf(`document.querySelector('.where b').textContent !== %q && !document.querySelector('.replay-note').textContent.includes('on the way')`, before))
	p.await(`Number(document.querySelector('tr[data-host="0"]')?.children[3].textContent) >= 120`)
	p.key("r")
	p.await(`!document.querySelector('.replay').classList.contains('stopped')`)
	for range 40 {
		p.key("r") // paused or not, forward goes
		p.do(chromedp.Click(`[aria-label="Forward by a minute"]`, chromedp.ByQuery))
	}
	p.await(`document.querySelector('[aria-label="Skip to the next traffic"]').hidden === false`)
	if note := p.text(`document.querySelector('.replay-note').textContent`); !strings.Contains(note, "no traffic for") {
		t.Errorf("before the gap: %q", note)
	}
	// Keys that come faster than their answers may leave it paused.
	time.Sleep(time.Second)
	if p.text(`String(document.querySelector('.replay').classList.contains('stopped'))`) == "true" {
		p.key("r")
		p.await(`!document.querySelector('.replay').classList.contains('stopped')`)
	}
	p.key("n")
	p.await(`document.querySelector('.replay-note').textContent === 'at the end of the logs'`)
	p.check()
}
