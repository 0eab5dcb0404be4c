package export

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/internal/transport/output"
)

func init() { Outputs.Register(BusKind) }

// BusKind describes NATS in builds without its client, which is 1 MB and five modules
// that few agents need.
var BusKind = output.Kind[Target]{
	Schemes: []string{"nats", "nats+tls", "tls"}, Form: "nats[+tls]://[USER@]HOST[:PORT][,HOST...]",
	Help:      "batches of records to NATS JetStream (port 4222)",
	Elsewhere: `"make nats" builds pcapper-nats, which has it`,
}

// BusParams are the parameters of a bus that concern the agent; package bus has the
// others.
func BusParams() option.Params {
	t := new(Target)
	return option.Params{t.per(), option.Text("name", "NAME", "whose the records are (the host)", &t.Name)}
}

// ParseBus parses the URL of a bus: nats://host[:port][,host...] or nats+tls://.
// Parameters that do not concern the agent are left to the bus client.
func ParseBus(text string) (t Target, err error) {
	scheme, rest, _ := strings.Cut(text, "://")
	hosts, query, _ := strings.Cut(rest, "?")
	t = Target{Kind: NATS, URL: option.Redact(text)}
	var others []string
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if value, err = url.QueryUnescape(value); err != nil {
			return t, fmt.Errorf("parameters: want key=value pairs joined by &")
		}
		switch {
		case key == "per":
			if err := (option.Params{t.per()}).Set(key, value); err != nil {
				return t, err
			}
		case key == "name" && (value == "" || len(value) > 255):
			return t, fmt.Errorf("name=%s: want 1 to 255 bytes", value)
		case key == "name":
			t.Name = value
		case pair != "":
			others = append(others, pair)
		}
	}
	t.Bus = strings.TrimPrefix(scheme, "nats+") + "://" + hosts
	if len(others) > 0 {
		t.Bus += "?" + strings.Join(others, "&")
	}
	t.receiver = scheme + "-" + option.Redact(hosts) + subjects(others)
	return t, nil
}

// subjects returns the parameters that decide where batches are kept.
func subjects(pairs []string) (text string) {
	for _, key := range []string{"tenant", "site"} {
		for _, pair := range pairs {
			if value, ok := strings.CutPrefix(pair, key+"="); ok {
				text += "-" + value
			}
		}
	}
	return text
}
