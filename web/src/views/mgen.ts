import { Chart, rateOptions, type Line } from '../chart';
import { h, text, toggle } from '../dom';
import { flowKey } from '../feed';
import { delay, endpoint, matches, measure, middle, percent, rate, si, whole } from '../format';
import type { MGENDelivery, MGENFlow, MGENReceiver } from '../model';
import { sideColors } from '../palette';
import { Table, foldButton, type Column, type Drawn, type Row } from '../table';
import type { App, Page, View } from '../view';
import { axisRange, emptyState, gapsOf, hostName, panel, place, rateOf, swatch, times, values, whyNothing } from './common';
import { delays } from './delays';

/** A flow, one of its receivers, or those that only see it pass. */
interface Item { flow: MGENFlow; receiver: MGENReceiver | null; others?: MGENReceiver[] }

const keyOf = (f: MGENFlow) => [f.id, f.src, f.srcPort, f.dst, f.dstPort, f.proto, 'v1'].join('~');
const pickOf = (f: MGENFlow) => flowKey({ src: f.src, dst: f.dst, src_port: f.srcPort, dst_port: f.dstPort, proto: f.proto, mgen: f.id });

/** Whether packets that do not arrive there are lost. */
const wants = (r: MGENReceiver) => r.delivery !== null;

/** What became of a flow at all of its receivers together: a message to a group counts once for each. */
export function deliveryOf(f: MGENFlow): MGENDelivery | null {
	const sum: MGENDelivery = { sent: 0, arrived: 0, lost: 0, unobserved: 0, unseen: 0, application: 0 };
	let any = false;
	for (const { delivery: d } of f.receivers) {
		if (!d) continue;
		any = true;
		sum.sent += d.sent;
		sum.arrived += d.arrived;
		sum.lost += d.lost;
		sum.unobserved += d.unobserved;
		sum.unseen += d.unseen;
		sum.application = sum.application === null || d.application === null ? null : sum.application + d.application;
	}
	return any ? sum : null;
}

/** The share that was lost of what could be observed; null if nothing could. */
export function lossOf(d: MGENDelivery | null): number | null {
	return d && d.arrived + d.lost > 0 ? d.lost / (d.arrived + d.lost) : null;
}

/** How bad the worst receiver is; a few packets prove nothing. */
function badness(f: MGENFlow): number {
	return Math.max(-1, ...f.receivers.map(({ delivery: d }) => (d && d.arrived + d.lost >= 20 ? lossOf(d)! : d ? 0 : -1)));
}

/** Flows whose worst receiver loses most come first, those of which nobody sees the end last. */
export function worstFirst(flows: readonly MGENFlow[]): MGENFlow[] {
	return [...flows].sort((a, b) => badness(b) - badness(a) || b.sent.packets - a.sent.packets || a.id - b.id);
}

const columns: Record<string, Column> = {
	flow: ['Flow', '', 'MGEN flow ID'],
	from: ['From', '', 'Source'],
	to: ['To', '', 'Destination, or a group and its members'],
	delivered: ['Delivered', 'num', 'Of those whose arrival could be observed'],
	sent: ['Sent', 'num', 'By the sender\u2019s agent, or by sequence numbers; a message to a group counts once for each member. Sent = on the interface + lost + not observed'],
	received: ['On the interface', 'num', 'Messages that the destination\u2019s agent saw arrive, each once'],
	application: ['To the application', 'num', 'Of these, those that the kernel did not drop; not known unless the destination\u2019s agent tells of drops'],
	lost: ['Lost', 'num', 'By sequence numbers, or by counts at both ends'],
	unobserved: ['Not observed', 'num', 'Still on their way, or sent while the destination\u2019s agent was not watching'],
	delay: ['Delay', 'num', 'Mean one-way delay, from the transmit time to the receiver\u2019s capture'],
	jitter: ['Jitter', 'num', 'Interarrival jitter (RFC 3550)'],
	rate: ['Rate', 'num', 'Received, or sent if no agent sees the messages arrive'],
	reordered: ['Reordered', 'num extra-column', 'Messages that arrived after one with a higher sequence number'],
	twice: ['Duplicates', 'num extra-column', 'Messages that arrived more than once'],
};

/** MGEN flows: does it arrive, and when. */
export const mgen: View = { route: 'mgen', title: 'MGEN', topic: 'mgen', picked: true, open };

