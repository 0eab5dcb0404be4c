import { List, h, style, text, toggle } from '../dom';
import { flowKey } from '../feed';
import { delay, matches, moment, percent, short, whole } from '../format';
import { delivered } from '../map/scene';
import type { At, Brief, Ended, Hop } from '../model';
import type { App, Page, View } from '../view';
import { colors, emptyState, flowName, panel, rowKeys, swatch, whyNothing } from './common';
import { ladder } from './ladder';

/** Which way packets take, and which hop loses or delays them. */
export const paths: View = { route: 'paths', title: 'Paths', paths: true, hops: true, open };

/** How many rows a table has before somebody asks for more, and then. */
const fewest = 12;
const most = 200;

/** A button that shows more of a list, or less again. */
function unfolder(draw: () => void): { el: HTMLElement; cut<T>(list: T[]): T[] } {
	let open = false;
	const el = h('button', { type: 'button', class: 'tool', onclick: () => { open = !open; draw(); } });
	return {
		el,
		cut(list) {
			el.hidden = list.length <= fewest;
			text(el, open ? 'Show fewer' : `Show ${Math.min(most, list.length) - fewest} more`);
			return list.slice(0, open ? most : fewest);
		},
	};
}

/** What is said of where a hop begins or ends. */
export function placeName(at: At, other?: At): string {
	const words = { in: 'received', queue: 'before the queue', out: 'sent', dropped: 'dropped' }[at.stage];
	return other && other.node === at.node ? `${at.agent} (${words})` : at.agent;
}

/** Of what could be observed on a hop, 0 to 1. */
export function hopLoss(hop: { packets: number; lost: number }): number {
	return hop.lost / Math.max(1, hop.lost + hop.packets);
}

/** The hops that lose the largest share first; a few packets prove nothing and come later. */
export function worstFirst(hops: readonly Hop[]): Hop[] {
	const rank = (hop: Hop) => (hop.packets + hop.lost >= 20 ? hopLoss(hop) : 0);
	return [...hops].sort((a, b) => rank(b) - rank(a) || b.packets + b.lost - a.packets - a.lost);
}

