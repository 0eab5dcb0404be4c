package kafka

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
)

// TopicURL is a parsed URL:
//
//	kafka://[USER[:PASSWORD]@]HOST[:PORT][,HOST...]/TOPIC[?KEY=VALUE[&...]]
//
// With kafka+tls://, TLS is used. Params lists the keys.
type TopicURL struct {
	Brokers        []string // HOST:PORT
	Topic          string
	User, Password string
	SASL           string
	TLS            bool
	CA             string // file; "" for the system's authorities
	Memory         int64  // maximum number of bytes waiting
}

const (
	defaultPort   = 9092
	defaultMemory = 64 << 20
)

var topicName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)

const example = "want kafka://BROKER:9092,BROKER:9092/TOPIC"

// Parse parses a TopicURL. A missing password of a user is taken from KAFKA_PASSWORD.
// Errors contain no passwords.
func Parse(text string) (*TopicURL, error) {
	u, err := option.ParseURL(text)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme != "kafka" && u.Scheme != "kafka+tls":
		return nil, fmt.Errorf("%q: not a kind of Kafka URL: %s", u.Scheme, example)
	}
	t := &TopicURL{Topic: u.Path, Memory: defaultMemory, SASL: "plain", TLS: u.Scheme == "kafka+tls"}
	if !topicName.MatchString(t.Topic) {
		return nil, fmt.Errorf("%q: not a topic: %s", t.Topic, example)
	}
	user := u.Servers[0].User
	for _, s := range u.Servers {
		if s.User != nil && s.User != user {
			return nil, errors.New("several users: want one, before the first broker")
		}
		t.Brokers = append(t.Brokers, s.Address(defaultPort))
	}
	if err := t.Params().Parse(u.Query); err != nil {
		return nil, err
	}
	t.credentials(user)
	return t, nil
}

// Params returns the URL's parameters, which set t's fields.
func (t *TopicURL) Params() option.Params {
	return option.Params{
		option.Secret("password-file", "file with the user's password", &t.Password),
		option.Text("ca", "FILE", "authorities to trust with kafka+tls instead of the system's, in PEM", &t.CA),
		option.OneOf("sasl", "how the user proves who it is (plain)", &t.SASL, "plain", "scram-sha-256", "scram-sha-512"),
		option.Memory("memory", "how much may wait (64)", &t.Memory, 1<<20),
	}
}

func (t *TopicURL) credentials(user *url.Userinfo) {
	if t.User = user.Username(); t.User == "" {
		return
	}
	password, _ := user.Password()
	t.Password = cmp.Or(t.Password, password, os.Getenv("KAFKA_PASSWORD"))
}

// String returns t for display, without its password.
func (t *TopicURL) String() string {
	scheme := "kafka"
	if t.TLS {
		scheme = "kafka+tls"
	}
	return scheme + "://" + strings.Join(t.Brokers, ",") + "/" + t.Topic
}
