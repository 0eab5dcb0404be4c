package export

import (
	"strings"
	"testing"
)

// TestParseBus: what is the bus's is left to it, what is secret is not shown.
func TestParseBus(t *testing.T) {
	for text, want := range map[string]Target{
		"nats://a": {URL: "nats://a", Bus: "nats://a", receiver: "nats-a"},
		"nats+tls://ann:secret@a:4223,b?ca=x&per=1s&name=n%201&tenant=t&site=s": {
			URL: "nats+tls://a:4223,b?ca=x&per=1s&name=n%201&tenant=t&site=s", Bus: "tls://ann:secret@a:4223,b?ca=x&tenant=t&site=s",
			PerSecond: true, Name: "n 1", receiver: "nats+tls-a:4223,b-t-s",
		},
		"nats://token@a?per=packet": {URL: "nats://a?per=packet", Bus: "nats://token@a", receiver: "nats-a"},
	} {
		want.Kind = NATS
		if got, err := ParseBus(text); err != nil || got != want || !got.Spools() {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"nats://a?per=2s": "want packet or 1s", "nats://a?name=": "want 1 to 255 bytes", "nats://a?x=%zz": "want key=value pairs",
		"nats://a?name=" + strings.Repeat("x", 256): "want 1 to 255 bytes",
	} {
		if _, err := ParseBus(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}