/** Why most were lost, as the kernel says it. */
export function reason(drops: Record<string, number> | undefined): string {
	return Object.entries(drops ?? {}).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${name.toLowerCase().replaceAll('_', ' ')} ${short(n)}`).join(', ');
}

/** Nanoseconds as the page writes delays. */
const ns = (v: number): string => delay(v / 1e6);

function hopTable(): { el: HTMLElement; set(hops: Hop[]): void } {
	const body = h('tbody', {});
	const columns: [string, string, string][] = [
		['From', '', 'Where packets were seen'], ['To', '', 'Where they came next'], ['Delivered', 'num', 'Of those whose arrival could be observed'],
		['Lost', 'num', 'Seen at the beginning, and surely not at the end'], ['Packets', 'num', 'Seen at both ends, since the collector started'],
		['Not observed', 'num', 'The agent at the end was not watching, or nobody is known there'],
		['Delay p50', 'num', 'Half of the packets took less, in the last one to two minutes'], ['p95', 'num', 'One in twenty packets took longer'],
		['Jitter', 'num', 'As RFC 3550 has it'], ['Reason', '', 'Why packets were dropped, as the kernel says'],
	];
	const list = new List<Hop>(body, (hop) => JSON.stringify([hop.from, hop.to]), () => {
		const cells = columns.map(([, cls]) => h('td', { class: cls }));
		return {
			el: h('tr', {}, ...cells),
			update: (hop) => {
				const loss = hopLoss(hop);
				const seen = hop.packets + hop.lost;
				const words = [placeName(hop.from, hop.to), hop.to ? placeName(hop.to, hop.from) : 'nobody known', seen ? percent(1 - loss) : '–', whole(hop.lost), whole(hop.packets),
					hop.unobserved ? whole(hop.unobserved) : '0', hop.delay ? ns(hop.delay.p50_ns) : '–', hop.delay ? ns(hop.delay.p95_ns) : '–', hop.delay ? ns(hop.delay.jitter_ns) : '–', reason(hop.drops)];
				cells.forEach((cell, i) => text(cell, words[i]!));
				toggle(cells[2]!, 'bad', hop.lost >= 3 && loss >= 0.005);
				const d = hop.delay;
				cells[6]!.title = cells[7]!.title = !d ? '' : `least ${ns(d.min_ns)}, mean ${ns(d.mean_ns)}, p99 ${ns(d.p99_ns)}, of ${whole(d.count)} packets. `
					+ { same: 'One clock at both ends.', common: 'The clocks at both ends agree, as far as can be told.', estimated: `Corrected by an estimate: the clocks differ by ${ns(d.offset_ns ?? 0)}, ± ${ns(d.uncertainty_ns ?? 0)}.`, unknown: 'Whether the clocks agree is not known, since packets go one way only.' }[d.clock];
				toggle(cells[6]!, 'faint', d?.clock === 'unknown');
			},
		};
	});
	let hops: Hop[] = [];
	const more = unfolder(draw);
	function draw(): void { list.set(more.cut(hops)); }
	return {
		el: h('div', {}, h('div', { class: 'scroll' }, h('table', { class: 'rows hops' }, h('thead', {}, h('tr', {}, ...columns.map(([name, cls, title]) => h('th', { class: cls, scope: 'col', title }, name)))), body)), more.el),
		set(all) {
			hops = worstFirst(all);
			draw();
		},
	};
}

function open(app: App): Page {
	const { state, feed } = app;
	const name = (b: Brief): string => (feed.setup?.flows[b.row]?.id === 'X' && b.mgen !== undefined ? `MGEN ${b.mgen}` : flowName(feed.setup, b.row));
	const empty = emptyState();
	let reveal = false; // the detail, once it is there
	let found: Brief[] = [];
	const more = unfolder(draw);
	function draw(): void { flowList.set(more.cut(found)); }
	const body = h('tbody', {});
	rowKeys(body);
	const rest = h('p', { class: 'rest' });
	const columns: [string, string, string][] = [
		['Flow', '', ''], ['From', '', ''], ['To', '', ''], ['Delivered', 'num', 'Of those whose arrival could be observed; a packet to a group counts once for each member'],
		['Sent', 'num', 'Packets that were seen anywhere; to a group: times its members'], ['Arrived', 'num', 'At the interface of the destination, or of a member'], ['Lost', 'num', ''],
		['Not observed', 'num', 'Nobody was watching where they should have come, or nobody is known there'], ['Remarks', '', ''],
	];
	const flowList = new List<Brief>(body, flowKey, (first) => {
		const cells = columns.map(([, cls]) => h('td', { class: cls }));
		const mark = swatch('');
		const label = h('b', {});
		cells[0]!.append(mark, label);
		const key = flowKey(first);
		const row = h('tr', { tabindex: 0, 'data-flow': key, onclick: () => { state.set({ pick: state.pick === key ? '' : key }); reveal = state.pick !== ''; } }, ...cells);
		return {
			el: row,
			update: (b) => {
				style(mark, 'background', colors(app, b.row).primary);
				text(label, name(b));
				toggle(row, 'chosen', state.pick === key);
				row.setAttribute('aria-selected', String(state.pick === key));
				const part = delivered(b);
				// What was neither seen to arrive nor surely lost: the columns add up.
				const all = b.multicast ? b.packets * (b.members ?? 0) : b.packets;
				const unseen = Math.max(0, all - b.delivered - b.lost);
				const sent = b.multicast && !b.members ? b.packets : b.delivered + b.lost + unseen;
				const words = ['', b.src_name ?? b.src, b.dst_name ?? b.dst, part === null ? '–' : percent(part), whole(sent), part === null && b.multicast ? '–' : whole(b.delivered),
					part === null && b.multicast ? '–' : whole(b.lost), b.multicast && !b.members ? whole(b.packets) : whole(unseen),
					b.silent ? `${b.silent} of ${b.members} members receive${b.silent === 1 ? 's' : ''} nothing` : b.changes ? `way changed ${b.changes === 1 ? 'once' : `${short(b.changes)} times`}` : b.multicast && !b.members ? 'members not known' : ''];
				cells.forEach((cell, i) => { if (i) text(cell, words[i]!); });
				cells[1]!.title = `${b.src} port ${b.src_port ?? '–'}`;
				cells[2]!.title = `${b.dst} port ${b.dst_port ?? '–'}`;
				toggle(cells[3]!, 'bad', part !== null && part < 0.99);
				toggle(cells[8]!, 'bad', !!b.silent);
			},
		};
	});
	const flowPanel = panel('Flows, the worst first', null, h('div', { class: 'scroll' }, h('table', { class: 'rows' }, h('thead', {}, h('tr', {}, ...columns.map(([n, cls, title]) => h('th', { class: cls, scope: 'col', title }, n)))), body)), more.el, rest);

	// One flow in detail, beside the list.
	const title = h('h2', {});
	const ways = h('div', { class: 'ways' });
	const flowHops = hopTable();
	const steps = ladder();
	const onMap = h('a', { href: '#map' }, 'Show on the map');
	onMap.addEventListener('click', (e) => { e.preventDefault(); state.set({ view: 'map' }); });
	const detail = h('section', { class: 'panel path-detail', hidden: true }, h('header', {}, title, h('div', { class: 'note' }, onMap)), ways, flowHops.el, h('h3', {}, 'Packets that did not arrive'), steps.el);

	const allHops = hopTable();
	const hopNote = h('span', {});
	const hopPanel = panel('Hops of all flows, the worst first', hopNote, allHops.el);
	const el = h('div', { class: 'page paths' }, empty.el, flowPanel, detail, hopPanel);

	function showFlow(): void {
		const flow = feed.picked?.flows.find((f) => flowKey(f) === state.pick);
		detail.hidden = !flow;
		if (!flow) return;
		const brief = feed.briefs?.flows.find((b) => flowKey(b) === state.pick);
		text(title, brief ? `${name(brief)}: ${brief.src_name ?? brief.src} → ${brief.dst_name ?? brief.dst}` : `${flow.src} → ${flow.dst}`);
		flowHops.set(flow.hops.filter((hop) => hop.to || hop.lost > 0 || hop.unobserved));
		const list = [...flow.paths ?? []].sort((a, b) => b.packets - a.packets);
		const sum = list.reduce((n, p) => n + p.packets, 0);
		const newest = Math.max(...list.map((p) => p.last_ns));
		ways.replaceChildren(
			...list.slice(0, 6).map((p) => h('p', {}, h('b', {}, p.nodes.join(' → ')), h('span', { class: 'faint' }, ` ${percent(p.packets / Math.max(1, sum))} of the packets that arrived${p.last_ns === newest ? ', the way now' : `, last at ${moment(p.last_ns / 1e9)}`}`))),
			...(flow.changes ?? []).slice(-4).reverse().map((c) => h('p', { class: 'faint' }, `${moment(c.time_ns / 1e9)}: from ${c.from.join(' → ')} to ${c.to.join(' → ')}`)),
			...(flow.nodes ?? []).filter((n) => n.role === 'member' && n.received === 0).map((n) => h('p', { class: 'bad' }, `${n.node} is a member and receives nothing`)),
			...(flow.nodes ?? []).some((n) => n.role === 'overhearer') ? [h('p', { class: 'faint' }, `Overheard by ${flow.nodes!.filter((n) => n.role === 'overhearer').map((n) => n.node).join(', ')}`)] : []);
		const packets: Ended[] = (feed.ended?.packets ?? []).filter((p) => flowKey(p.flow) === state.pick);
		if (reveal) {
			reveal = false;
			detail.scrollIntoView({ block: 'nearest' });
		}
		steps.set(packets, flow.paths?.length ? [...list].sort((a, b) => b.last_ns - a.last_ns)[0]!.nodes : []);
	}

	return {
		el,
		update() {
			const nothing = !!feed.briefs && feed.briefs.flows.length === 0;
			empty.el.hidden = feed.briefs !== null && !nothing;
			if (nothing) empty.say('No packets can be followed', 'Agents report digests of packets over an IPFIX feed: start them with -ipfix-port, and name them in collector.conf as ipfix://HOST:PORT.');
			else if (!feed.briefs) empty.say(...whyNothing(app));
			flowPanel.hidden = hopPanel.hidden = !feed.briefs || nothing;
			found = (feed.briefs?.flows ?? []).filter((b) => matches(state.filter, name(b), b.src_name, b.src, b.dst_name, b.dst, b.src_port, b.dst_port));
			draw();
			const left = feed.briefs?.more ?? 0;
			rest.hidden = left === 0;
			text(rest, `${whole(left)} more flows, which lose less, are not listed; the filter finds those among the worst 200. All figures are since the flow began.`);
			allHops.set(feed.hops?.hops.filter((hop) => (hop.to || hop.lost > 0) && matches(state.filter, hop.from.agent, hop.to?.agent)) ?? []);
			text(hopNote, feed.hops?.more ? `${feed.hops.more} hops with fewer packets are left out` : 'since the collector started');
			showFlow();
		},
		table() {
			return [['from', 'from stage', 'to', 'to stage', 'packets', 'bytes', 'lost', 'not observed', 'delay p50 (ns)', 'delay p95 (ns)', 'jitter (ns)', 'reasons'],
				...worstFirst(feed.hops?.hops ?? []).map((x) => [x.from.agent, x.from.stage, x.to?.agent ?? '', x.to?.stage ?? '', x.packets, x.bytes, x.lost, x.unobserved ?? 0,
					x.delay?.p50_ns ?? null, x.delay?.p95_ns ?? null, x.delay?.jitter_ns ?? null, reason(x.drops)])];
		},
	};
}
