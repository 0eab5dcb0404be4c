import type { Briefs, EndedList, Frame, Hops, Hosts, Matrix, MGEN, MGENHistory, Overview, PathMap, PathReport, PathTuple, Problems, Replay, Series, Setup, Span, Talkers } from './model';
import type { State } from './state';

export type Link = 'connecting' | 'live' | 'broken';

/** What a view asks the collector for. */
export interface Needs {
	/** The topic of the stream that it shows, which is also the address below /api/v1/. */
	topic?: 'hosts' | 'matrix' | 'talkers' | 'mgen';
	/** It shows series of all flows. */
	overview?: boolean;
	/** It shows what is wrong now. */
	problems?: boolean;
	/** It shows what went from where to where. */
	map?: boolean;
	/** It lists flows, the worst first, and shows one in detail. */
	paths?: boolean;
	/** It shows the ways of one flow. */
	picked?: boolean;
	/** It lists hops, and packets that did not arrive. */
	hops?: boolean;
}

/** What the page has of the server: pushed while it is live, fetched for the past. */
export class Feed {
	setup: Setup | null = null;
	frame: Frame | null = null;
	link: Link = 'connecting';
	/** Frames that this page skipped, as it could not keep up. */
	skipped = 0;
	/** When the last of them was skipped, by performance.now(). */
	skippedAt = -Infinity;
	/** When the newest frame came, by performance.now(). */
	arrived = 0;
	/** Why the last request failed. */
	problem = '';

	overview: Overview | null = null;
	/** The last second of what is shown: bars that say "now". */
	current: Overview | null = null;
	hosts: Hosts | null = null;
	matrix: Matrix | null = null;
	talkers: Talkers | null = null;
	mgen: MGEN | null = null;
	history: MGENHistory | null = null;
	/** What is wrong now, whatever time is shown. */
	problems: Problems | null = null;
	/** What went from where to where in the time that is shown. */
	map: PathMap | null = null;
	/** All flows, the worst first. */
	briefs: Briefs | null = null;
	/** The flow that is chosen, and those that are called the same. */
	picked: PathReport | null = null;
	/** The hops of all flows. */
	hops: Hops | null = null;
	/** The newest packets of the chosen flow that did not arrive. */
	ended: EndedList | null = null;
	/** The whole time that is kept, for the time bar. */
	past: Overview | null = null;

	private stream: EventSource | null = null;
	private streamURL = '';
	private retry = 0;
	private wanted = '';
	private strip: { from: number; to: number; live: boolean } | null = null;
	private stripKey = '';
	private fetching = new Map<string, AbortController>();
	private pastSeq = 0;
	private problemsSeq = 0;
	private historyKey = '';
	private pickedKey = '';

	constructor(private state: State, private needs: (view: string) => Needs, private changed: () => void) {
		// A page that nobody sees costs nobody anything.
		document.addEventListener('visibilitychange', () => {
			if (document.hidden) this.close();
			else this.follow();
		});
		setInterval(() => this.changed(), 1000); // "stalled" is seen without frames
	}

	start(): void {
		void this.loadSetup();
		this.follow();
	}

	/** Brings streams and requests in line with the state. */
	follow(): void {
		if (document.hidden) return;
		const { view, window: w, end } = this.state;
		const { topic } = this.needs(view);
		const url = '/api/v1/stream' + (topic && end === null && !this.state.whole ? `?topic=${topic}:${w}` : '');
		const wanted = `${view}|${this.state.whole ? 'all' : w}|${end}`;
		const isNew = wanted !== this.wanted;
		this.wanted = wanted;
		if (url !== this.streamURL || !this.stream) this.open(url);
		if (isNew) this.load();
		if (topic === 'mgen') this.loadHistory(isNew);
		if (this.state.pick !== this.pickedKey) this.loadPicked();
	}

	private open(url: string): void {
		this.close();
		this.streamURL = url;
		const stream = new EventSource(url);
		this.stream = stream;
		const on = (name: string, f: (data: unknown) => void) => stream.addEventListener(name, (e) => {
			if (this.stream !== stream) return;
			f(JSON.parse((e as MessageEvent<string>).data));
			this.changed();
		});
		on('frame', (data) => this.take(data as Frame));
		on('hosts', (data) => { if (this.state.end === null && this.setup) this.hosts = data as Hosts; });
		on('matrix', (data) => { if (this.state.end === null && this.setup) this.matrix = data as Matrix; });
		on('talkers', (data) => { if (this.state.end === null && this.setup) this.talkers = data as Talkers; });
		on('mgen', (data) => { if (this.state.end === null && this.setup) this.mgen = data as MGEN; });
		on('skipped', (data) => { this.skipped += Number(data); this.skippedAt = performance.now(); });
		stream.onerror = () => {
			if (this.stream !== stream) return;
			this.link = 'broken';
			// The browser tries again by itself, unless the answer was no stream.
			if (stream.readyState === EventSource.CLOSED) {
				clearTimeout(this.retry);
				this.retry = window.setTimeout(() => { if (this.stream === stream) this.open(url); }, 2000);
			}
			this.changed();
		};
	}

