import { List, h, style, text, toggle } from '../dom';
import { covered, measure, rates, unknown, type Unit } from '../format';
import type { Count, FlowSeries, HostState, Overview, Series, Setup, Span } from '../model';
import { flowColors } from '../palette';
import type { App } from '../view';
import { kept, type Problem } from './kept';
import type { Line } from '../chart';

export function panel(title: string, note: Node | string | null, ...children: Node[]): HTMLElement {
	return h('section', { class: 'panel' },
		h('header', {}, h('h2', {}, title), note ? h('div', { class: 'note' }, note) : null),
		...children);
}

export function hostName(setup: Setup | null, host: number): string {
	const s = setup?.hosts[host];
	return s ? s.name || s.label : `agent ${host + 1}`;
}

/** A flow's number and, if it has one, its name. */
export function flowName(setup: Setup | null, row: number): string {
	const f = setup?.flows[row];
	if (!f) return String(row);
	if (f.id === 'X') return f.name || 'no flow';
	return f.name || f.id;
}

/** What people call an address: its name, or the agent that is there. */
export function place(setup: Setup | null, address: string, host: number, names: Record<string, string> = {}): string {
	return (Object.hasOwn(names, address) && names[address]) || (host >= 0 ? hostName(setup, host) : address);
}

export function colors(app: App, row: number) {
	return flowColors(app.feed.setup?.flows ?? [], row);
}

export function swatch(color: string): HTMLElement {
	const el = h('i', { class: 'swatch' });
	style(el, 'background', color);
	return el;
}

export function total(flow: { primary: Count; secondary: Count }): Count {
	return { packets: flow.primary.packets + flow.secondary.packets, bits: flow.primary.bits + flow.secondary.bits };
}

/** A count over a window as a rate. */
export function rateOf(app: App, count: Count, span: Span): number {
	return measure(count, app.state.unit) / covered(span, app.feed.frame?.oldest ?? 0);
}

/** The start of each step. */
export function times(span: Span): number[] {
	return Array.from({ length: span.points }, (_, i) => span.from + i * span.step);
}

/** Rates with nothing where nothing was kept. The last step of a live window may not be over yet. */
export function values(app: App, series: Series, span: Span, unit: Unit): (number | null)[] {
	const frame = app.feed.frame;
	const oldest = frame?.oldest ?? 0;
	const end = frame ? frame.complete + 1 : Infinity;
	const list = rates(series, unit, span.step);
	return list.map((v, i) => {
		if (v === null) return null;
		const from = span.from + i * span.step;
		if ((oldest === 0 || from + span.step <= oldest) || from >= end) return null;
		const begin = Math.max(from, oldest);
		const over = Math.min(from + span.step, end);
		const whole = over - begin - unknown(span.gaps, begin, over);
		if (whole <= 0 && v === 0) return null;
		if (whole < span.step / 10) return v; // of packets that came as the collector began
		return whole < span.step ? (v * span.step) / whole : v;
	});
}

/** Where nothing is known: what the server says, and the time before anything was kept, as the time strip has it. */
export function gapsOf(app: App, span: Span): [number, number][] {
	const oldest = app.feed.frame?.oldest ?? 0;
	const gaps = span.gaps ?? [];
	return oldest > span.from ? [[span.from, Math.min(oldest, span.to)], ...gaps.filter(([, to]) => to > oldest)] : gaps;
}

export function axisRange(span: Span): [number, number] {
	return [span.from, span.from + (span.points - 1) * span.step];
}

/** The sum of two numbers, of which one or both may be unknown. */
function plus(a: number | null, b: number | null | undefined): number | null {
	return a === null ? b ?? null : a + (b ?? 0);
}

export function primaryLine(app: App, o: Overview, f: FlowSeries): Line {
	const sum: Series = {
		packets: f.primarySeries.packets.map((v, i) => plus(v, f.secondarySeries.packets[i])),
		bits: f.primarySeries.bits.map((v, i) => plus(v, f.secondarySeries.bits[i])),
	};
	return { name: flowName(app.feed.setup, f.row), color: colors(app, f.row).primary, values: values(app, sum, o.window, app.state.unit) };
}

