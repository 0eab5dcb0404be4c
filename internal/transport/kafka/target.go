//go:build kafka

package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Target is what a URL says:
//
//	kafka://[USER[:PASSWORD]@]HOST[:PORT][,HOST...]/TOPIC[?KEY=VALUE[&...]]
//
// or kafka+tls://. The keys are password-file, ca (a file with authorities, PEM),
// sasl (plain, scram-sha-256 or scram-sha-512) and memory (MiB).
type Target struct {
	Brokers        []string // HOST:PORT
	Topic          string
	User, Password string
	SASL           string
	TLS            bool
	CA             string // file; "": the system's authorities
	Memory         int    // bytes that may wait
}

const (
	defaultPort   = "9092"
	defaultMemory = 64 << 20
)

var topicName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)

const example = "want kafka://BROKER:9092,BROKER:9092/TOPIC"

// Parse reads a Target. A user's password that it lacks is KAFKA_PASSWORD's. Errors
// do not show passwords.
func Parse(text string) (*Target, error) {
	scheme, rest, _ := strings.Cut(text, "://")
	if scheme != "kafka" && scheme != "kafka+tls" {
		return nil, fmt.Errorf("%q: not a kind of Kafka URL: %s", scheme, example)
	}
	t := &Target{Memory: defaultMemory, SASL: "plain", TLS: scheme == "kafka+tls"}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, topic, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(hosts, '@'); at >= 0 {
		if err := t.user(hosts[:at]); err != nil {
			return nil, err
		}
		hosts = hosts[at+1:]
	}
	if t.Topic = topic; !topicName.MatchString(topic) {
		return nil, fmt.Errorf("%q: not a topic: %s", topic, example)
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if err := t.broker(host); err != nil {
			return nil, err
		}
	}
	if err := t.keys(query); err != nil {
		return nil, err
	}
	if t.User != "" && t.Password == "" {
		t.Password = os.Getenv("KAFKA_PASSWORD")
	}
	return t, nil
}

func (t *Target) user(text string) (err error) {
	user, password, _ := strings.Cut(text, ":")
	if t.User, err = url.PathUnescape(user); err == nil {
		t.Password, err = url.PathUnescape(password)
	}
	if err != nil {
		return errors.New("user or password: want %XX for what means something else in a URL")
	}
	return nil
}

func (t *Target) broker(host string) error {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), defaultPort
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || name == "" {
		return fmt.Errorf("%q: not a broker: %s", host, example)
	}
	t.Brokers = append(t.Brokers, net.JoinHostPort(name, port))
	return nil
}

func (t *Target) keys(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("%q: not parameters: want KEY=VALUE, joined by &", query)
	}
	for key, list := range values {
		if len(list) != 1 {
			return fmt.Errorf("%q: given %d times: want it once", key, len(list))
		}
		if err := t.key(key, list[0]); err != nil {
			return err
		}
	}
	return nil
}

func (t *Target) key(key, value string) error {
	switch key {
	case "password-file":
		text, err := os.ReadFile(value)
		if err != nil {
			return fmt.Errorf("password-file: %w", err)
		}
		t.Password = strings.TrimRight(string(text), "\r\n")
	case "ca":
		t.CA = value
	case "sasl":
		if value != "plain" && value != "scram-sha-256" && value != "scram-sha-512" {
			return fmt.Errorf("sasl=%q: want plain, scram-sha-256 or scram-sha-512", value)
		}
		t.SASL = value
	case "memory":
		n, err := strconv.ParseUint(value, 10, 20)
		if err != nil || n == 0 {
			return fmt.Errorf("memory=%q: want MiB", value)
		}
		t.Memory = int(n) << 20
	default:
		return fmt.Errorf("%q: unknown: want password-file, ca, sasl or memory", key)
	}
	return nil
}

// String is t for people, without its password.
func (t *Target) String() string {
	scheme := "kafka"
	if t.TLS {
		scheme = "kafka+tls"
	}
	return scheme + "://" + strings.Join(t.Brokers, ",") + "/" + t.Topic
}

// access is how to connect.
func (t *Target) access() (options []kgo.Opt, err error) {
	if t.TLS {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12}
		if t.CA != "" {
			text, err := os.ReadFile(t.CA)
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			cfg.RootCAs = x509.NewCertPool()
			if !cfg.RootCAs.AppendCertsFromPEM(text) {
				return nil, fmt.Errorf("ca %q: no certificate in PEM in it", t.CA)
			}
		}
		options = append(options, kgo.DialTLSConfig(cfg))
	}
	switch {
	case t.User == "":
	case t.SASL == "plain":
		options = append(options, kgo.SASL(plain.Auth{User: t.User, Pass: t.Password}.AsMechanism()))
	case t.SASL == "scram-sha-256":
		options = append(options, kgo.SASL(scram.Auth{User: t.User, Pass: t.Password}.AsSha256Mechanism()))
	default:
		options = append(options, kgo.SASL(scram.Auth{User: t.User, Pass: t.Password}.AsSha512Mechanism()))
	}
	return options, nil
}
