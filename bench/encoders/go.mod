module github.com/pcapper/pcapper/bench/encoders

go 1.26.8

replace github.com/pcapper/pcapper => ../..

require github.com/pcapper/pcapper v0.0.0-00010101000000-000000000000

require (
	github.com/go-logr/logr v1.4.2 // indirect
	github.com/pion/dtls/v2 v2.2.12 // indirect
	github.com/pion/logging v0.2.2 // indirect
	github.com/pion/transport/v2 v2.2.10 // indirect
	github.com/vmware/go-ipfix v0.13.0
	golang.org/x/crypto v0.59.0 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sys v0.50.0 // indirect
	k8s.io/klog/v2 v2.130.1 // indirect
)
