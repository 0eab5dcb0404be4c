package publish

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/test/bustest"
)

// TestTLS: both sides show certificates; whoever has none is told so and waits.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, r := range []certs.Request{{Name: "server", Hosts: []string{"127.0.0.1"}}, {Name: "client", Client: true}} {
		r.Dir, r.Valid = dir, time.Hour
		if _, err := certs.Make(r, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	s := bustest.Start(t, fmt.Sprintf(`tls { cert_file: "%[1]s/server.pem", key_file: "%[1]s/server-key.pem", ca_file: "%[1]s/ca.pem", verify: true }`, dir))
	url := fmt.Sprintf("%s?ca=%[2]s/ca.pem&cert=%[2]s/client.pem&key=%[2]s/client-key.pem", strings.Replace(s.URL(), "nats:", "tls:", 1), dir)
	b := begin(t, url, false, nil)
	makeStreams(t, url)
	b.publish(0, 100)
	b.await("100 packets", func() bool { return b.x.Counts().Packets == 100 })
	plain := begin(t, s.URL(), false, nil)
	plain.awaitMessage("away:")
	plain.publish(0, 10)
	plain.end()
	if c := plain.x.Counts(); c.Waiting != 10 {
		t.Errorf("%+v; it said %q", c, plain.said)
	}
}
