package web

import (
	"context"
	"net/netip"
	"strconv"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
)

// Source is the collector behind the page. Its methods must be safe for concurrent use.
type Source interface {
	// Setup returns what stays the same until the configuration changes.
	Setup() *Setup
	// Snapshot returns the newest snapshot; Next waits for one with a Seq above after.
	Snapshot() *rollup.Snapshot
	Next(ctx context.Context, after uint64) (*rollup.Snapshot, error)
	// Agents returns the connections, in the order of Setup.Hosts. The caller may
	// modify the result.
	Agents() []Agent
	// Name returns the name of an address, or "".
	Name(netip.Addr) string
	// Lost returns the number of records that were overwritten before they were
	// counted.
	Lost() uint64
}

// DropSource is a Source that knows what hosts have dropped of what they had received.
type DropSource interface {
	// SocketDrops finds the messages of an MGEN flow, sent in w, that a host has received and not given to
	// an application; known is false unless its agent tells of drops, and of all in w.
	SocketDrops(w rollup.Window) func(f *rollup.MGENFlow, host int) (lost uint64, known bool)
}

// Setup is what stays the same until the configuration changes. The numbers of flows
// and hosts never change.
type Setup struct {
	Version string `json:"version"`
	// Run changes with each start of the program and each change of the configuration,
	// so that a page recognizes outdated data.
	Run     string    `json:"run"`
	Started time.Time `json:"started"`
	// Flows are the rows of rollup; the one with the ID X is the traffic of no flow.
	Flows []Flow `json:"flows"`
	Hosts []Host `json:"hosts"` // agents in the order of the configuration, followed by former and then later ones
}

// Flow is a row of the page.
type Flow struct {
	ID     string `json:"id"`     // number in the configuration, or X
	Name   string `json:"name"`   // "" if it has no name
	Detail string `json:"detail"` // definition of the flow: 2000, M1000-1099
	// Color is the color of primary traffic, and Relay that of relayed traffic,
	// #rrggbb; "" leaves the choice to the page.
	Color string `json:"color"`
	Relay string `json:"relay"`
	// Former flows are no longer in the configuration, but in the history.
	Former bool `json:"former,omitempty"`
}

// Host is an agent's line in the configuration.
type Host struct {
	Label   string `json:"label"`
	Name    string `json:"name"` // "" if it has no name
	Address string `json:"address"`
	// Feed is the format that the agent sends: "28-byte" or "ipfix"; or "log" for a log
	// that is replayed. It is empty for a former host.
	Feed string `json:"feed" enum:"28-byte,ipfix,log,"`
	// Former hosts are no longer in the configuration.
	Former bool `json:"former,omitempty"`
}

// AgentState is the state of an agent's connection.
type AgentState string

// States of an agent's connection.
const (
	Dialling  AgentState = "dialling"
	Connected AgentState = "connected"
	Failed    AgentState = "failed" // will be retried
	// Removed: no longer in the configuration; see Host.Former.
	Removed AgentState = "removed"
)

// Agent is an agent's connection.
type Agent struct {
	State       AgentState `json:"state"`
	Status      string     `json:"status"`      // why it failed, in a few words
	Records     uint64     `json:"records"`     // received since the start
	Connections uint64     `json:"connections"` // made since the start
	// Losses since the start by stage, in the order in which packets pass through the
	// stages. Stages that the agent's feed cannot report are omitted.
	Losses []Loss `json:"losses"`
	// Detail is what is kept of its records; nil if none are kept.
	Detail *Detail `json:"detail"`
}

// Detail is how much of an agent's traffic is kept.
type Detail struct {
	Level   string `json:"level" enum:"packets,flows,top"` // packets, flows, top
	Since   int64  `json:"since"`                          // seconds since 1970; 0 means from the start
	Limit   string `json:"limit"`                          // the limit exceeded, as named by -detail; or "rule"; "" at level packets
	Why     string `json:"why"`                            // the same in words
	Changes uint64 `json:"changes"`                        // of the level
	Records uint64 `json:"records"`                        // passed on to be kept
	Lost    uint64 `json:"lost"`                           // not passed on, because there were too many at once
}

// Loss is what was lost at a stage.
type Loss struct {
	Stage string `json:"stage"`
	Count uint64 `json:"count"`
}

// The types below are the JSON of docs/api.md. Slices are never null.

type spanJSON struct {
	From   int64 `json:"from"`
	To     int64 `json:"to"` // exclusive
	Step   int64 `json:"step"`
	Points int   `json:"points"`
	// Gaps are time ranges [from, to) about which nothing is known, because the
	// collector was not running or none of the agents was watching.
	Gaps [][2]int64 `json:"gaps,omitempty"`
}

type countJSON struct {
	Packets uint64 `json:"packets"`
	Bits    uint64 `json:"bits"`
}

// seriesJSON has a value for each point of the window.
type seriesJSON struct {
	Packets []measured `json:"packets"`
	Bits    []measured `json:"bits"`
}

// measured is a number, or null if it is unknown.
type measured uint64

