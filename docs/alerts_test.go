package docs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestAlerts: Prometheus accepts the example alerts, and they fire when they should.
func TestAlerts(t *testing.T) {
	t.Parallel()
	rules, err := filepath.Abs("alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "rules", "--lint-fatal", rules).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	sources, err := filepath.Glob("../internal/collector/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var code []byte
	for _, name := range append(sources, "../cmd/recollect/metrics.go") {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, data...)
	}
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`\brecollect_([a-z_]+)`).FindAllSubmatch(text, -1) {
		if !bytes.Contains(code, fmt.Appendf(nil, "%q", name[0])) && !bytes.Contains(code, fmt.Appendf(nil, "desc(%q", name[1])) {
			t.Errorf("%s: there is no such metric", name[0])
		}
	}
	cases := filepath.Join(t.TempDir(), "cases.yaml")
	if err := os.WriteFile(cases, []byte("rule_files: ["+rules+"]\n"+`
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: recollect_agent_connected{agent="n1"}
        values: 1 1 0 0 0 0 0 0 0 0
      - series: recollect_path_hop_packets_total{from="n1",to="n2"}
        values: 0+50x30
      - series: recollect_path_hop_lost_packets_total{from="n1",to="n2"}
        values: 0+50x30
      - series: recollect_problems{kind="silent"}
        values: 0 0 0 0 2 2 2 2 2 2
      - series: recollect_ledger_items{stage="bus",account="lost",reason="spool full"}
        values: 0x5 7x20
    alert_rule_test:
      - {eval_time: 3m, alertname: AgentDown}
      - eval_time: 5m
        alertname: AgentDown
        exp_alerts:
          - exp_labels: {agent: n1, severity: warning}
            exp_annotations: {summary: agent n1 is not connected}
      - eval_time: 15m
        alertname: HopLosesMuch
        exp_alerts:
          - exp_labels: {from: n1, to: n2, severity: critical}
            exp_annotations: {summary: n1 -> n2 loses 50%}
      - {eval_time: 3m, alertname: MemberReceivesNothing}
      - eval_time: 6m
        alertname: MemberReceivesNothing
        exp_alerts:
          - exp_labels: {kind: silent, severity: critical}
            exp_annotations: {summary: 2 members of groups receive nothing of what is sent to them}
      - {eval_time: 4m, alertname: RecordsLost}
      - eval_time: 7m
        alertname: RecordsLost
        exp_alerts:
          - exp_labels: {stage: bus, reason: spool full, severity: warning}
            exp_annotations: {summary: "bus  lost 7 records: spool full"}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "test", "rules", cases).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