function open(app: App): Page {
	const { state, feed } = app;
	const unfolded = new Set<string>();
	const empty = emptyState();
	const hint = h('p', { class: 'rest' });
	const percentAxis = (v: number) => `${(100 * v).toFixed(v < 0.095 && v > 0 ? 1 : 0)}\u202f%`;
	const msAxis = (v: number) => (v >= 1 || v === 0 || v <= -1 ? `${si(v)[0].replace(/\.?0+$/, (z) => (z.startsWith('.') ? '' : z))}\u202fms` : `${(1000 * v).toFixed(0)}\u202fµs`);
	const charts = {
		rate: new Chart({ height: 150, stacked: false, ...rateOptions(() => state.unit), label: 'Rate of the flow', zoom: app.zoom }),
		loss: new Chart({ height: 150, stacked: false, axis: percentAxis, format: percent, label: 'Loss of the flow', zoom: app.zoom, least: 0.01 }),
		delay: new Chart({ height: 150, stacked: false, axis: msAxis, format: delay, label: 'One-way delay of the flow', zoom: app.zoom, negative: true }),
		jitter: new Chart({ height: 150, stacked: false, axis: msAxis, format: delay, label: 'Jitter of the flow', zoom: app.zoom }),
		order: new Chart({ height: 150, stacked: false, axis: (v) => (Number.isInteger(v) ? String(v) : ''), format: whole, label: 'Reordered and duplicate messages', zoom: app.zoom, least: 4 }),
	};
	const title = h('h3', { class: 'detail-title' }, 'Flow');
	const delayNote = h('span', {});
	const histogram = delays();
	const small = (name: string, note: Node | null, ...children: Node[]) => h('section', { class: 'small-panel' }, h('header', {}, h('h4', {}, name), note), ...children);
	const names = h('div', { class: 'keys' });
	const others = h('p', { class: 'faint' });
	const onPaths = h('a', { href: '#paths' }, 'Paths and packets that did not arrive');
	onPaths.addEventListener('click', (e) => { e.preventDefault(); state.set({ view: 'paths' }); });
	const detail = h('div', { class: 'mgen-detail' }, h('div', { class: 'detail-head' }, title, names, onPaths),
		h('div', { class: 'detail-charts' }, small('Rate', null, charts.rate.el), small('Loss', null, charts.loss.el), small('Delay', delayNote, charts.delay.el),
			small('Delays from end to end', null, histogram.el), small('Jitter', null, charts.jitter.el), small('Reordered and duplicate messages', null, charts.order.el)), others);
	let chosenHost = -1;

	const table = new Table<Item>(Object.values(columns), draw, { label: 'MGEN flows, the worst first', class: 'mgen-rows', detail });
	const tablePanel = panel('MGEN flows, the worst first', null, table.el, hint);
	const el = h('div', { class: 'page mgen' }, empty.el, tablePanel);
	const nameOf = (f: MGENFlow) => place(feed.setup, f.src, f.srcHost, feed.mgen?.names);
	const group = (f: MGENFlow) => f.receivers.some((r) => r.role === 'member') || /^(22[4-9]|23\d)\.|^ff/i.test(f.dst);

	function draw(first: Row<Item>): Drawn<Item> {
		const cells = Object.fromEntries(Object.entries(columns).map(([name, [, cls]]) => [name, h('td', { class: cls, 'data-column': name })])) as Record<keyof typeof columns, HTMLElement>;
		const f = first.item.flow;
		const row = h('tr', { tabindex: 0, 'data-flow': f.id, onclick: choose }, ...Object.values(cells));
		const fold = foldButton(() => {
			if (!unfolded.delete(first.key)) unfolded.add(first.key);
			update();
		});
		const id = h('b', {});
		cells.flow!.append(fold.el, id);
		const two = (cell: HTMLElement) => {
			const name = h('span', {});
			const below = h('small', {});
			cell.append(name, below);
			return { name, below };
		};
		const from = two(cells.from!);
		const to = two(cells.to!);
		let item = first.item;
		function choose(): void {
			if (item.others) {
				fold.el.click();
				return;
			}
			chosenHost = item.receiver?.host ?? -1;
			const same = state.mgen === keyOf(item.flow) && !item.receiver;
			state.set({ mgen: same ? '' : keyOf(item.flow), pick: same ? '' : pickOf(item.flow) });
		}
		return {
			el: row,
			update(now) {
				item = now;
				const { flow, receiver: r } = item;
				const span = feed.mgen!.window;
				const wanted = flow.receivers.filter(wants);
				const only = r ?? (wanted.length === 1 ? wanted[0]! : null);
				row.dataset.receiver = String(only?.host ?? '');
				const chosen = state.mgen === keyOf(flow) && (!r || r.host === chosenHost) && !item.others;
				toggle(row, 'chosen', chosen);
				row.setAttribute('aria-selected', String(chosen));
				const under = first.level ? item.others ?? [] : flow.receivers.filter((x) => x !== only || !wants(x));
				toggle(fold.el, 'none', under.length === 0);
				fold.set(unfolded.has(first.key), `flow ${flow.id}`);
				if (item.others) {
					const count = (role: string, n = item.others!.filter((x) => x.role === role).length) => (n ? [`${n} ${role}${n === 1 ? '' : 's'}`] : []);
					text(to.name, `${[...count('relay'), ...count('overhearer')].join(' and ')}`);
					text(to.below, item.others.length === 1 ? 'sees it, but is not a receiver' : 'see it, but are not receivers');
					return;
				}
				text(id, first.level ? '' : String(flow.id));
				const src = nameOf(flow);
				text(from.name, first.level ? '' : middle(src));
				text(from.below, first.level ? '' : endpoint(flow.src, flow.srcPort));
				from.name.title = src;
				const d = r ? r.delivery : deliveryOf(flow);
				const part = lossOf(d);
				const silent = wanted.filter((x) => x.delivery!.arrived === 0 && x.delivery!.lost >= 20);
				const toName = r ? hostName(feed.setup, r.host) : place(feed.setup, flow.dst, only && !group(flow) ? only.host : -1, feed.mgen?.names);
				text(to.name, middle(toName));
				to.name.title = toName;
				const members = `${wanted.length} ${wanted.every((x) => x.role === 'member') ? 'member' : 'receiver'}${wanted.length === 1 ? '' : 's'}`;
				text(to.below, r ? (wants(r) ? (r.delivery!.arrived === 0 && r.delivery!.lost >= 20 ? 'receives nothing' : r.role) : r.role)
					: !group(flow) ? endpoint(flow.dst, flow.dstPort)
						: silent.length ? `${silent.length} of ${members} get${silent.length === 1 ? 's' : ''} nothing` : `${endpoint(flow.dst, flow.dstPort)}, ${members}`);
				toggle(to.below, 'bad', silent.length > 0 && (!r || silent.includes(r)));
				const unknown = '–';
				text(cells.delivered!, part === null ? unknown : percent(1 - part));
				toggle(cells.delivered!, 'bad', part !== null && part > 0.001);
				cells.delivered!.title = only?.loss ? `${only.loss.bySequence ? 'by sequence number' : 'by counts at both ends'}` : '';
				text(cells.sent!, d ? whole(d.sent) : !r && flow.watched ? whole(flow.sent.packets) : unknown);
				cells.sent!.title = d?.unseen ? `${whole(d.unseen)} of them were not seen by the sender\u2019s agent` : '';
				text(cells.received!, d ? whole(d.arrived) : r ? whole(r.received.packets) : unknown);
				text(cells.application!, d && d.application !== null ? whole(d.application) : unknown);
				toggle(cells.application!, 'bad', !!d && d.application !== null && d.application < d.arrived);
				text(cells.lost!, d && (only ? only.loss : true) ? whole(d.lost) : unknown);
				text(cells.unobserved!, d ? whole(d.unobserved) : !r && flow.watched ? whole(flow.sent.packets) : unknown);
				text(cells.rate!, rate(rateOf(app, only ? only.received : flow.sent, span), state.unit));
				const late = only?.negativeDelays ?? 0;
				const words = only?.delay ? delay(only.delay.mean) : unknown;
				if (cells.delay!.dataset.shown !== `${late} ${words}`) {
					cells.delay!.dataset.shown = `${late} ${words}`;
					cells.delay!.replaceChildren(...(late && only ? [h('span', { class: 'badge severe', title: `${late} messages arrived before they were sent: the hosts\u2019 clocks differ by at least ${delay(-(only.delay?.min ?? 0))}` }, 'clocks differ')] : []), words);
				}
				text(cells.jitter!, only?.delay ? delay(only.delay.jitter) : unknown);
				text(cells.reordered!, only && only.reordered !== null ? whole(only.reordered) : unknown);
				toggle(cells.reordered!, 'bad', !!only?.reordered);
				text(cells.twice!, only && only.duplicates !== null ? whole(only.duplicates) : unknown);
				toggle(cells.twice!, 'bad', !!only?.duplicates);
				if (r && !wants(r)) for (const name of ['delivered', 'sent', 'application', 'lost', 'unobserved', 'reordered', 'twice']) text(cells[name]!, '');
			},
		};
	}

	function shown(): MGENFlow[] {
		return worstFirst(feed.mgen?.flows ?? []).filter((f) => matches(state.filter, f.id, f.src, f.dst, f.srcPort, f.dstPort, nameOf(f), place(feed.setup, f.dst, -1, feed.mgen?.names),
			...f.receivers.map((r) => hostName(feed.setup, r.host))));
	}

	/** Flows, and under those that are unfolded members, the worst first, and then the others, folded. */
	function rows(flows: MGENFlow[]): Row<Item>[] {
		return flows.flatMap((flow): Row<Item>[] => {
			const key = keyOf(flow);
			const out: Row<Item>[] = [{ key, item: { flow, receiver: null } }];
			if (!unfolded.has(key)) return out;
			const wanted = flow.receivers.filter(wants);
			const rest = flow.receivers.filter((r) => !wants(r));
			if (wanted.length > 1) {
				out.push(...[...wanted].sort((a, b) => (lossOf(b.delivery) ?? -1) - (lossOf(a.delivery) ?? -1))
					.map((receiver) => ({ key: `${key} ${receiver.host}`, item: { flow, receiver }, level: 1 })));
			}
			if (rest.length) {
				out.push({ key: `${key} others`, item: { flow, receiver: null, others: rest }, level: 1 });
				if (unfolded.has(`${key} others`)) out.push(...rest.map((receiver) => ({ key: `${key} ${receiver.host}`, item: { flow, receiver }, level: 2 })));
			}
			return out;
		});
	}

	function update(): void {
		const flows = shown();
		const none = (feed.mgen?.flows.length ?? 0) === 0;
		empty.el.hidden = !none;
		tablePanel.hidden = none;
		if (none) {
			const [title, ...rest] = whyNothing(app);
			if (feed.frame && feed.mgen && feed.frame.hosts.some((s) => s.state === 'connected')) {
				empty.say('No MGEN messages in this time', 'Agents recognize MGEN messages on any port. Send some from a host with an agent:',
					{ code: 'mgen event "on 1 udp src 4001 dst ADDRESS/5001 periodic [10 512]"' });
			} else {
				empty.say(title, ...rest);
			}
			return;
		}
		table.set(rows(flows), state.mgen);
		const all = flows.flatMap((f) => f.receivers.filter(wants));
		const words: string[] = [];
		if (flows.length === 0) words.push('No flow matches the filter.');
		if (feed.mgen?.other.packets) words.push(`${whole(feed.mgen.other.packets)} packets are of flows too many to be told apart.`);
		if (all.some((r) => !r.delay && r.received.packets > 0 && r.received.messages === 0)) {
			words.push('Delay, jitter and order need the receiver\u2019s richer feed: start its agent with -ipfix-port 4739 and name it as LABEL:ipfix://ADDRESS:4739 in collector.conf.');
		}
		if (flows.some((f) => !f.receivers.some(wants))) words.push('A flow of which nothing is known behind its sender goes where no agent reports what comes in (-m dst or -m none).');
		text(hint, words.join(' '));
		hint.hidden = words.length === 0;
		drawCharts();
	}

	/** Who has received packets, and wants them, and the one that is chosen or the worst. */
	function drawHistogram(flow: MGENFlow | undefined): void {
		const path = feed.picked?.flows.find((f) => flowKey(f) === state.pick);
		const wanted = flow?.receivers.filter(wants) ?? [];
		const host = wanted.some((r) => r.host === chosenHost) ? chosenHost : wanted[0]?.host ?? -1;
		const label = feed.setup?.hosts[host]?.label ?? '';
		const node = label.lastIndexOf('/') > 0 ? label.slice(0, label.lastIndexOf('/')) : label;
		histogram.set(path?.delay ?? path?.nodes?.find((n) => n.node === node)?.delay, host >= 0 ? hostName(feed.setup, host) : 'the destination');
		const rest = flow?.receivers.filter((r) => !wants(r)) ?? [];
		text(others, rest.length ? `Also seen by ${rest.map((r) => `${hostName(feed.setup, r.host)} (${r.role})`).join(', ')}` : '');
	}

	function drawCharts(): void {
		const hist = feed.history;
		if (!state.mgen) return;
		const flow = feed.mgen?.flows.find((f) => keyOf(f) === state.mgen);
		drawHistogram(flow);
		text(title, flow ? `Flow ${flow.id}: ${place(feed.setup, flow.src, flow.srcHost, feed.mgen?.names)} to ${endpoint(flow.dst, flow.dstPort)}` : `Flow ${state.mgen.split('~')[0]}`);
		detail.setAttribute('aria-busy', String(!hist));
		if (!hist || hist.window.points === 0) return;
		// Those that overhear it are no part of the picture.
		const receivers = hist.receivers.filter((r) => !flow || flow.receivers.some((x) => x.host === r.host && wants(x)));
		const span = hist.window;
		const t = times(span);
		const range = axisRange(span);
		const c = sideColors();
		const hue = [c.received, c.relayed, '#c8609c', '#7a62c9', '#a39a1f', '#62b5ec'];
		const many = receivers.length > 1;
		const marks = [...(flow?.watched ?? true ? [{ name: 'sent', color: c.sent }] : []),
			...receivers.map((r, i) => ({ name: hostName(feed.setup, r.host), color: hue[i % hue.length]! }))];
		const shape = JSON.stringify(marks);
		if (names.dataset.shape !== shape) {
			names.dataset.shape = shape;
			names.replaceChildren(...marks.map((m) => h('span', {}, swatch(m.color), m.name)));
		}
		text(delayNote, many ? 'mean' : 'mean, lowest and highest');
		const name = (host: number, what: string) => (many ? `${hostName(feed.setup, host)} ${what}` : what);
		const sent: Line = { name: 'sent', color: c.sent, values: values(app, hist.sent, span, state.unit) };
		charts.rate.set(t, [...(flow?.watched ?? true ? [sent] : []), ...receivers.map((r, i) => ({
			name: name(r.host, 'received'), color: hue[i % hue.length]!, values: values(app, r.received, span, state.unit),
		}))], range, gapsOf(app, span));
		charts.loss.set(t, receivers.map((r, i) => ({
			name: name(r.host, 'loss'), color: hue[i % hue.length]!,
			values: r.expected.map((n, j) => (n !== null && n > 0 ? Math.min(1, Math.max(0, (r.lost[j] ?? 0) / n)) : null)),
		})), range, gapsOf(app, span));
		charts.delay.set(t, receivers.flatMap((r, i): Line[] => {
			const color = hue[i % hue.length]!;
			const soft = `${color}66`;
			return many ? [{ name: name(r.host, 'mean'), color, values: r.meanDelay }] : [
				{ name: 'lowest', color: soft, values: r.minDelay }, { name: 'highest', color: soft, values: r.maxDelay }, { name: 'mean', color, values: r.meanDelay },
			];
		}), range, gapsOf(app, span));
		charts.jitter.set(t, receivers.map((r, i) => ({ name: name(r.host, 'jitter'), color: hue[i % hue.length]!, values: r.jitter })), range, gapsOf(app, span));
		charts.order.set(t, receivers.flatMap((r, i): Line[] => [
			{ name: name(r.host, 'reordered'), color: hue[i % hue.length]!, values: r.reordered },
			{ name: name(r.host, 'duplicates'), color: hue[(i + 1) % hue.length]!, values: r.duplicates },
		]), range, gapsOf(app, span));
	}

	return {
		el,
		update,
		table() {
			const span = feed.mgen?.window;
			if (!span) return [];
			return [
				['flow', 'source', 'source port', 'destination', 'destination port', 'receiver', 'role', `rate (${state.unit}/s)`, 'sent', 'on the interface', 'to the application', 'lost', 'not observed', 'received packets', 'delay min (ms)', 'delay mean (ms)', 'delay max (ms)', 'jitter (ms)', 'reordered', 'duplicates', 'negative delays'],
				...shown().flatMap((f) => (f.receivers.length ? f.receivers : [null]).map((r) => [
					f.id, f.src, f.srcPort, f.dst, f.dstPort, r ? hostName(feed.setup, r.host) : '', r?.role ?? '',
					measure(r ? r.received : f.sent, state.unit) / Math.max(1, span.to - span.from),
					r?.delivery?.sent ?? (f.watched ? f.sent.packets : null), r?.delivery?.arrived ?? null, r?.delivery?.application ?? null, r?.delivery?.lost ?? null, r?.delivery?.unobserved ?? null, r?.received.packets ?? null,
					r?.delay?.min ?? null, r?.delay?.mean ?? null, r?.delay?.max ?? null, r?.delay?.jitter ?? null, r?.reordered ?? null, r?.duplicates ?? null, r?.negativeDelays ?? null,
				])),
			];
		},
		destroy() { for (const c of Object.values(charts)) c.destroy(); },
	};
}
