import { List, h, style, text } from '../dom';
import { endpoint, measure, percent, protocol, rate, whole } from '../format';
import type { Talker } from '../model';
import type { App, Page, View } from '../view';
import { colors, emptyState, flowName, panel, rateOf, rowKeys, swatch, whyNothing } from './common';

const keyOf = (t: Talker) => [t.src, t.srcPort, t.dst, t.dstPort, t.proto].join(' ');

/** The heaviest conversations. */
export const talkers: View = { route: 'talkers', title: 'Talkers', topic: 'talkers', open };

function open(app: App): Page {
	const { state, feed } = app;
	const body = h('tbody', {});
	rowKeys(body);
	const filter = h('input', { type: 'search', class: 'filter', placeholder: 'Filter', 'aria-label': 'Filter conversations', maxlength: 100 });
	filter.addEventListener('input', () => state.set({ filter: filter.value }));
	const empty = emptyState();
	const rest = h('p', { class: 'rest' });
	const head: [string, string][] = [['', 'num'], ['Source', ''], ['Destination', ''], ['Protocol', ''], ['Flow', ''], ['Rate', 'num'], ['', 'share-cell'], ['Share', 'num'], ['Packets', 'num']];
	const tablePanel = panel('Top talkers', filter,
		h('div', { class: 'scroll' }, h('table', { class: 'rows' }, h('thead', {}, h('tr', {}, ...head.map(([n, c]) => h('th', { class: c, scope: 'col' }, n)))), body)), rest);
	const el = h('div', { class: 'page talkers' }, empty.el, tablePanel);
	let most = 1;

	const list = new List<{ t: Talker; rank: number }>(body, (x) => keyOf(x.t), ({ t: first }) => {
		const rank = h('td', { class: 'num faint' });
		const srcName = h('b', { class: 'peer' });
		const dstName = h('b', { class: 'peer' });
		const mark = swatch('');
		const name = h('span', {});
		const value = h('td', { class: 'num' });
		const fill = h('i', {});
		const share = h('td', { class: 'num' });
		const packets = h('td', { class: 'num' });
		return {
			el: h('tr', { tabindex: 0, 'data-key': keyOf(first) }, rank,
				h('td', {}, srcName, h('span', { class: 'mono' }, endpoint(first.src, first.srcPort))), h('td', {}, dstName, h('span', { class: 'mono' }, endpoint(first.dst, first.dstPort))),
				h('td', {}, protocol(first.proto)), h('td', {}, mark, name), value,
				h('td', { class: 'share-cell' }, h('div', { class: 'track' }, fill)), share, packets),
			update: ({ t, rank: n }) => {
				const span = feed.talkers!.window;
				const v = measure(t.once, state.unit);
				text(rank, String(n));
				text(srcName, nameOf(t.src));
				text(dstName, nameOf(t.dst));
				style(mark, 'background', colors(app, t.row).primary);
				style(fill, 'background', colors(app, t.row).primary);
				style(fill, 'width', `${(100 * v) / most}%`);
				text(name, flowName(feed.setup, t.row));
				text(value, rate(rateOf(app, t.once, span), state.unit));
				const all = measure(feed.talkers!.total, state.unit);
				text(share, all ? percent(v / all) : '–');
				text(packets, whole(t.once.packets));
			},
		};
	});

	const nameOf = (address: string) => (Object.hasOwn(feed.talkers!.names, address) ? feed.talkers!.names[address]! : '');

	function shown(): { t: Talker; rank: number }[] {
		const q = state.filter.toLowerCase();
		const sorted = [...(feed.talkers?.talkers ?? [])].sort((a, b) => measure(b.once, state.unit) - measure(a.once, state.unit));
		return sorted.map((t, i) => ({ t, rank: i + 1 })).filter(({ t }) => !q
			|| `${nameOf(t.src)} ${nameOf(t.dst)} ${endpoint(t.src, t.srcPort)} ${endpoint(t.dst, t.dstPort)} ${protocol(t.proto)} ${flowName(feed.setup, t.row)}`.toLowerCase().includes(q));
	}

	return {
		el,
		update() {
			const d = feed.talkers;
			const none = !d || d.talkers.length === 0;
			empty.el.hidden = !none;
			tablePanel.hidden = none;
			if (none) {
				empty.say(...whyNothing(app));
				return;
			}
			if (document.activeElement !== filter) filter.value = state.filter;
			const rows = shown();
			most = Math.max(1, ...rows.map((x) => measure(x.t.once, state.unit)));
			list.set(rows.slice(0, 200));
			const words = [`${rate(rateOf(app, d.total, d.window), state.unit)} in all, each packet once`];
			if (rows.length > 200) words.push(`${rows.length - 200} more are in the CSV`);
			if (d.other.packets) words.push(`too many to be told apart: ${rate(rateOf(app, d.other, d.window), state.unit)}`);
			text(rest, words.join('; ') + '.');
		},
		table() {
			const d = feed.talkers;
			if (!d) return [];
			return [
				['rank', 'source', 'source port', 'destination', 'destination port', 'protocol', 'flow', `${state.unit}/s`, 'packets', 'bits'],
				...shown().map(({ t, rank }) => [rank, t.src, t.srcPort, t.dst, t.dstPort, protocol(t.proto), flowName(feed.setup, t.row), rateOf(app, t.once, d.window), t.once.packets, t.once.bits]),
			];
		},
	};
}
