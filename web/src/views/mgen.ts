import { Chart, rateOptions, type Line } from '../chart';
import { List, h, text, toggle } from '../dom';
import { delay, endpoint, measure, percent, rate, si, whole } from '../format';
import type { MGENFlow, MGENReceiver } from '../model';
import { sideColors } from '../palette';
import type { App, Page, View } from '../view';
import { axisRange, emptyState, hostName, panel, place, rateOf, rowKeys, swatch, times, values, whyNothing } from './common';

interface Row { key: string; flow: MGENFlow; receiver: MGENReceiver | null }

const keyOf = (f: MGENFlow) => [f.id, f.src, f.srcPort, f.dst, f.dstPort, f.proto, 'v1'].join('~');
const columns = {
	flow: ['Flow', 'num', 'MGEN flow ID'],
	from: ['From', '', 'Source'],
	to: ['To', '', 'Destination, and the agent that sees the packets arrive'],
	loss: ['Loss', 'num', 'By sequence numbers, or by counts at both ends'],
	delay: ['Delay', 'num', 'Mean one-way delay, from the transmit time to the receiver\u2019s capture'],
	rate: ['Rate', 'num', 'Received, or sent if no agent sees the packets arrive'],
	sent: ['Sent', 'num', 'Packets that the sender\u2019s agent saw'],
	received: ['Received', 'num', 'Packets that the receiver\u2019s agent saw'],
	max: ['Max delay', 'num', 'Highest one-way delay'],
	jitter: ['Jitter', 'num', 'Interarrival jitter (RFC 3550)'],
	reordered: ['Reordered', 'num', 'Messages that arrived after one with a higher sequence number'],
	twice: ['Duplicates', 'num', 'Messages that arrived more than once'],
} as const;
type Column = keyof typeof columns;

/** MGEN flows: does it arrive, and when. */
export const mgen: View = { route: 'mgen', title: 'MGEN', topic: 'mgen', open };

