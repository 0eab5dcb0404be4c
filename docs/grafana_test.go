package docs

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// TestGrafanaSchema: the dashboard has what Grafana's own schema knows and nothing else, but may leave
// out what Grafana fills in.
func TestGrafanaSchema(t *testing.T) {
	data, err := os.ReadFile("grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	plugins.RegisterDefaultPlugins()
	for _, remark := range grafanaRemarks(data) {
		t.Error(remark)
	}
	for was, is := range map[string]string{`"type": "stat"`: `"type": "stat", "surprise": 1`, `"editable": true`: `"editable": "yes"`} {
		if len(grafanaRemarks(bytes.Replace(data, []byte(was), []byte(is), 1))) == 0 {
			t.Errorf("%s is accepted instead of %s", is, was)
		}
	}
}

func grafanaRemarks(data []byte) (list []string) {
	//lint:ignore SA1019 the board is in this schema, which all releases of Grafana load
	var d dashboard.Dashboard
	err := d.UnmarshalJSONStrict(json.RawMessage(data))
	if err == nil {
		err = d.Validate()
	}
	if err == nil {
		return nil
	}
	for line := range strings.Lines(err.Error()) {
		if !strings.Contains(line, "required field is missing from input") {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}
