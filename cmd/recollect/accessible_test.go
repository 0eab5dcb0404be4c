package main

import (
	"os"
	"testing"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// TestPageAccessible: axe-core finds nothing to complain about in any view, light or dark, with details open.
func TestPageAccessible(t *testing.T) {
	t.Parallel()
	_, url := startCommand(t, t.TempDir(), "demo", "-lines")
	axe, err := os.ReadFile("../../web/node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Fatal(err) // scripts/page -required installs it
	}
	p := openPage(t, url, t.TempDir())
	open := map[string]string{
		"mgen":   `document.querySelector('tr[data-flow] .fold:not(.none)').click(), document.querySelector('tr[data-flow]').click(), true`,
		"paths":  `document.querySelector('tr[data-flow]').click(), true`,
		"matrix": `document.querySelector('tr[data-group] .fold:not(.none)').click(), true`,
	}
	ready := map[string]string{
		"map": `document.querySelectorAll('.map-flows button').length > 2`, "mgen": `document.querySelectorAll('tr[data-flow]').length > 3`,
		"paths": `document.querySelectorAll('tr[data-flow]').length > 3`, "matrix": `document.querySelector('tr[data-group] .fold:not(.none)')`,
		"talkers": `document.querySelectorAll('tr[data-row-key]').length > 3`, "hosts": `document.querySelectorAll('.host .u-over').length > 3`,
		"flows": `document.querySelectorAll('.flow .u-over').length > 3`, "overview": `document.querySelectorAll('.bar').length > 3`,
		"monitoring": `document.querySelectorAll('tr[data-stage]').length > 1`,
	}
	for _, view := range append([]string{"monitoring"}, pageViews...) {
		p.show(view + "?theme=light")
		p.await(ready[view])
		if js := open[view]; js != "" {
			p.do(chromedp.Evaluate(js, nil))
		}
		p.do(chromedp.Evaluate(string(axe)+";0", nil))
		for _, theme := range []string{"light", "dark"} {
			// In the dark, only contrasts are others.
			rules := "{}"
			if theme == "dark" {
				rules = "{ runOnly: ['color-contrast'] }"
			}
			var found []string
			p.do(chromedp.Evaluate(`document.documentElement.dataset.theme = '`+theme+`'; axe.run(document, `+rules+`).then((r) => r.violations.flatMap((v) => v.nodes.slice(0, 4).map((n) => v.id + ' (' + v.impact + '): ' + n.target.join(' ') + ': ' + n.failureSummary.replace(/\s+/g, ' ').slice(0, 300))).concat(r.passes.length ? [] : ['nothing was checked']))`, &found,
				func(e *runtime.EvaluateParams) *runtime.EvaluateParams { return e.WithAwaitPromise(true) }))
			for _, f := range found {
				t.Errorf("%s, %s: %s", view, theme, f)
			}
		}
	}
	p.check()
}