function open(app: App): Page {
	const { state, feed } = app;
	const body = h('tbody', {});
	rowKeys(body);
	const filter = h('input', { type: 'search', class: 'filter', placeholder: 'Filter', 'aria-label': 'Filter flows', maxlength: 100 });
	filter.addEventListener('input', () => state.set({ filter: filter.value }));
	const empty = emptyState();
	const hint = h('p', { class: 'rest' });
	const tablePanel = panel('MGEN flows', filter,
		h('div', { class: 'scroll' }, h('table', { class: 'rows' },
			h('thead', {}, h('tr', {}, ...Object.values(columns).map(([name, cls, title]) => h('th', { class: cls, scope: 'col', title }, name)))), body)), hint);

	const percentAxis = (v: number) => `${(100 * v).toFixed(v < 0.095 && v > 0 ? 1 : 0)}\u202f%`;
	const msAxis = (v: number) => (v >= 1 || v === 0 || v <= -1 ? `${si(v)[0].replace(/\.?0+$/, (z) => (z.startsWith('.') ? '' : z))}\u202fms` : `${(1000 * v).toFixed(0)}\u202fµs`);
	const charts = {
		rate: new Chart({ height: 150, stacked: false, ...rateOptions(() => state.unit), label: 'Rate of the flow', zoom: app.zoom }),
		loss: new Chart({ height: 150, stacked: false, axis: percentAxis, format: percent, label: 'Loss of the flow', zoom: app.zoom, least: 0.01 }),
		delay: new Chart({ height: 150, stacked: false, axis: msAxis, format: delay, label: 'One-way delay of the flow', zoom: app.zoom, negative: true }),
		jitter: new Chart({ height: 150, stacked: false, axis: msAxis, format: delay, label: 'Jitter of the flow', zoom: app.zoom }),
		order: new Chart({ height: 150, stacked: false, axis: (v) => (Number.isInteger(v) ? String(v) : ''), format: whole, label: 'Reordered and duplicate messages', zoom: app.zoom, least: 4 }),
	};
	const title = h('h2', { class: 'detail-title' });
	const delayNote = h('span', {});
	const chartsBox = h('div', { class: 'cards charts' },
		panel('Rate', null, charts.rate.el), panel('Loss', null, charts.loss.el), panel('Delay', delayNote, charts.delay.el),
		panel('Jitter', null, charts.jitter.el), panel('Reordered and duplicate messages', null, charts.order.el));
	const names = h('div', { class: 'keys' });
	const detail = h('div', { class: 'mgen-detail' }, h('div', { class: 'detail-head' }, title, names), chartsBox);
	const el = h('div', { class: 'page mgen' }, empty.el, tablePanel, detail);

	const list = new List<Row>(body, (r) => r.key, (first) => {
		const cells = Object.fromEntries(Object.entries(columns).map(([name, [, cls]]) => [name, h('td', { class: cls, 'data-column': name })])) as unknown as Record<Column, HTMLElement>;
		const warn = h('span', { class: 'badge severe' }, 'clocks differ');
		const row = h('tr', { tabindex: 0, 'data-flow': first.flow.id, 'data-receiver': first.receiver?.host ?? '', onclick: () => state.set({ mgen: keyOf(first.flow) }) }, ...Object.values(cells));
		const from = h('span', {});
		const fromSmall = h('small', {});
		const to = h('span', {});
		const toSmall = h('small', {});
		cells.from.append(from, fromSmall);
		cells.to.append(to, toSmall);
		const delayText = h('span', {});
		cells.delay.append(warn, delayText);
		return {
			el: row,
			update: ({ flow, receiver: r }) => {
				const span = feed.mgen!.window;
				toggle(row, 'chosen', state.mgen === keyOf(flow));
				row.setAttribute('aria-selected', String(state.mgen === keyOf(flow)));
				const unknown = '–';
				text(cells.flow, String(flow.id));
				text(from, place(feed.setup, flow.src, flow.srcHost, feed.mgen?.names));
				text(fromSmall, endpoint(flow.src, flow.srcPort));
				text(to, r ? hostName(feed.setup, r.host) : place(feed.setup, flow.dst, -1, feed.mgen?.names));
				text(toSmall, endpoint(flow.dst, flow.dstPort));
				text(cells.rate, rate(rateOf(app, r ? r.received : flow.sent, span), state.unit));
				text(cells.sent, flow.watched ? whole(flow.sent.packets) : unknown);
				text(cells.received, r ? whole(r.received.packets) : unknown);
				text(cells.loss, r?.loss ? percent(r.loss.fraction) : unknown);
				toggle(cells.loss, 'bad', !!r?.loss && r.loss.fraction > 0.001);
				cells.loss.title = r?.loss ? `${r.loss.lost} of ${r.loss.expected} ${r.loss.bySequence ? 'by sequence number' : 'by counts at both ends'}` : 'Both ends, or the receiver with the richer feed, must be watched';
				text(delayText, r?.delay ? delay(r.delay.mean) : unknown);
				warn.hidden = !r || r.negativeDelays === 0;
				warn.title = r ? `${r.negativeDelays} messages arrived before they were sent: the hosts\u2019 clocks differ by at least ${delay(-(r.delay?.min ?? 0))}` : '';
				text(cells.max, r?.delay ? delay(r.delay.max) : unknown);
				text(cells.jitter, r?.delay ? delay(r.delay.jitter) : unknown);
				text(cells.reordered, r && r.reordered !== null ? whole(r.reordered) : unknown);
				toggle(cells.reordered, 'bad', !!r?.reordered);
				text(cells.twice, r && r.duplicates !== null ? whole(r.duplicates) : unknown);
				toggle(cells.twice, 'bad', !!r?.duplicates);
			},
		};
	});

	function allRows(): Row[] {
		return (feed.mgen?.flows ?? []).flatMap((flow): Row[] => (flow.receivers.length
			? flow.receivers.map((receiver) => ({ key: `${keyOf(flow)} ${receiver.host}`, flow, receiver }))
			: [{ key: keyOf(flow), flow, receiver: null }]));
	}

	function shown(): Row[] {
		const q = state.filter.toLowerCase();
		return allRows().filter(({ flow, receiver }) => !q || [
			flow.id, flow.src, flow.dst, place(feed.setup, flow.src, flow.srcHost, feed.mgen?.names), receiver ? hostName(feed.setup, receiver.host) : '',
		].join(' ').toLowerCase().includes(q));
	}

	function drawCharts(): void {
		const hist = feed.history;
		detail.hidden = !state.mgen || !hist || hist.window.points === 0;
		if (detail.hidden || !hist) return;
		const flow = feed.mgen?.flows.find((f) => keyOf(f) === state.mgen);
		text(title, flow ? `Flow ${flow.id}: ${place(feed.setup, flow.src, flow.srcHost, feed.mgen?.names)} to ${endpoint(flow.dst, flow.dstPort)}` : `Flow ${state.mgen.split('~')[0]}`);
		const span = hist.window;
		const t = times(span);
		const range = axisRange(span);
		const c = sideColors();
		const hue = [c.received, c.relayed, '#c8609c', '#7a62c9', '#a39a1f', '#62b5ec'];
		const many = hist.receivers.length > 1;
		const marks = [...(flow?.watched ?? true ? [{ name: 'sent', color: c.sent }] : []),
			...hist.receivers.map((r, i) => ({ name: hostName(feed.setup, r.host), color: hue[i % hue.length]! }))];
		const shape = JSON.stringify(marks);
		if (names.dataset.shape !== shape) {
			names.dataset.shape = shape;
			names.replaceChildren(...marks.map((m) => h('span', {}, swatch(m.color), m.name)));
		}
		text(delayNote, many ? 'mean' : 'mean, lowest and highest');
		const name = (host: number, what: string) => (many ? `${hostName(feed.setup, host)} ${what}` : what);
		const sent: Line = { name: 'sent', color: c.sent, values: values(app, hist.sent, span, state.unit) };
		charts.rate.set(t, [...(flow?.watched ?? true ? [sent] : []), ...hist.receivers.map((r, i) => ({
			name: name(r.host, 'received'), color: hue[i % hue.length]!, values: values(app, r.received, span, state.unit),
		}))], range, span.gaps);
		charts.loss.set(t, hist.receivers.map((r, i) => ({
			name: name(r.host, 'loss'), color: hue[i % hue.length]!,
			values: r.expected.map((n, j) => (n !== null && n > 0 ? Math.min(1, Math.max(0, (r.lost[j] ?? 0) / n)) : null)),
		})), range, span.gaps);
		charts.delay.set(t, hist.receivers.flatMap((r, i): Line[] => {
			const color = hue[i % hue.length]!;
			const soft = `${color}66`;
			return many ? [{ name: name(r.host, 'mean'), color, values: r.meanDelay }] : [
				{ name: 'lowest', color: soft, values: r.minDelay }, { name: 'highest', color: soft, values: r.maxDelay }, { name: 'mean', color, values: r.meanDelay },
			];
		}), range);
		charts.jitter.set(t, hist.receivers.map((r, i) => ({ name: name(r.host, 'jitter'), color: hue[i % hue.length]!, values: r.jitter })), range, span.gaps);
		charts.order.set(t, hist.receivers.flatMap((r, i): Line[] => [
			{ name: name(r.host, 'reordered'), color: hue[i % hue.length]!, values: r.reordered },
			{ name: name(r.host, 'duplicates'), color: hue[(i + 1) % hue.length]!, values: r.duplicates },
		]), range);
	}

	return {
		el,
		update() {
			const rows = shown();
			const none = allRows().length === 0;
			empty.el.hidden = !none;
			tablePanel.hidden = none;
			if (none) {
				const [title] = whyNothing(app);
				if (feed.frame && feed.mgen && feed.frame.hosts.some((s) => s.state === 'connected')) {
					empty.say('No MGEN messages in this time', 'Agents recognize MGEN messages on any port. Send some from a host with an agent:',
						{ code: 'mgen event "on 1 udp src 4001 dst ADDRESS/5001 periodic [10 512]"' });
				} else {
					const [, ...rest] = whyNothing(app);
					empty.say(title, ...rest);
				}
			}
			if (document.activeElement !== filter) filter.value = state.filter;
			list.set(rows.slice(0, 500));
			const words: string[] = [];
			if (rows.length > 500) words.push(`${rows.length - 500} more flows are not drawn: filter.`);
			if (rows.some((r) => r.receiver && !r.receiver.delay && r.receiver.received.messages === 0)) {
				words.push('Delay, jitter and order need the receiver\u2019s richer feed: start its agent with -ipfix-port 4739 and name it as LABEL:ipfix://ADDRESS:4739 in collector.conf.');
			}
			if (rows.some((r) => !r.receiver)) words.push('A flow without a receiver arrives where no agent reports what comes in (-m dst or -m none).');
			text(hint, words.join(' '));
			hint.hidden = words.length === 0;
			drawCharts();
		},
		table() {
			const span = feed.mgen?.window;
			if (!span) return [];
			return [
				['flow', 'source', 'source port', 'destination', 'destination port', 'receiver', 'rate (bits/s)', 'sent packets', 'received packets', 'lost', 'expected', 'delay min (ms)', 'delay mean (ms)', 'delay max (ms)', 'jitter (ms)', 'reordered', 'duplicates', 'negative delays'],
				...shown().map(({ flow: f, receiver: r }) => [
					f.id, f.src, f.srcPort, f.dst, f.dstPort, r ? hostName(feed.setup, r.host) : '',
					measure(r ? r.received : f.sent, 'bits') / Math.max(1, span.to - span.from),
					f.watched ? f.sent.packets : null, r?.received.packets ?? null, r?.loss?.lost ?? null, r?.loss?.expected ?? null,
					r?.delay?.min ?? null, r?.delay?.mean ?? null, r?.delay?.max ?? null, r?.delay?.jitter ?? null, r?.reordered ?? null, r?.duplicates ?? null, r?.negativeDelays ?? null,
				]),
			];
		},
		destroy() { for (const c of Object.values(charts)) c.destroy(); },
	};
}