	private close(): void {
		clearTimeout(this.retry);
		this.stream?.close();
		this.stream = null;
	}

	private take(frame: Frame): void {
		const old = this.frame;
		const resumed = this.link !== 'live';
		this.frame = frame;
		this.grow();
		this.arrived = performance.now();
		this.link = 'live';
		if (!this.setup || this.setup.run !== frame.run) void this.loadSetup();
		const gap = !old || old.run !== frame.run || frame.complete - old.complete > frame.tail.window.points - 2 || frame.complete < old.complete;
		if (resumed || gap) {
			this.load();
		} else if (this.state.end === null) {
			this.current = frame.current;
			this.append(frame);
			if (this.state.whole && frame.seq % 30 === 0) this.load(); // no stream brings it
		}
		const needs = this.needs(this.state.view);
		if (needs.problems && frame.seq - this.problemsSeq >= 5) this.loadProblems();
		this.followPaths(frame);
		if (gap || (this.strip?.live !== false && frame.seq - this.pastSeq >= 30)) this.loadPast();
		else if (this.past && this.strip?.live) this.past = merge(this.past, frame.tail, frame.complete + 1, true);
		if (needs.topic === 'mgen' && this.state.end === null) this.loadHistory(false);
	}

	/** Puts the newest seconds into the window, or asks again if its steps are longer. */
	private append(frame: Frame): void {
		const o = this.overview;
		if (!o || !this.needs(this.state.view).overview) return;
		if (o.window.step === 1) {
			this.overview = merge(o, frame.tail, frame.complete + 1, false);
		} else if (frame.complete + 1 >= o.window.to + o.window.step) {
			void this.get<Overview>('overview', this.range(), (data) => { this.overview = data; });
		}
	}

	private range(): string {
		const { window: w, end } = this.state;
		return end === null ? `from=${-w}&to=0` : `from=${end - w}&to=${end}`;
	}

	/** Fetches what the view shows, once the names of hosts and flows are known. */
	load(): void {
		if (!this.setup) return;
		const { view, end } = this.state;
		const { topic, overview, problems } = this.needs(view);
		const range = this.range();
		if (problems) this.loadProblems();
		if (this.needs(view).map) this.loadMap();
		if (this.needs(view).paths) this.loadPaths();
		else if (this.needs(view).picked) this.loadPicked();
		if (overview) {
			void this.get<Overview>('overview', range, (data) => { this.overview = data; });
		}
		if (end !== null) {
			void this.get<Overview>('current', `from=${end - 1}&to=${end}&step=1`, (data) => { this.current = data; }, 'overview');
		} else if (this.frame) {
			this.current = this.frame.current;
		}
		// Live, the stream brings these.
		if (topic === 'hosts') void this.get<Hosts>('hosts', range, (data) => { this.hosts = data; });
		if (topic === 'matrix') void this.get<Matrix>('matrix', range, (data) => { this.matrix = data; });
		if (topic === 'talkers') void this.get<Talkers>('talkers', range, (data) => { this.talkers = data; });
		if (topic === 'mgen') {
			void this.get<MGEN>('mgen', range, (data) => { this.mgen = data; this.loadHistory(true); });
		}
	}

	private loadHistory(always: boolean): void {
		const key = this.state.mgen;
		if (key !== this.historyKey) {
			this.history = null;
			always = true;
		}
		this.historyKey = key;
		const parts = key.split('~');
		if (parts.length !== 7) return;
		const step = this.history?.window.step ?? 1;
		if (!always && this.frame && this.frame.complete % step !== 0) return;
		const [id, src, srcPort, dst, dstPort, proto] = parts;
		const query = new URLSearchParams({ id: id!, src: src!, srcPort: srcPort!, dst: dst!, dstPort: dstPort!, proto: proto! });
		void this.get<MGENHistory>('history', `${this.range()}&${query}`, (data) => { if (this.state.mgen === key) this.history = data; }, 'mgen/history');
	}

