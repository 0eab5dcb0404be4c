// The server's JSON; docs/api.md describes it.

export interface Setup {
	version: string;
	run: string;
	started: string;
	flows: FlowSetup[];
	hosts: HostSetup[];
}
export interface FlowSetup {
	id: string;
	name: string;
	detail: string;
	color: string;
	relay: string;
	/** Only the history has it. */
	former?: boolean;
}
export interface HostSetup {
	label: string;
	name: string;
	address: string;
	feed: string;
	former?: boolean;
}
export interface Span {
	from: number;
	to: number;
	step: number;
	points: number;
	/** Times, from and to, when the collector did not run or no agent was watching. */
	gaps?: [number, number][];
}
export interface Count {
	packets: number;
	bits: number;
}
/** null: unknown, as nobody was watching. */
export interface Series {
	packets: (number | null)[];
	bits: (number | null)[];
}
export interface Loss {
	stage: string;
	count: number;
}
/** What is kept of an agent's traffic. */
export interface Detail {
	level: 'packets' | 'flows' | 'top';
	since: number;
	limit: string;
	why: string;
	changes: number;
	records: number;
	lost: number;
}
export interface HostState {
	state: 'dialling' | 'connected' | 'failed' | 'removed';
	status: string;
	records: number;
	connections: number;
	losses: Loss[];
	detail: Detail | null;
	late: number;
	future: number;
	lateNow: boolean;
	futureNow: boolean;
	age: number | null;
	cpu: number | null;
	memory: number | null;
}
export interface Store {
	records: number;
	late: number;
	future: number;
	lost: number;
	forgotten: number;
	memory: number;
	budget: number;
	archive: Archive | null;
}
export interface Replay {
	position: number;
	part: number;
	/** 0: as fast as possible. */
	speed: number;
	gap: number;
	paused: boolean;
	seeking: boolean;
	ended: boolean;
}
export interface Archive {
	size: number;
	most: number;
	lost: number;
	damaged: number;
	full: boolean;
	error: string;
	cut: boolean;
}
export interface Frame {
	seq: number;
	run: string;
	now: number;
	complete: number;
	oldest: number;
	hosts: HostState[];
	store: Store;
	replay: Replay | null;
	current: Overview;
	tail: Overview;
}
export interface Overview {
	window: Span;
	total: Count;
	relayed: Count;
	seen: Count;
	series: Series;
	flows: FlowSeries[];
	hosts: HostCounts[];
}
export interface FlowSeries {
	row: number;
	primary: Count;
	secondary: Count;
	primarySeries: Series;
	secondarySeries: Series;
}
export interface HostCounts {
	host: number;
	sent: Count;
	relayed: Count;
	received: Count;
	flows: FlowCounts[];
}
export interface FlowCounts {
	row: number;
	primary: Count;
	secondary: Count;
}
export interface Hosts {
	window: Span;
	hosts: HostView[];
}
export interface HostView extends HostCounts {
	/** Times, from and to, when its agent was not watching or the collector did not run. */
	gaps: [number, number][];
	sentSeries: Series;
	relayedSeries: Series;
	receivedSeries: Series;
}
export interface Lost {
	expected: number;
	lost: number;
	fraction: number;
	bySequence: boolean;
}
export interface Cell {
	src: string;
	dst: string;
	srcHost: number;
	dstHost: number;
	once: Count;
	sent: Count;
	relayed: Count;
	received: Count;
	loss: Lost | null;
}
export interface Group {
	group: string;
	once: Count;
	senders: {
		src: string;
		host: number;
		watched: boolean;
		once: Count;
		receivers: { host: number; received: Count; fraction: number | null }[];
	}[];
}
export interface Matrix {
	window: Span;
	/** Of addresses that are in it. */
	names: Record<string, string>;
	total: Count;
	other: Count;
	cells: Cell[];
	groups: Group[];
}
export interface Tuple {
	src: string;
	dst: string;
	srcPort: number;
	dstPort: number;
	proto: number;
}
export interface Talker extends Tuple {
	row: number;
	once: Count;
	sent: Count;
	relayed: Count;
	received: Count;
}
export interface Talkers {
	window: Span;
	/** Of addresses that are in it. */
	names: Record<string, string>;
	total: Count;
	other: Count;
	talkers: Talker[];
}
export interface Messages extends Count {
	messages: number;
}
export interface Delay {
	min: number;
	mean: number;
	max: number;
	jitter: number;
}
export interface MGENReceiver {
	host: number;
	received: Messages;
	loss: Lost | null;
	duplicates: number | null;
	reordered: number | null;
	restarts: number | null;
	delay: Delay | null;
	negativeDelays: number;
}
export interface MGENFlow extends Tuple {
	id: number;
	srcHost: number;
	watched: boolean;
	sent: Messages;
	relayed: Count;
	receivers: MGENReceiver[];
}
export interface MGEN {
	window: Span;
	/** Of addresses that are in it. */
	names: Record<string, string>;
	other: Count;
	flows: MGENFlow[];
}
/** Something that is wrong now. */
export interface Problem {
	kind: string;
	monitoring: boolean;
	text: string;
	since?: number;
	view: string;
	/** What to choose there. */
	pick?: string;
	severity: number;
}
export interface Problems {
	problems: Problem[];
	/** How many were left out. */
	more: number;
}
export interface MGENHistory {
	window: Span;
	sent: Series;
	receivers: {
		host: number;
		received: Series;
		expected: (number | null)[];
		lost: (number | null)[];
		duplicates: number[];
		reordered: number[];
		minDelay: (number | null)[];
		meanDelay: (number | null)[];
		maxDelay: (number | null)[];
		jitter: (number | null)[];
	}[];
}

