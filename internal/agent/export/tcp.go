package export

import (
	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/internal/transport/output"
)

func init() {
	Outputs.Register(output.Kind[Target]{
		Schemes: []string{"ipfix+tcp"}, Form: "ipfix+tcp://HOST[:PORT]",
		Help:   "IPFIX over TCP (port 4739)",
		Params: option.Params{new(Target).per()},
		New:    func(url string) (Target, error) { return parseIPFIX(TCP, defaultPort, url) },
	})
	Outputs.Register(output.Kind[Target]{
		Schemes: []string{"ipfix+tls"}, Form: "ipfix+tls://HOST[:PORT]",
		Help:   "IPFIX over TLS (port 4740)",
		Params: new(Target).tlsParams(),
		New:    func(url string) (Target, error) { return parseIPFIX(TLS, defaultTLSPort, url) },
	})
}

func (t *Target) tlsParams() option.Params {
	return option.Params{
		t.per(),
		option.Text("cert", "FILE", "our certificate (-tls-cert)", &t.Cert),
		option.Text("key", "FILE", "its key (-tls-key)", &t.Key),
		option.Text("ca", "FILE", "authorities to trust (-tls-client-ca)", &t.CA),
		option.Text("name", "NAME", "name in the collector's certificate (the host)", &t.Name),
	}
}