	private async loadSetup(): Promise<void> {
		await this.get<Setup>('setup', '', (data) => {
			this.setup = data;
			this.load();
		});
	}

	/** Everything is as long as it has become. */
	private grow(): void {
		if (this.state.whole && this.frame?.oldest) this.state.window = Math.max(60, this.frame.complete + 1 - this.frame.oldest);
	}

	/** Asks for what the time bar shows, from and to; live, it moves with the time. */
	showPast(from: number, to: number, live: boolean): void {
		this.strip = { from, to, live };
		// A length that only grows as time passes is no reason to ask again.
		const key = live ? `live ${Math.round(Math.log(to - from) * 40)}` : `${from} ${to}`;
		if (key === this.stripKey || !this.frame) return;
		this.stripKey = key;
		this.loadPast();
	}

	/** Asks for the ways of packets again, some more often than others. */
	private followPaths(frame: Frame): void {
		const { map, paths, picked } = this.needs(this.state.view);
		if (map && this.state.end === null && frame.seq % (this.state.window > 900 ? 10 : 2) === 0) this.loadMap();
		if (paths && frame.seq % 4 === 0) this.loadPaths();
		else if (picked && frame.seq % 4 === 0) this.loadPicked();
	}

	private loadMap(): void {
		void this.get<PathMap>('map', this.range(), (data) => { this.map = data; });
	}

	private loadPaths(): void {
		void this.get<Briefs>('flows', '', (data) => { this.briefs = data; });
		if (this.needs(this.state.view).hops) void this.get<Hops>('hops', '', (data) => { this.hops = data; });
		this.loadPicked();
	}

	private loadPicked(): void {
		const key = this.state.pick;
		if (key !== this.pickedKey) this.picked = this.ended = null;
		this.pickedKey = key;
		const query = flowQuery(key);
		if (query) void this.get<PathReport>('picked', query, (data) => { if (this.state.pick === key) this.picked = data; }, 'paths');
		if (query && this.needs(this.state.view).hops) void this.get<EndedList>('ended', query.replace('limit=50', 'limit=200'), (data) => { if (this.state.pick === key) this.ended = data; }, 'packets');
	}

	private loadProblems(): void {
		this.problemsSeq = this.frame?.seq ?? 0;
		void this.get<Problems>('problems', 'limit=30', (data) => { this.problems = data; });
	}

	private loadPast(): void {
		if (!this.strip) return;
		this.pastSeq = this.frame?.seq ?? 0;
		const { from, to, live } = this.strip;
		void this.get<Overview>('past', live ? `from=${from - to}&to=0` : `from=${from}&to=${to}`, (data) => { this.past = data; }, 'overview');
	}

	/** The total of some time, hour by hour, for the calendar. */
	async hours(from: number, to: number, use: (data: Overview) => void): Promise<void> {
		await this.get<Overview>('calendar', `from=${from}&to=${to}&step=3600`, use, 'overview');
	}

	/** Tells logs that are played how to go on. */
	async steer(command: string, seconds: number): Promise<void> {
		try {
			const answer = await fetch('/api/v1/replay', {
				method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ command, seconds }),
			});
			const data: unknown = await answer.json();
			if (!answer.ok) throw new Error((data as { error?: string }).error ?? answer.statusText);
			if (this.frame) this.frame = { ...this.frame, replay: data as Replay };
			this.problem = '';
		} catch (err) {
			this.problem = err instanceof Error ? err.message : String(err);
		}
		this.changed();
	}

	/** What is shown is of another time: an answer is waited for. */
	get busy(): boolean {
		const { topic, overview } = this.needs(this.state.view);
		return (!!topic && this.fetching.has(topic)) || (!!overview && this.fetching.has('overview'));
	}

	/** One request of a kind at a time: a newer one ends the older. */
	private async get<T>(kind: string, query: string, use: (data: T) => void, path = kind): Promise<void> {
		this.fetching.get(kind)?.abort();
		const abort = new AbortController();
		this.fetching.set(kind, abort);
		this.changed();
		try {
			const answer = await fetch(`/api/v1/${path}${query ? `?${query}` : ''}`, { signal: abort.signal });
			const data: unknown = await answer.json();
			if (abort.signal.aborted) return;
			if (!answer.ok) throw new Error((data as { error?: string }).error ?? answer.statusText);
			this.problem = '';
			use(data as T);
		} catch (err) {
			if (abort.signal.aborted) return;
			this.problem = err instanceof Error ? err.message : String(err);
		} finally {
			if (this.fetching.get(kind) === abort) this.fetching.delete(kind);
		}
		this.changed();
	}
}

