package export

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
)

// parseBus reads the URL of a bus: nats://host[:port][,host...], or nats+tls://.
// What does not concern us is left to who connects.
func parseBus(text string) (t Target, err error) {
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
		case key == "per" && (value == "packet" || value == "1s"):
			t.PerSecond = value == "1s"
		case key == "per":
			return t, fmt.Errorf("per=%s: want packet or 1s", value)
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

// subjects are the parameters that say where batches are kept.
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