/** What is wrong with an agent's records, if anything. */
export function problems(s: HostState): Problem[] {
	const list: Problem[] = [];
	if (s.futureNow) list.push({ text: 'future', severe: true, title: 'Packets arrive from the future: this host\u2019s clock is ahead.' });
	if (s.lateNow) list.push({ text: 'late', severe: true, title: 'Packets arrive after their second was closed: this host\u2019s clock is behind, or it, the network or the collector is overloaded.' });
	if (s.age !== null && s.age < -0.5 && !s.futureNow) list.push({ text: 'clock ahead', severe: false, title: `The newest packet is ${(-s.age).toFixed(2)} s ahead of the collector\u2019s clock.` });
	list.push(...kept(s.detail));
	if (s.age !== null && s.age > 1.5 && !s.lateNow) list.push({ text: 'clock behind', severe: false, title: `The newest packet is ${s.age.toFixed(2)} s old when it arrives: the clock is behind, or something is overloaded.` });
	return list;
}

export function badges(parent: HTMLElement): List<Problem> {
	return new List<Problem>(parent, (p) => p.text, () => {
		const el = h('span', { class: 'badge' });
		return { el, update: (p) => { text(el, p.text); el.title = p.title; toggle(el, 'severe', p.severe); } };
	});
}

/** An empty view that says what to do. */
export function emptyState(): { el: HTMLElement; say: (title: string, ...lines: (string | { code: string })[]) => void } {
	const title = h('h2', {});
	const body = h('div', {});
	const el = h('section', { class: 'empty', hidden: true }, title, body);
	let last = '';
	return {
		el,
		say(t, ...lines) {
			const key = JSON.stringify([t, lines]);
			if (key === last) return;
			last = key;
			text(title, t);
			body.replaceChildren(...lines.map((line) => (typeof line === 'string' ? h('p', {}, line) : h('pre', {}, line.code))));
		},
	};
}

/** What is missing before there can be anything to see; nothing if all is well. */
export function whyNothing(app: App): [string, ...(string | { code: string })[]] {
	const { setup, frame } = app.feed;
	if (!setup || !frame) return ['Waiting for the collector', 'The page retries once a second.'];
	const topic = feedTopic(app);
	if (topic && !app.feed[topic] || !topic && app.views.find((v) => v.route === app.state.view)?.overview && !app.feed.overview) return ['Loading', 'The collector is asked for this time.'];
	const agents = frame.hosts.map((s, i) => ({ s, host: setup.hosts[i] })).filter(({ s }) => s.state !== 'removed');
	if (agents.length === 0) {
		return ['No agent is configured', 'Name agents in collector.conf; the collector reads it again when it changes:', { code: 'LABEL:ipfix://ADDRESS:4739' }, 'and start one on each of these hosts:', { code: 'pcapper -i eth0 -m none -ipfix-port 4739' }];
	}
	const failed = agents.filter(({ s }) => s.state !== 'connected');
	if (failed.length === agents.length) {
		const first = failed[0];
		return [
			failed.length === 1 ? 'The agent does not answer' : `None of ${failed.length} agents answers`,
			first ? `${first.host?.address ?? ''}: ${first.s.status || first.s.state}` : '',
			'Start an agent on each host that collector.conf names; the collector finds it within seconds:',
			{ code: 'pcapper -i eth0' },
		];
	}
	const span = feedSpan(app);
	if (span && span.gaps?.some(([from, to]) => from <= span.from && to >= span.to - span.step)) {
		return ['The collector did not run in this time', 'There is no data. The strip above shows when it ran; the calendar jumps to a day.'];
	}
	if (app.state.end !== null) return ['No traffic was seen in this time', 'Press L to go back to now, or the minus key for a longer window.'];
	return [
		'No traffic in this time',
		'Agents are connected but have not seen any packets. By default an agent reports what its host sends; send something from there:',
		{ code: 'ping -c 3 ADDRESS\nmgen event "on 1 udp src 4001 dst ADDRESS/5001 periodic [10 512]"' },
		'For what a host receives, start its agent with -m dst; for everything, with -m none.',
	];
}

function feedTopic(app: App) {
	return app.views.find((v) => v.route === app.state.view)?.topic;
}

function feedSpan(app: App): Span | undefined {
	const view = app.views.find((v) => v.route === app.state.view);
	return (view?.topic ? app.feed[view.topic] : view?.overview ? app.feed.overview : null)?.window;
}

/** Keys of a table's rows: arrows move, Enter chooses. */
export function rowKeys(body: HTMLElement): void {
	body.addEventListener('keydown', (e) => {
		const row = (e.target as HTMLElement).closest('tr');
		if (!row) return;
		const to = e.key === 'ArrowDown' ? row.nextElementSibling : e.key === 'ArrowUp' ? row.previousElementSibling : null;
		if (to instanceof HTMLElement) {
			to.focus();
			e.preventDefault();
		} else if (e.key === 'Enter') {
			row.click();
		}
	});
}