/** Names the flow that a chosen one is, for the page's address. */
export function flowKey(f: PathTuple): string {
	return [f.src, f.src_port ?? 0, f.dst, f.dst_port ?? 0, f.proto, f.mgen ?? ''].join('~');
}

/** The question for a flow by its key, or null if it is none. */
export function flowQuery(key: string): string | null {
	const [src, , dst, , proto, mgen] = key.split('~');
	if (!src || !dst || !proto) return null;
	return new URLSearchParams({ src, dst, ...(mgen ? { mgen } : {}), limit: '50' }).toString();
}

/** Series of window o with those of t put over them, moved to end at to. Both have steps of one second, unless coarse: then t is added where it is newer. */
export function merge(o: Overview, t: Overview, to: number, coarse: boolean): Overview {
	if (coarse && o.window.step !== 1) return mergeCoarse(o, t);
	const from = to - o.window.points;
	const window: Span = { from, to, step: 1, points: o.window.points, gaps: joinGaps(o.window, t.window, from, to) };
	const put = (a: Series | undefined, b: Series | undefined): Series => {
		const out: Series = { packets: new Array<number | null>(window.points), bits: new Array<number | null>(window.points) };
		for (let i = 0; i < window.points; i++) {
			const at = from + i;
			const inTail = at >= t.window.from && at < t.window.to;
			const source = inTail ? b : a;
			const j = inTail ? at - t.window.from : at - o.window.from;
			// A flow that is not there had no traffic, unless nothing is known.
			const absent = (inTail ? t : o).series.bits[j] === null ? null : 0;
			out.packets[i] = source ? source.packets[j] ?? absent : absent;
			out.bits[i] = source ? source.bits[j] ?? absent : absent;
		}
		return out;
	};
	const add = (list: (number | null)[]): number => list.reduce<number>((a, b) => a + (b ?? 0), 0);
	const sum = (s: Series) => ({ packets: add(s.packets), bits: add(s.bits) });
	const rows = [...new Set([...o.flows, ...t.flows].map((f) => f.row))].sort((a, b) => a - b);
	const flows = rows.map((row) => {
		const a = o.flows.find((f) => f.row === row);
		const b = t.flows.find((f) => f.row === row);
		const primarySeries = put(a?.primarySeries, b?.primarySeries);
		const secondarySeries = put(a?.secondarySeries, b?.secondarySeries);
		return { row, primarySeries, secondarySeries, primary: sum(primarySeries), secondary: sum(secondarySeries) };
	});
	const series = put(o.series, t.series);
	return { ...o, window, flows, series, total: sum(series) };
}

/** For the time bar, whose steps are long: only the total, and only until it is fetched again. */
function mergeCoarse(o: Overview, t: Overview): Overview {
	const { from, step, points } = o.window;
	const end = from + step * points;
	const shift = Math.max(0, Math.ceil((t.window.to - end) / step));
	if (shift === 0) return o;
	const bits = [...o.series.bits.slice(shift), ...new Array<number | null>(shift).fill(null)];
	const packets = [...o.series.packets.slice(shift), ...new Array<number | null>(shift).fill(null)];
	const start = from + shift * step;
	for (let i = 0; i < t.window.points; i++) {
		const at = t.window.from + i;
		const j = Math.floor((at - start) / step);
		const b = t.series.bits[i] ?? null;
		if (at >= end && j < points && b !== null) {
			bits[j] = (bits[j] ?? 0) + b;
			packets[j] = (packets[j] ?? 0) + (t.series.packets[i] ?? 0);
		}
	}
	const to = start + step * points;
	return { ...o, window: { from: start, to, step, points, gaps: joinGaps(o.window, t.window, start, to) }, series: { bits, packets } };
}

/** The gaps between from and to: those of t where it reaches, and of o before. */
function joinGaps(o: Span, t: Span, from: number, to: number): [number, number][] {
	const list: [number, number][] = [];
	const take = (gaps: [number, number][] | undefined, begin: number, end: number): void => {
		for (const [a, b] of gaps ?? []) {
			const last = list[list.length - 1];
			const gap: [number, number] = [Math.max(a, begin), Math.min(b, end)];
			if (gap[0] >= gap[1]) continue;
			if (last && gap[0] <= last[1]) last[1] = Math.max(last[1], gap[1]);
			else list.push(gap);
		}
	};
	take(o.gaps, from, t.from);
	take(t.gaps, Math.max(from, t.from), to);
	return list;
}
