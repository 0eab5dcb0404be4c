package main

import (
	"testing"

	"github.com/chromedp/cdproto/emulation"
)

// TestPageHasLedger: the page shows what has become of the records, and that it adds up.
func TestPageHasLedger(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 1)
	r := startRecollect(t, nil, "-c", f.config(t), "-lines", "-http", "127.0.0.1:0", "-store", t.TempDir())
	until(t, "the agent to be attached", f.all)
	f.send(t, 500)
	until(t, "all to be counted", func() bool {
		return r.metric(t, `recollect_ledger_items{account="passed",name="",reason="",stage="page",unit="records"}`) == 500
	})
	p := openPage(t, r.page(t), t.TempDir())
	p.show("monitoring?theme=light")
	p.await(`document.querySelector('tr[data-stage="page"]')`)
	row := func(stage string) string {
		return p.text(`[...document.querySelectorAll('tr[data-stage="` + stage + `"] .num')].map((td) => td.textContent).join(' ')`)
	}
	for _, stage := range []string{"feed", "page", "batches", "detail"} {
		if got, want := row(stage), "500 500 0 0"; got != want {
			t.Errorf("%s: the page has received, passed on, lost, held as %q, want %q", stage, got, want)
		}
	}
	if got, want := p.text(`document.querySelector('.monitoring .rest').textContent`), "Every record is accounted for: received is passed on, lost, or held."; got != want {
		t.Errorf("the page says %q, want %q", got, want)
	}
	p.do(emulation.SetDeviceMetricsOverride(390, 844, 2, true))
	p.show("monitoring")
	p.await(`document.querySelector('tr[data-stage="page"]')`)
	if wide := p.text(`document.documentElement.scrollWidth`); wide != "390" {
		beyond := p.text(`[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 391).map((e) => e.tagName + '.' + e.className).join(' ')`)
		t.Errorf("%s pixels wide on a phone of 390; beyond it are %s", wide, beyond)
	}
	p.do(emulation.ClearDeviceMetricsOverride())
	p.check()
	r.end(t)
}