// What is known of the ways of packets; docs/paths.md.

export interface LinkRow {
	row: number;
	packets: number;
	bytes: number;
	lost: number;
	unobserved?: number;
}
export interface PathLink {
	from: string;
	/** Empty: nobody is known there. */
	to: string;
	flows: LinkRow[];
}
export interface Delivery {
	row: number;
	delivered: number;
	lost: number;
	unobserved: number;
}
export interface PathMap {
	/** What is really covered; both are 0 if nothing is known. */
	from: number;
	to: number;
	sampled: number;
	nodes: { name: string; agents: string[] }[];
	links: PathLink[];
	delivery: Delivery[];
	other?: number;
}
export interface PathTuple {
	src: string;
	dst: string;
	src_port?: number;
	dst_port?: number;
	proto: number;
	mgen?: number;
}
export interface Brief extends PathTuple {
	src_name?: string;
	dst_name?: string;
	row: number;
	multicast?: boolean;
	packets: number;
	bytes: number;
	delivered: number;
	lost: number;
	unobserved: number;
	unheard: number;
	members?: number;
	silent?: number;
	changes?: number;
}
export interface Briefs {
	flows: Brief[];
	more: number;
}
export interface At {
	node: string;
	agent: string;
	stage: 'in' | 'queue' | 'out' | 'dropped';
}
export interface HopDelay {
	count: number;
	min_ns: number;
	mean_ns: number;
	p50_ns: number;
	p95_ns: number;
	p99_ns: number;
	jitter_ns: number;
	clock: 'same' | 'common' | 'estimated' | 'unknown';
	offset_ns?: number;
	uncertainty_ns?: number;
}
export interface Hop {
	from: At;
	to?: At;
	packets: number;
	bytes: number;
	lost: number;
	unobserved?: number;
	duplicates?: number;
	reordered?: number;
	delivered: number;
	delay?: HopDelay;
	drops?: Record<string, number>;
}
export interface Hops {
	hops: Hop[];
	more: number;
}
export interface Ended {
	time_ns: number;
	digest: string;
	flow: PathTuple;
	mgen_seq?: number;
	outcome: 'delivered' | 'dropped' | 'lost' | 'unheard' | 'unobserved' | 'waiting';
	at: At;
	towards?: At;
	reason?: string;
}
export interface EndedList {
	packets: Ended[];
}
export interface Role {
	node: string;
	role: 'source' | 'relay' | 'member' | 'overhearer' | 'receiver';
	received: number;
	copies?: number;
	relayed?: number;
	share: number;
}
export interface PathFlow extends PathTuple {
	multicast?: boolean;
	packets: number;
	bytes: number;
	arrived: number;
	lost: number;
	unheard?: number;
	unobserved?: number;
	drops?: Record<string, number>;
	loops?: number;
	min_hops: number;
	max_hops: number;
	hops: Hop[];
	paths?: { nodes: string[]; packets: number; first_ns: number; last_ns: number }[];
	changes?: { time_ns: number; from: string[]; to: string[] }[];
	changed?: number;
	nodes?: Role[];
}
export interface PathReport {
	now_ns: number;
	sampled: number;
	flows: PathFlow[];
}
