# Two commands do everything: `make run` and `make test`. Both install what is
# missing (Debian packages, as root).

# Where Go's own instructions put it, also for sudo, which has a PATH of its own.
export PATH := $(PATH):/usr/local/go/bin

# Git refuses to describe another user's clone, and the version is known. Everything is
# built as users get it, static and without paths, so that nothing is compiled twice.
export GOFLAGS := -buildvcs=false -trimpath $(GOFLAGS)
export CGO_ENABLED := 0

GO      ?= go
VERSION ?= $(shell scripts/version)
LDFLAGS  = -s -w -X main.version=$(VERSION)

.PHONY: run lab build page go root libpcap kafka nats check test race bench siege newcomer soak screenshots deb release sbom vuln fuzz lint install-core clean

build: go page bin/pcapper bin/recollect ## build the two static programs

page: ## build the dashboard's page, if Node.js is here
	@scripts/page $(PAGE)

go: # is it new enough?
	@scripts/check-go $(GO)

root:
	@[ "$$(id -u)" = 0 ] || { echo "make $(MAKECMDGOALS) needs root: it captures packets, and installs what is missing" >&2; exit 1; }

.PHONY: bin/pcapper bin/recollect
bin/pcapper bin/recollect: go
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$(@F)

libpcap: go ## build bin/pcapper-libpcap, which compiles filters and captures with libpcap
	scripts/need gcc:gcc pcap.h:libpcap-dev
	CGO_ENABLED=1 $(GO) build -trimpath -tags libpcap -ldflags '$(LDFLAGS)' -o bin/pcapper-libpcap ./cmd/pcapper

nats: go ## build bin/pcapper-nats, which has the client of NATS for -export nats://
	CGO_ENABLED=0 $(GO) build -trimpath -tags nats -ldflags '$(LDFLAGS)' -o bin/pcapper-nats ./cmd/pcapper

kafka: go page ## build bin/recollect-kafka, whose -sink knows Kafka
	CGO_ENABLED=0 $(GO) build -trimpath -tags kafka -ldflags '$(LDFLAGS)' -o bin/recollect-kafka ./cmd/recollect

run lab: PAGE = -required

run: root build ## watch this host's own traffic
	@scripts/run

lab: root build ## watch three hosts, in namespaces, that talk to each other with mgen
	@scripts/lab

check: go ## what every change should pass: no root, nothing beyond Go, about a minute once compiled
	@scripts/check

test: go ## everything, as root: some twelve minutes on two processors
	@scripts/test

lint: go ## format, vet, staticcheck
	@scripts/lint

bench: build ## what capturing costs, beside others; BENCH="-quick", "-cells REGEXP" ...
	scripts/need tcpdump:tcpdump softflowd:softflowd
	$(GO) run ./bench $(BENCH)

siege: go ## kill the parts of a bus at random and count; SIEGE="-kills 30 -rate 1000000", "-local", "-owners all" ...
	$(GO) run ./bench/siege $(SIEGE)

deb: go ## a Debian package of both programs, in bin
	@scripts/deb

release: go ## tarballs, .deb, .rpm, SBOM and checksums for amd64 and arm64, in bin/release
	@scripts/release

sbom: build ## the modules that are compiled in, as an SPDX document
	@scripts/sbom bin/pcapper bin/recollect

vuln: go ## known vulnerabilities in what is compiled in
	@scripts/vuln

newcomer: ## what a new user does, in bare Debians; SUITES="bookworm trixie"
	@set -e; for suite in $(SUITES); do scripts/newcomer $$suite; done
newcomer: SUITES ?= bookworm trixie

soak: go ## the guarantees in their long form, and everything mixed for SOAK (default 60m)
	@scripts/soak

screenshots: go ## the pictures in docs/images anew, of recollect demo
	@scripts/screenshots

fuzz: go ## every fuzz target for FUZZTIME each (default 30s)
	@scripts/fuzz $(FUZZTIME)

install-core: build ## as root: the services for CORE, the network emulator
	@core/install $(INSTALL)

clean:
	rm -rf bin web/node_modules
	find internal/collector/web/dist -type f ! -name placeholder.html -delete