const unknown measured = 1<<64 - 1

// Null implements api.Nullable.
func (m measured) Null() bool { return m == unknown }

func (m measured) MarshalJSON() ([]byte, error) {
	if m.Null() {
		return []byte("null"), nil
	}
	return strconv.AppendUint(nil, uint64(m), 10), nil
}

func (m *measured) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*m = unknown
		return nil
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	*m = measured(n)
	return err
}

// frameJSON is pushed once a second: the current state, and the newest seconds, the
// last of which may still change.
type frameJSON struct {
	Seq      uint64          `json:"seq"`
	Run      string          `json:"run"`
	Now      float64         `json:"now"`      // UNIX seconds
	Complete int64           `json:"complete"` // the newest completed second
	Oldest   int64           `json:"oldest"`   // the first second that is kept; 0: none
	Hosts    []hostStateJSON `json:"hosts"`
	Store    storeJSON       `json:"store"`
	Replay   *Replay         `json:"replay"`  // null unless logs are replayed
	Current  overviewJSON    `json:"current"` // the second Complete alone
	Tail     overviewJSON    `json:"tail"`    // the newest tailSeconds
}

// hostStateJSON is an agent's connection and what is known about its records.
type hostStateJSON struct {
	Agent
	Late      uint64 `json:"late"`
	Future    uint64 `json:"future"`
	LateNow   bool   `json:"lateNow"`
	FutureNow bool   `json:"futureNow"`
	// Age is the age of the most recent packet on arrival, in seconds; negative if the
	// host's clock is ahead. Null if unknown.
	Age *float64 `json:"age"`
	// CPU in percent, Memory in bytes; null if the agent does not report them.
	CPU    *float64 `json:"cpu"`
	Memory *uint64  `json:"memory"`
}

// storeJSON is the state of the collector.
type storeJSON struct {
	Records   uint64 `json:"records"`
	Late      uint64 `json:"late"`
	Future    uint64 `json:"future"`
	Lost      uint64 `json:"lost"`
	Forgotten uint64 `json:"forgotten"`
	Memory    int64  `json:"memory"`
	Budget    int64  `json:"budget"`
	// Archive is null if history is in memory only.
	Archive *archiveJSON `json:"archive"`
}

// archiveJSON is the state of the history on disk.
type archiveJSON struct {
	Size    int64  `json:"size"`
	Most    int64  `json:"most"`
	Lost    uint64 `json:"lost"`
	Damaged uint64 `json:"damaged"`
	Full    bool   `json:"full"`
	Error   string `json:"error"`
	Cut     bool   `json:"cut"`
}

type overviewJSON struct {
	Window  spanJSON         `json:"window"`
	Total   countJSON        `json:"total"`
	Relayed countJSON        `json:"relayed"`
	Seen    countJSON        `json:"seen"`
	Series  seriesJSON       `json:"series"`
	Flows   []flowSeriesJSON `json:"flows"`
	Hosts   []hostCountsJSON `json:"hosts"`
}

type flowSeriesJSON struct {
	Row             int        `json:"row"`
	Primary         countJSON  `json:"primary"`
	Secondary       countJSON  `json:"secondary"`
	PrimarySeries   seriesJSON `json:"primarySeries"`
	SecondarySeries seriesJSON `json:"secondarySeries"`
}

type hostCountsJSON struct {
	Host     int              `json:"host"`
	Sent     countJSON        `json:"sent"`
	Relayed  countJSON        `json:"relayed"`
	Received countJSON        `json:"received"`
	Flows    []flowCountsJSON `json:"flows"`
}

type flowCountsJSON struct {
	Row       int       `json:"row"`
	Primary   countJSON `json:"primary"`
	Secondary countJSON `json:"secondary"`
}

type hostsJSON struct {
	Window spanJSON       `json:"window"`
	Hosts  []hostViewJSON `json:"hosts"`
}

type hostViewJSON struct {
	hostCountsJSON
	// Gaps are time ranges in which its agent was not watching, or the collector was
	// not running.
	Gaps           [][2]int64 `json:"gaps"`
	SentSeries     seriesJSON `json:"sentSeries"`
	RelayedSeries  seriesJSON `json:"relayedSeries"`
	ReceivedSeries seriesJSON `json:"receivedSeries"`
}

// namesJSON has the names of addresses in the response.
type namesJSON map[string]string

type matrixJSON struct {
	Window spanJSON    `json:"window"`
	Total  countJSON   `json:"total"`
	Other  countJSON   `json:"other"`
	Cells  []cellJSON  `json:"cells"`
	Groups []groupJSON `json:"groups"`
	Names  namesJSON   `json:"names"`
}

type cellJSON struct {
	Src      string    `json:"src"`
	Dst      string    `json:"dst"`
	SrcHost  int       `json:"srcHost"` // -1 if unknown
	DstHost  int       `json:"dstHost"`
	Once     countJSON `json:"once"`
	Sent     countJSON `json:"sent"`
	Relayed  countJSON `json:"relayed"`
	Received countJSON `json:"received"`
	Loss     *lostJSON `json:"loss"` // null if unknown
}

