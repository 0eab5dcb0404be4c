# Two commands do everything: `make run` and `make test`. Both install what is
# missing (Debian packages, as root).

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
LDFLAGS  = -s -w -X main.version=$(VERSION)

.PHONY: run lab build page libpcap kafka nats test race bench siege soak deb sbom vuln fuzz lint install-core clean

build: page bin/pcapper bin/recollect ## build the two static programs

page: ## build the dashboard's page, if Node.js is here
	@scripts/page

.PHONY: bin/pcapper bin/recollect
bin/pcapper bin/recollect:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$(@F)

libpcap: ## build bin/pcapper-libpcap, which compiles filters and captures with libpcap
	scripts/need gcc:gcc pcap.h:libpcap-dev
	CGO_ENABLED=1 $(GO) build -trimpath -tags libpcap -ldflags '$(LDFLAGS)' -o bin/pcapper-libpcap ./cmd/pcapper

nats: ## build bin/pcapper-nats, which has the client of NATS for -export nats://
	CGO_ENABLED=0 $(GO) build -trimpath -tags nats -ldflags '$(LDFLAGS)' -o bin/pcapper-nats ./cmd/pcapper

kafka: page ## build bin/recollect-kafka, whose -sink knows Kafka
	CGO_ENABLED=0 $(GO) build -trimpath -tags kafka -ldflags '$(LDFLAGS)' -o bin/recollect-kafka ./cmd/recollect

run: build ## watch this host's own traffic
	@scripts/run

lab: build ## watch three hosts, in namespaces, that talk to each other with mgen
	@scripts/lab

test: ## everything, as root, in under ten minutes
	@scripts/test

lint: ## format, vet, staticcheck
	@scripts/lint

bench: build ## what capturing costs, beside others; BENCH="-quick", "-cells REGEXP" ...
	scripts/need tcpdump:tcpdump softflowd:softflowd
	$(GO) run ./bench $(BENCH)

siege: ## kill the parts of a bus at random and count; SIEGE="-kills 30 -rate 1000000", "-embedded" ...
	$(GO) run ./bench/siege $(SIEGE)

deb: ## a Debian package of both programs, in bin
	@scripts/deb

sbom: build ## the modules that are compiled in, as an SPDX document
	@scripts/sbom bin/pcapper bin/recollect

vuln: ## known vulnerabilities in what is compiled in
	@scripts/vuln

soak: ## the guarantees in their long form, and everything mixed for SOAK (default 60m)
	@scripts/soak

fuzz: ## every fuzz target for FUZZTIME each (default 30s)
	@scripts/fuzz $(FUZZTIME)

install-core: build ## as root: the services for CORE, the network emulator
	@core/install $(INSTALL)

clean:
	rm -rf bin web/node_modules
	find internal/collector/web/dist -type f ! -name placeholder.html -delete
