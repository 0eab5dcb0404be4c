package collector

import (
	"cmp"
	"strings"
)

// wellKnown is a service: its name and ports (IANA).
type wellKnown struct {
	name  string
	ports string // in the syntax of a flow's range, comma-separated
}

// services are the flows of Services, in the order of their numbers.
var services = []wellKnown{
	{"web (TLS, QUIC)", "443"},
	{"web (plain)", "80,8080"},
	{"DNS", "53,853,5353,5355"},
	{"SSH", "22"},
	{"mail", "25,110,143,465,587,993,995"},
	{"files", "20-21,111,137-139,445,548,873,2049"},
	{"remote desktop", "3389,5900-5903"},
	{"databases", "1433,1521,3306,5432,6379,9042,27017"},
	{"VPN", "500,1194,1701,4500,51820"},
	{"time", "123,319-320"},
	{"DHCP, management", "67-69,161-162,514,546-547,1900"},
	{"calls", "3478,5060-5061,5349,19302-19309"},
}

// Services returns flows for traffic without a configuration: well-known services, by
// the port on either side, and all of MGEN as the last one; and their names.
func Services() (*File, *Palette) {
	f, p := &File{Name: "well-known services"}, &Palette{}
	for i, s := range services {
		for ports := range strings.SplitSeq(s.ports, ",") {
			flow := Flow{ID: uint32(i + 1), Kind: Service}
			first, last, _ := strings.Cut(ports, "-")
			flow.First, flow.Last = number(first), number(cmp.Or(last, first))
			f.Flows = append(f.Flows, flow)
		}
		p.Flows = append(p.Flows, FlowStyle{Name: s.name})
	}
	f.Flows = append(f.Flows, Flow{ID: uint32(len(services) + 1), Kind: MGEN, Last: MGEN.limit()})
	p.Flows = append(p.Flows, FlowStyle{Name: "MGEN"})
	return f, p
}

// number parses a number in the tables above.
func number(digits string) (n uint32) {
	for _, d := range digits {
		n = 10*n + uint32(d-'0')
	}
	return n
}
