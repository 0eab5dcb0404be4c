package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/transport/bus"
)

func TestMain(m *testing.M) {
	code := m.Run()
	bustest.RemoveProgram()
	os.Exit(code)
}

func connect(t *testing.T, url string) error {
	t.Helper()
	target, err := bus.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	c, err := bus.Connect(bus.Config{Target: target, Name: t.Name(), Say: t.Logf})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := c.EnsureStreams(ctx, bus.Streams{Partitions: 1, MaxBytes: 1 << 20}); err != nil {
		t.Error(err)
	}
	return nil
}

// refused checks that a connection is, and that the next step is named.
func refused(t *testing.T, url, hint string) {
	t.Helper()
	var told *fault.Error
	if err := connect(t, url); !errors.As(err, &told) || !strings.Contains(told.Hint(), hint) {
		t.Errorf("%s: %v, %+v; want the hint %q", url, err, told, hint)
	}
}

// complains checks that a connection goes on trying, and names the next step.
func complains(t *testing.T, url, hint string) {
	t.Helper()
	target, err := bus.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 100)
	c, err := bus.Connect(bus.Config{Target: target, Say: func(format string, args ...any) { said <- fmt.Sprintf(format, args...) }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	select {
	case line := <-said:
		if !strings.Contains(line, hint) {
			t.Errorf("%s: %q; want the hint %q", url, line, hint)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("%s: nothing is said", url)
	}
}

func TestWhoWeAre(t *testing.T) {
	t.Parallel()
	pair := makeKey(t, nkeys.CreateUser)
	public := publicKey(t, pair)
	seed, _ := pair.Seed()
	file := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(file, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	s := bustest.Start(t, fmt.Sprintf(`authorization { users: [ { user: ann, password: sesame }, { nkey: %s } ] }`, public))
	if err := connect(t, "nats://ann:sesame@"+s.Addr()); err != nil {
		t.Error(err)
	}
	if err := connect(t, s.URL()+"?nkey="+file); err != nil {
		t.Error(err)
	}
	refused(t, "nats://ann:wrong@"+s.Addr(), "?creds=FILE")
	refused(t, s.URL()+"?nkey=/nowhere", "a seed")
	refused(t, s.URL()+"?creds=/nowhere", "JWT")
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	if _, err := certs.Make(certs.Request{Dir: dir, Name: "bus", Hosts: []string{"127.0.0.1"}, Valid: time.Hour}, time.Now()); err != nil {
		t.Fatal(err)
	}
	s := bustest.Start(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, timeout: 10 }", filepath.Join(dir, "bus.pem"), filepath.Join(dir, "bus-key.pem")))
	if err := connect(t, "tls://"+s.Addr()+"?ca="+filepath.Join(dir, "ca.pem")); err != nil {
		t.Error(err)
	}
	complains(t, "tls://"+s.Addr(), "?ca=FILE")
	plain := bustest.Start(t, "")
	complains(t, "tls://"+plain.Addr(), "no TLS")
}

// TestMutualTLS: a server that wants our certificate gets it.
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	for _, r := range []certs.Request{{Name: "bus", Hosts: []string{"127.0.0.1"}}, {Name: "collector", Client: true}} {
		r.Dir, r.Valid = dir, time.Hour
		if _, err := certs.Make(r, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	s := bustest.Start(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, timeout: 10 }", file("bus.pem"), file("bus-key.pem"), file("ca.pem")))
	url := "tls://" + s.Addr() + "?ca=" + file("ca.pem")
	if err := connect(t, url+"&cert="+file("collector.pem")+"&key="+file("collector-key.pem")); err != nil {
		t.Error(err)
	}
	complains(t, url, "?cert=FILE&key=FILE")
}

// TestCredentials: a file as nsc writes it lets us in where accounts are JWTs.
func TestCredentials(t *testing.T) {
	operator, account, user := makeKey(t, nkeys.CreateOperator), makeKey(t, nkeys.CreateAccount), makeKey(t, nkeys.CreateUser)
	sign := func(c jwt.Claims, by nkeys.KeyPair) string {
		t.Helper()
		text, err := c.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	lab := jwt.NewAccountClaims(publicKey(t, account))
	lab.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: 1 << 30, MemoryStorage: 1 << 20, Streams: 20, Consumer: 20}
	of := jwt.NewOperatorClaims(publicKey(t, operator))
	system := makeKey(t, nkeys.CreateAccount)
	of.SystemAccount = publicKey(t, system)
	s := bustest.Start(t, fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }",
		sign(of, operator), lab.Subject, sign(lab, operator), of.SystemAccount, sign(jwt.NewAccountClaims(of.SystemAccount), operator)))
	who := jwt.NewUserClaims(publicKey(t, user))
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(sign(who, account), seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "lab.creds")
	if err := os.WriteFile(file, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := connect(t, s.URL()+"?creds="+file); err != nil {
		t.Error(err)
	}
	refused(t, s.URL(), "?creds=FILE")
}

func makeKey(t *testing.T, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	k, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func publicKey(t *testing.T, k nkeys.KeyPair) string {
	t.Helper()
	public, err := k.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}
