package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/collector/web"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

// addPage opens the port of the page and makes cfg serve it. Its error names what is
// wrong with the address, before anything else has started. /metrics includes the
// metrics of s.
func addPage(cfg *collector.Config, address string, o pageOptions, s sinks) error {
	access, err := o.access()
	if err != nil {
		return err
	}
	rules, err := o.readRules()
	if err != nil {
		return err
	}
	server, err := web.Listen(address, access)
	if err != nil {
		return err
	}
	server.Measure(s)
	if cfg.Ledger == nil {
		cfg.Ledger = new(ledger.Book)
	}
	server.Account(cfg.Ledger)
	if cfg.Paths == nil {
		cfg.Paths = path.New(path.Config{})
	}
	server.Measure(path.Metrics{Engine: cfg.Paths})
	server.Add(path.Endpoints(cfg.Paths, s.past()))
	server.Alert(rules)
	server.Judge((&pathJudge{engine: cfg.Paths, rules: rules}).judge)
	cfg.Page = server.URL()
	say("page at %s", cfg.Page)
	if server.Open() {
		say("the page is open to anyone who can reach this port: it has no password")
	}
	if !server.Built() {
		say("the page itself is not in this program, only its data")
		say(`hint: install Node.js 20 or newer, and build again by "make build"`)
	}
	files := *cfg
	cfg.View = func(ctx context.Context, v *collector.View) error {
		server.Measure(viewMetrics{v})
		files.Paths.Classify(v.RowOf, files.Names.Addr)
		return server.Run(ctx, newPageSource(files, v))
	}
	return nil
}

// pageSource adapts a collector to web.Source.
type pageSource struct {
	*rollup.Store
	view  *collector.View
	files collector.Config
	names *collector.Names
	run   string

	mu      sync.Mutex
	setup   *web.Setup
	edition uint64 // of the view, as of setup
}

func newPageSource(cfg collector.Config, v *collector.View) *pageSource {
	s := &pageSource{Store: v.Store(), view: v, files: cfg, names: cfg.Names, run: rand.Text()}
	s.edition = v.Edition()
	s.setup = s.newSetup()
	return s
}

// newSetup returns the current setup of the view. To a page, each edition is a run of
// its own, for which it requests everything again.
func (s *pageSource) newSetup() *web.Setup {
	v, cfg := s.view, &s.files
	setup := &web.Setup{
		Version: version, Run: fmt.Sprintf("%s-%d", s.run, s.edition), Started: v.Started(), Flows: []web.Flow{}, Hosts: []web.Host{},
	}
	for _, row := range v.Rows() {
		style := cfg.Palette.Flow(row.Number)
		setup.Flows = append(setup.Flows, web.Flow{
			ID: row.Name, Name: style.Name, Detail: row.Detail,
			Color: style.Color.String(), Relay: style.Relay.String(), Former: row.Former,
		})
	}
	hosts, agents := v.Hosts(), v.Agents()
	for i := range hosts {
		h := &hosts[i]
		host := web.Host{Label: h.Label, Name: cfg.Names.Label(h.Label), Address: h.Address(), Feed: "28-byte"}
		host.Former = i < len(agents) && agents[i].Gone
		switch {
		case host.Former:
			host.Feed = ""
		case h.From:
			host.Feed = "ipfix"
		case h.Port == 0: // a log that is replayed
			host.Address, host.Feed = h.Name, "log"
		case h.IPFIX:
			host.Feed = "ipfix"
		}
		setup.Hosts = append(setup.Hosts, host)
	}
	return setup
}

func (s *pageSource) Setup() *web.Setup {
	s.mu.Lock()
	defer s.mu.Unlock()
	if edition := s.view.Edition(); edition != s.edition {
		s.edition = edition
		s.setup = s.newSetup()
	}
	return s.setup
}

// Replay and Steer implement web.Player.
func (s *pageSource) Replay() *web.Replay {
	st, ok := s.view.Replay()
	if !ok {
		return nil
	}
	r := &web.Replay{Part: st.Part(), Speed: st.Speed, Paused: st.Paused, Seeking: st.Seeking, Ended: st.Ended}
	if st.Started {
		r.Position = float64(st.Position) / 1e9
		if !st.Ended {
			r.Gap = max(0, float64(st.Next-st.Position)/1e9)
		}
	}
	return r
}

func (s *pageSource) Steer(c web.Command, by time.Duration) {
	s.view.Steer(map[web.Command]collector.Steering{
		web.Pause: collector.Pause, web.Resume: collector.Resume, web.Slower: collector.Slower, web.Faster: collector.Faster,
		web.Next: collector.Next, web.Forward: collector.Forward,
	}[c], by)
}

// SocketDrops is of a web.DropSource.
func (s *pageSource) SocketDrops(w rollup.Window) func(*rollup.MGENFlow, int) (uint64, bool) {
	if s.files.Paths == nil {
		return func(*rollup.MGENFlow, int) (uint64, bool) { return 0, false }
	}
	counts, since, reporting := s.files.Paths.SocketDrops(w.From, w.To)
	hosts := s.view.Hosts()
	return func(f *rollup.MGENFlow, host int) (uint64, bool) {
		if host >= len(hosts) || since > w.From || !reporting[hosts[host].Label] {
			return 0, false
		}
		return counts[path.DropKey{Agent: hosts[host].Label, Src: f.Src, Dst: f.Dst, SrcPort: f.SrcPort, DstPort: f.DstPort, Proto: f.Proto, MGEN: f.ID}], true
	}
}

func (s *pageSource) Lost() uint64 { return s.view.Counting().Lost }

func (s *pageSource) Name(a netip.Addr) string { return s.names.Addr(a) }

func (s *pageSource) Agents() []web.Agent {
	var list []web.Agent
	hosts := s.view.Hosts()
	for i, a := range s.view.Agents() {
		agent := web.Agent{State: web.Dialling, Status: a.Status, Records: a.Records, Connections: a.Connections}
		switch {
		case a.Gone:
			agent.State = web.Removed
		case a.Phase == feed.Connected:
			agent.State = web.Connected
		case a.Failed:
			agent.State = web.Failed
		}
		if a.HasLosses {
			agent.Losses = []web.Loss{
				{Stage: "capture", Count: a.Losses.Ignored},
				{Stage: "not sent", Count: a.Losses.NotSent},
				{Stage: "on the way", Count: a.Losses.Missing},
			}
		}
		if i < len(hosts) && !a.Gone && !a.HasLosses && !hosts[i].From && hosts[i].Port != 0 { // neither a log nor from a bus
			agent.Losses = []web.Loss{{Stage: "malformed", Count: a.Losses.Malformed}}
		}
		if a.Withheld > 0 {
			agent.Losses = append(agent.Losses, web.Loss{Stage: "withheld", Count: a.Withheld})
		}
		if d := a.Detail; d != nil {
			agent.Detail = &web.Detail{
				Level: d.Level.String(), Limit: d.Limit, Why: d.Why, Changes: d.Changes, Records: d.Records, Lost: d.Lost,
			}
			if !d.Since.IsZero() {
				agent.Detail.Since = d.Since.Unix()
			}
		}
		list = append(list, agent)
	}
	return list
}
