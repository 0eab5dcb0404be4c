package main

import (
	"strings"
	"testing"
)

// TestPathsPage: flows and hops of the demo are listed, the worst first, with columns that add up; a
// chosen flow has its way, its hops, and the packets that did not arrive with reasons.
func TestPathsPage(t *testing.T) {
	t.Parallel()
	_, url := startCommand(t, t.TempDir(), "demo", "-lines")
	p := openPage(t, url, t.TempDir())
	p.show("paths")
	p.await(`document.querySelectorAll('tr[data-flow]').length === 12 && document.querySelectorAll('.hops tbody tr').length >= 12`)
	p.await(`document.querySelector('tr[data-flow]').textContent.startsWith('orders')`)
	sums := p.text(`[...document.querySelectorAll('tr[data-flow]')].map((r) => [4, 5, 6, 7].map((i) => Number(r.children[i].textContent.replace(/\D/g, '')))).filter(([sent, arrived, lost, unseen]) => sent !== arrived + lost + unseen).join('; ')`)
	if sums != "" {
		t.Errorf("sent is not arrived + lost + not observed: %s", sums)
	}
	order := p.text(`[...document.querySelectorAll('.paths > .panel:last-child .hops tbody tr')].map((r) => parseFloat(r.children[2].textContent)).every((v, i, all) => i === 0 || v >= all[i - 1] - 0.06)`)
	if order != "true" {
		t.Errorf("hops are not ordered by what they lose: %s", p.text(`document.querySelector('.paths > .panel:last-child').innerText`))
	}
	// The reports of one scout end in relay-2's queue.
	p.await(`(() => { const r = [...document.querySelectorAll('tr[data-flow]')].find((r) => r.textContent.startsWith('reports') && r.children[6].textContent !== '0'); if (r && !location.hash.includes('pick=')) r.click(); return r; })()`)
	p.await(`document.querySelector('.ways')?.textContent.includes('relay-2 → base') && document.querySelector('.ladder li')`)
	if got := p.text(`document.querySelector('.ladder li').textContent`); !strings.Contains(got, "dropped at relay-2: qdisc drop") {
		t.Errorf("a packet that did not arrive: %q", got)
	}
	if got := p.text(`document.querySelector('.ladder-head').innerText.trim().split(/\s+/).slice(1).join(' ')`); got != "relay-2 base" {
		t.Errorf("the ladder's columns behind the scout are %q, want relay-2 and base", got)
	}
	if got := p.text(`[...document.querySelectorAll('.path-detail .hops tbody tr')].map((r) => r.lastElementChild.textContent).join(' ')`); !strings.Contains(got, "qdisc drop") {
		t.Errorf("reasons at hops: %q", got)
	}
	p.check()
}
