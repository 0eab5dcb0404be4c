package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestOutputsAreDocumented: what -export knows is in the man page, with its parameters, and
// in the help.
func TestOutputsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../man/recollect.1")
	if err != nil {
		t.Fatal(err)
	}
	_, man, _ := strings.Cut(string(page), "\n.It Fl export Ar URL\n")
	man, _, _ = strings.Cut(man, "\n.It Fl sink ")
	_, bus, _ := strings.Cut(string(page), "\n.It Fl bus Ar URL\n")
	bus, _, _ = strings.Cut(bus, "\n.It Fl ")
	for _, k := range outputs.All() {
		if strings.HasPrefix(k.Elsewhere, "pcapper ") {
			continue
		}
		text := man
		if k.Schemes[0] == "nats" {
			text += bus
		}
		for _, scheme := range k.Schemes {
			if !strings.Contains(text, scheme+":") {
				t.Errorf("the man page lacks %s:", scheme)
			}
		}
		for _, p := range k.Params {
			if !regexp.MustCompile(`(?m)^\.Cm (?:.* )?` + p.Key + `(?:=| |$)`).MatchString(text) {
				t.Errorf("the man page lacks %s= of %s:", p.Key, k.Schemes[0])
			}
			if !strings.Contains(usageOf(""), " "+p.Key+"=") {
				t.Errorf("the help lacks %s= of %s:", p.Key, k.Schemes[0])
			}
		}
	}
}
