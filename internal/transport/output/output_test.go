package output

import (
	"errors"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/host/option"
)

func registry() *Registry[string] {
	var r Registry[string]
	get := func(url string) (string, error) { return url, nil }
	r.Register(Kind[string]{Schemes: []string{"bus"}, Form: "bus://HOST", Elsewhere: `"make bus" builds one that has it`})
	r.Register(Kind[string]{Schemes: []string{"queue"}, Form: "queue://HOST", Help: "a queue", Elsewhere: `"make queue" builds one that has it`})
	r.Register(Kind[string]{Schemes: []string{"bus", "bus+tls"}, Form: "bus://HOST", Help: "a bus", New: get})
	var text string
	r.Register(Kind[string]{Schemes: []string{"file"}, Form: "file:PATH", Help: "a file of many words, which do not fit in a line", New: get,
		Params: option.Params{option.Text("name", "NAME", "", &text), option.Switch("zip", "", new(bool), "no", "yes")}})
	r.Register(Kind[string]{Schemes: []string{"broken"}, Form: "broken:X", New: func(string) (string, error) { return "", errors.New("it is") }})
	return &r
}

func TestNew(t *testing.T) {
	r := registry()
	for _, url := range []string{"bus://a", "bus+tls://a?x=y", "file:x"} {
		if got, err := r.New(url); got != url || err != nil {
			t.Errorf("%s: got %q, %v, want the same", url, got, err)
		}
	}
	for url, want := range map[string]string{
		"queue://a:pw@b": `queue: is not in this program: "make queue" builds one that has it`,
		"fiel:pw":        "unknown kind of export: did you mean file:?",
		"http://pw":      "unknown kind of export: want broken:X, bus://HOST or file:PATH",
		"":               "unknown kind of export: want",
		"broken:pw":      "it is",
	} {
		if _, err := r.New(url); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "pw") {
			t.Errorf("%s: got %v, want %q", url, err, want)
		}
	}
}

func TestHelp(t *testing.T) {
	want := `  broken:X
      
  bus://HOST
      a bus
  file:PATH
      a file of many words, which
      do not fit in a line; after a
      ?, joined by &: name=NAME
      zip=no|yes
  queue://HOST
      a queue ("make queue" builds
      one that has it)
`
	if got := registry().Help("  ", 35); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRegisterTwice(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("two kinds have the scheme bus: want a panic")
		}
	}()
	r := registry()
	r.Register(Kind[string]{Schemes: []string{"bus"}, New: func(string) (string, error) { return "", nil }})
}
