package collector

import (
	"strings"
	"testing"
)

func TestParseHosts(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"10.0.0.3", "10.0.0.3:10.0.0.3:7073"},
		{"10.0.0.3:7074 n3.example", "10.0.0.3:10.0.0.3:7074 n3.example:n3.example:7073"},
		{"10.0.0.3 10.0.0.3:7074", "10.0.0.3:10.0.0.3:7073 10.0.0.3-7074:10.0.0.3:7074"},
		{"fd00::1 [fd00::2] [fd00::3]:7", "fd00--1:[fd00::1]:7073 fd00--2:[fd00::2]:7073 fd00--3:[fd00::3]:7"},
		{"fe80::1%eth0", "fe80--1-eth0:[fe80::1%eth0]:7073"},
		{"tls://n3 ipfix://n4 ipfix+tls://[fd00::1]", "n3:tls://n3:7443 n4:ipfix://n4:4739 fd00--1:ipfix+tls://[fd00::1]:4740"},
		{"tls://n3?name=n4 ipfix://n4:1?pen=9", "n3:tls://n3:7443?name=n4 n4:ipfix://n4:1?pen=9"},
	} {
		hosts, err := ParseHosts(strings.Fields(c.args))
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		var got []string
		for _, h := range hosts {
			got = append(got, h.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s are %v, want %s", c.args, got, c.want)
		}
	}
	for args, want := range map[string]string{
		"10.0.0.300":             "not a dotted quad",
		"10.0.0.3:x":             "not a port",
		"a:10.0.0.3:7073":        "more than one colon",
		"logs/n1.log":            "not a host name",
		"10.0.0.3 10.0.0.3:7073": `the same agent as "10.0.0.3"`,
		"from://10.0.0.3":        "-listen URL",
		"http://10.0.0.3":        `sources of kind "http"`,
		"":                       "no host",
	} {
		texts := strings.Fields(args)
		if len(texts) == 0 {
			texts = []string{""}
		}
		if hosts, err := ParseHosts(texts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %s", args, hosts, err, want)
		}
	}
}
