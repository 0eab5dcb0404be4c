package option

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	for text, want := range map[string]URL{
		"x://h":       {Scheme: "x", Servers: []Server{{Host: "h"}}},
		"x://h:1/a/b": {Scheme: "x", Servers: []Server{{Host: "h", Port: 1}}, Path: "a/b"},
		"x+y://u:p%40@[::1]:81,b/?k=v&l=a%20b": {
			Scheme: "x+y", Servers: []Server{{User: url.UserPassword("u", "p@"), Host: "::1", Port: 81}, {Host: "b"}}, Query: "k=v&l=a%20b",
		},
		"x://token@a, [fe80::1%eth0]": {Scheme: "x", Servers: []Server{{User: url.User("token"), Host: "a"}, {Host: "fe80::1%eth0"}}},
	} {
		got, err := ParseURL(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if fmt.Sprint(*got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", text, *got, want)
		}
	}
	for text, want := range map[string]string{
		"h":                "not a URL",
		"x:h":              "not a URL",
		"x://":             "no host",
		"x://a,,b":         "no host",
		"x://a:0":          `"0": not a port`,
		"x://a:+1":         `"+1": not a port`,
		"x://a:65536":      "want a number from 1 to 65535",
		"x://::1":          "more than one colon",
		"x://[::1":         "not an IPv6 address",
		"x://10.0.0.300":   "not a dotted quad",
		"x://u:sesame@a_%": "not a host name",
		"x://u:sesame%@a":  "not a user or password",
		"x://a/%zz":        "not a path",
	} {
		_, err := ParseURL(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		"nats://a":                         "nats://a",
		"nats://u:p@a:1,token@b?ca=x@y":    "nats://a:1,b?ca=x@y",
		"u:p@a":                            "a",
		"clickhouse+http://u:p@q@h/db?k=v": "clickhouse+http://h/db?k=v",
	} {
		if got := Redact(text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestQuantities(t *testing.T) {
	size := func(text string) (any, error) { n, err := ParseSize(text); return n, err }
	rate := func(text string) (any, error) { n, err := ParseRate(text); return n, err }
	duration := func(text string) (any, error) { d, err := ParseDuration(text); return d, err }
	const none = "want"
	for _, tt := range []struct {
		name  string
		parse func(string) (any, error)
		text  string
		want  any // none: an error
	}{
		{"size", size, "0", int64(0)}, {"size", size, "50G", int64(50e9)}, {"size", size, "2kB", int64(2000)},
		{"size", size, "3MiB", int64(3 << 20)}, {"size", size, "1TiB", int64(1 << 40)},
		{"size", size, "", none}, {"size", size, "2Gi", none}, {"size", size, "2gb", none}, {"size", size, "1.5G", none},
		{"size", size, "-1", none}, {"size", size, "+1", none}, {"size", size, "9999999999T", none}, {"size", size, "GB", none},
		{"rate", rate, "20k", int64(20e3)}, {"rate", rate, "1G", int64(1e9)}, {"rate", rate, "1MB", none}, {"rate", rate, "1e6", none},
		{"duration", duration, "90s", 90 * time.Second}, {"duration", duration, "1h30m", 90 * time.Minute},
		{"duration", duration, "7d", 168 * time.Hour}, {"duration", duration, "1w1d12h", 204 * time.Hour},
		{"duration", duration, "-5s", -5 * time.Second}, {"duration", duration, "0", time.Duration(0)},
		{"duration", duration, "30", none}, {"duration", duration, "1.5d", none}, {"duration", duration, "1d-5s", none},
		{"duration", duration, "99999999w", none}, {"duration", duration, "15000w2000000h", none}, {"duration", duration, "", none},
	} {
		t.Run(tt.name+" "+tt.text, func(t *testing.T) {
			got, err := tt.parse(tt.text)
			if tt.want == none {
				if err == nil || !strings.HasPrefix(err.Error(), none) {
					t.Errorf("got %v, %v, want an error that says what is wanted", got, err)
				}
			} else if err != nil || got != tt.want {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// all are parameters of every kind.
type all struct {
	Text, Word, Secret string
	On                 bool
	Number             int
	Size, Memory       int64
	Time               time.Duration
}

func (a *all) params() Params {
	return Params{
		Text("text", "TEXT", "", &a.Text), OneOf("word", "", &a.Word, "one", "two", "three"), Secret("secret-file", "", &a.Secret),
		Switch("switch", "", &a.On, "off", "on"), Number("number", "", &a.Number, 1, 9), Size("size", "", &a.Size, 10),
		Memory("memory", "", &a.Memory, 1<<20), Duration("time", "", &a.Time, time.Second, 24*time.Hour),
	}
}

func TestParams(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("open sesame\r\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got all
	err := got.params().Parse("text=a%20b%26&word=two&secret-file=" + url.QueryEscape(file) + "&switch=on&number=9&size=1kB&memory=2&time=1d")
	if want := (all{"a b&", "two", "open sesame", true, 9, 1000, 2 << 20, 24 * time.Hour}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for query, want := range map[string]string{
		"nubmer=1":             `unknown parameter "nubmer": did you mean number?`,
		"x=1":                  `unknown parameter "x": want text, word, secret-file, switch, number, size, memory or time`,
		"text":                 `parameter "text": empty: want one value`,
		"text=a&text=b":        `parameter "text": given 2 times: want one value`,
		"text=%zz":             "not parameters: want key=value pairs joined by &",
		"text=a;b":             "not parameters: want key=value pairs joined by &",
		"word=four":            "word=four: want one, two or three",
		"switch=maybe":         "switch=maybe: want off or on",
		"number=10":            "number=10: want a number from 1 to 9",
		"size=9":               "size=9: want at least 10 bytes",
		"size=x":               "size=x: want bytes such as",
		"memory=0":             "memory=0: want MiB, or a size such as 100MB, at least 1 MiB",
		"time=2d":              "time=2d: want a time from 1s to 24h, such as 30s",
		"time=soon":            "time=soon: want a time such as 30s",
		"secret-file=/no/file": "secret-file=/no/file: open /no/file: no such file",
	} {
		var a all
		if err := a.params().Parse(query); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", query, err, want)
		}
	}
}

// FuzzURL: whatever is accepted has hosts and ports that could be dialled, reads the same
// when it is written again, and does not show its passwords.
func FuzzURL(f *testing.F) {
	for _, text := range []string{
		"x://u:p@h:1,[::1]/a%2fb?text=a&number=3", "nats+tls://token@a,b:4222?size=1GB&time=7d", "x://10.0.0.1?memory=64&word=one&switch=on", "file:x?y",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if u, err := ParseURL(text); err == nil {
			again := url.URL{Scheme: "x"}
			var list []string
			for _, s := range u.Servers {
				host, port, err := ParseHostPort(s.Address(7), 0)
				if err != nil || host != s.Host || s.Port != 0 && port != s.Port {
					t.Fatalf("%q: server %+v reads again as %s, %d, %v", text, s, host, port, err)
				}
				again.User, again.Host = s.User, s.Address(7)
				list = append(list, strings.TrimPrefix(again.String(), "x://"))
				if password, _ := s.User.Password(); len(password) > 8 && strings.Contains(Redact("x://"+strings.Join(list, ",")), password) {
					t.Fatalf("%q: %q is shown", text, password)
				}
			}
			same, err := ParseURL("x://" + strings.Join(list, ","))
			if err != nil {
				t.Fatalf("%q: written as %q: %v", text, list, err)
			}
			for i, s := range same.Servers {
				if s.Host != u.Servers[i].Host || s.User.String() != u.Servers[i].User.String() {
					t.Fatalf("%q: server %d was %+v, is %+v", text, i, u.Servers[i], s)
				}
			}
		}
		_, _, query := CutURL(text)
		if strings.Contains(query, "secret") { // reads files
			return
		}
		var a all
		if a.params().Parse(query) == nil && a != (all{}) {
			if a.Number < 0 || a.Number > 9 || a.Size < 0 || a.Memory < 0 || a.Time < 0 || a.Time > 24*time.Hour {
				t.Fatalf("%q: %+v", text, a)
			}
		}
	})
}