type lostJSON struct {
	Expected   uint64  `json:"expected"`
	Lost       uint64  `json:"lost"`
	Fraction   float64 `json:"fraction"` // 0 to 1
	BySequence bool    `json:"bySequence"`
}

type groupJSON struct {
	Group   string       `json:"group"`
	Once    countJSON    `json:"once"`
	Senders []senderJSON `json:"senders"`
}

type senderJSON struct {
	Src       string         `json:"src"`
	Host      int            `json:"host"`
	Watched   bool           `json:"watched"`
	Once      countJSON      `json:"once"`
	Receivers []receiverJSON `json:"receivers"`
}

type receiverJSON struct {
	Host     int       `json:"host"`
	Role     string    `json:"role" enum:"receiver,member,relay,overhearer"`
	Received countJSON `json:"received"`
	Fraction *float64  `json:"fraction"` // null if it could not be compared
}

type talkersJSON struct {
	Window  spanJSON     `json:"window"`
	Total   countJSON    `json:"total"`
	Other   countJSON    `json:"other"`
	Talkers []talkerJSON `json:"talkers"`
	Names   namesJSON    `json:"names"`
	// Hosts are the agents whose addresses are among those of talkers.
	Hosts map[string]int `json:"hosts"`
}

type tupleJSON struct {
	Src     string `json:"src"`
	Dst     string `json:"dst"`
	SrcPort uint16 `json:"srcPort"`
	DstPort uint16 `json:"dstPort"`
	Proto   uint8  `json:"proto"`
}

type talkerJSON struct {
	tupleJSON
	Row      int       `json:"row"`
	Once     countJSON `json:"once"`
	Sent     countJSON `json:"sent"`
	Relayed  countJSON `json:"relayed"`
	Received countJSON `json:"received"`
}

type mgenJSON struct {
	Window spanJSON       `json:"window"`
	Other  countJSON      `json:"other"`
	More   int            `json:"more,omitempty"` // number of flows left out because of a limit
	Flows  []mgenFlowJSON `json:"flows"`
	Names  namesJSON      `json:"names"`
}

type mgenFlowJSON struct {
	ID uint32 `json:"id"`
	tupleJSON
	SrcHost   int                `json:"srcHost"`
	Watched   bool               `json:"watched"`
	Sent      messagesJSON       `json:"sent"`
	Relayed   countJSON          `json:"relayed"`
	Receivers []mgenReceiverJSON `json:"receivers"`
}

type messagesJSON struct {
	countJSON
	Messages uint64 `json:"messages"` // 0 if the feed does not report messages
}

type mgenReceiverJSON struct {
	Host     int          `json:"host"`
	Role     string       `json:"role" enum:"receiver,member,relay,overhearer"`
	Received messagesJSON `json:"received"`
	// Delivery says what became of what was sent to it; null of relays and overhearers.
	Delivery *mgenDeliveryJSON `json:"delivery"`
	Loss     *lostJSON         `json:"loss"`
	// The rest is null unless the feed tells of messages.
	Duplicates *uint64    `json:"duplicates"`
	Reordered  *uint64    `json:"reordered"`
	Restarts   *uint64    `json:"restarts"`
	Delay      *delayJSON `json:"delay"`
	Negative   uint64     `json:"negativeDelays"`
}

// mgenDeliveryJSON counts messages, or packets: sent = arrived + lost + unobserved.
type mgenDeliveryJSON struct {
	Sent       uint64 `json:"sent"`
	Arrived    uint64 `json:"arrived"` // at the interface, each once
	Lost       uint64 `json:"lost"`
	Unobserved uint64 `json:"unobserved"` // on their way, or an agent was not watching
	Unseen     uint64 `json:"unseen"`     // of sent: not seen by the sender's agent
	// Application is how many of arrived an application got; null if its host does not tell of drops.
	Application *uint64 `json:"application"`
}

// delayJSON is in milliseconds.
type delayJSON struct {
	Min    float64 `json:"min"`
	Mean   float64 `json:"mean"`
	Max    float64 `json:"max"`
	Jitter float64 `json:"jitter"`
}

type mgenHistoryJSON struct {
	Window    spanJSON             `json:"window"`
	Sent      seriesJSON           `json:"sent"`
	Receivers []mgenReceiverSeries `json:"receivers"`
}

// mgenReceiverSeries has null where there was nothing to measure.
type mgenReceiverSeries struct {
	Host       int        `json:"host"`
	Received   seriesJSON `json:"received"`
	Expected   []*uint64  `json:"expected"`
	Lost       []*int64   `json:"lost"`
	Duplicates []uint64   `json:"duplicates"`
	Reordered  []uint64   `json:"reordered"`
	MinDelay   []*float64 `json:"minDelay"` // in ms
	MeanDelay  []*float64 `json:"meanDelay"`
	MaxDelay   []*float64 `json:"maxDelay"`
	Jitter     []*float64 `json:"jitter"`
}
