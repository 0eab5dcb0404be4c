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
	for _, theme := range []string{"light", "dark"} {
		for _, view := range append([]string{"monitoring"}, pageViews...) {
			p.show(view + "?theme=" + theme)
			p.await(ready[view])
			if js := open[view]; js != "" {
				p.do(chromedp.Evaluate(js, nil))
			}
			p.do(chromedp.Evaluate(string(axe)+";0", nil))
			var found []string
			p.do(chromedp.Evaluate(`axe.run(document, { resultTypes: ['violations'] }).then((r) => r.violations.flatMap((v) => v.nodes.slice(0, 4).map((n) => v.id + ' (' + v.impact + '): ' + n.target.join(' ') + ': ' + n.failureSummary.replace(/\s+/g, ' ').slice(0, 300))))`, &found,
				func(e *runtime.EvaluateParams) *runtime.EvaluateParams { return e.WithAwaitPromise(true) }))
			for _, f := range found {
				t.Errorf("%s, %s: %s", view, theme, f)
			}
		}
	}
	if passed := p.text(`axe.version`); passed == "" {
		t.Error("axe-core did not run")
	}
	p.check()
}
