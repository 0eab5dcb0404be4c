import { h, style, text, toggle } from '../dom';
import { endpoint, matches, measure, middle, percent, protocol, rate, whole } from '../format';
import type { Count, Talker } from '../model';
import { Table, foldButton, type Column, type Drawn, type Row } from '../table';
import type { App, Page, View } from '../view';
import { colors, emptyState, flowName, hostName, panel, rateOf, swatch, whyNothing } from './common';

const keyOf = (t: Talker) => [t.src, t.srcPort, t.dst, t.dstPort, t.proto].join(' ');

/** All conversations from one host to another. */
interface Pair { key: string; from: string; to: string; once: Count; talkers: Talker[] }

interface Item { pair: Pair; talker: Talker | null; rank: number }

/** Conversations by the hosts that they are of, as nameOf calls addresses; those with most traffic first. */
export function pairs(talkers: readonly Talker[], nameOf: (address: string) => string, weight: (c: Count) => number): Pair[] {
	const all = new Map<string, Pair>();
	for (const t of talkers) {
		const [from, to] = [nameOf(t.src), nameOf(t.dst)];
		const key = JSON.stringify([from, to]);
		let pair = all.get(key);
		if (!pair) all.set(key, pair = { key, from, to, once: { packets: 0, bits: 0 }, talkers: [] });
		pair.once.packets += t.once.packets;
		pair.once.bits += t.once.bits;
		pair.talkers.push(t);
	}
	const list = [...all.values()].sort((a, b) => weight(b.once) - weight(a.once));
	for (const p of list) p.talkers.sort((a, b) => weight(b.once) - weight(a.once));
	return list;
}

/** Who talks most with whom. */
export const talkers: View = { route: 'talkers', title: 'Talkers', topic: 'talkers', open };

function open(app: App): Page {
	const { state, feed } = app;
	const unfolded = new Set<string>();
	const empty = emptyState();
	const rest = h('p', { class: 'rest' });
	const columns: Column[] = [['', 'num', 'Rank'], ['From', '', 'Host, and the addresses and ports of a conversation'], ['To', '', ''], ['Protocol', '', ''], ['Flow', '', ''],
		['Rate', 'num', ''], ['', 'share-cell', 'Share as a bar'], ['Share', 'num', 'Of all traffic, each packet once'], ['Packets', 'num', '']];
	const table = new Table<Item>(columns, draw, { label: 'Top talkers' });
	const tablePanel = panel('Top talkers', null, table.el, rest);
	const el = h('div', { class: 'page talkers' }, empty.el, tablePanel);
	let most = 1;

	const nameOf = (address: string): string => {
		const names = feed.talkers?.names ?? {};
		if (Object.hasOwn(names, address) && names[address]) return names[address]!;
		const host = feed.talkers?.hosts?.[address];
		return host !== undefined ? hostName(feed.setup, host) : address;
	};
	const weight = (c: Count) => measure(c, state.unit);

	function draw(first: Row<Item>): Drawn<Item> {
		const fold = foldButton(() => {
			if (!unfolded.delete(first.key)) unfolded.add(first.key);
			update();
		});
		const rank = h('span', {});
		const [from, to] = [h('b', { class: 'peer' }), h('b', { class: 'peer' })];
		const [src, dst] = [h('span', { class: 'mono' }), h('span', { class: 'mono' })];
		const proto = h('td', {});
		const mark = swatch('');
		const name = h('span', {});
		const value = h('td', { class: 'num' });
		const fill = h('i', {});
		const share = h('td', { class: 'num' });
		const packets = h('td', { class: 'num' });
		const row = h('tr', { tabindex: 0 }, h('td', { class: 'num faint' }, fold.el, rank), h('td', {}, from, src), h('td', {}, to, dst), proto, h('td', {}, mark, name), value,
			h('td', { class: 'share-cell' }, h('div', { class: 'track' }, fill)), share, packets);
		row.addEventListener('click', () => { if (!fold.el.classList.contains('none')) fold.el.click(); });
		return {
			el: row,
			update: ({ pair, talker, rank: n }) => {
				const one = talker ?? (pair.talkers.length === 1 ? pair.talkers[0]! : null);
				const once = talker ? talker.once : pair.once;
				if (one) row.dataset.key = keyOf(one);
				else delete row.dataset.key;
				toggle(fold.el, 'none', talker !== null || pair.talkers.length === 1);
				fold.set(unfolded.has(pair.key), `${pair.from} to ${pair.to}`);
				text(rank, talker ? '' : String(n));
				for (const [el, whole] of [[from, pair.from], [to, pair.to]] as const) {
					text(el, talker ? '' : middle(whole));
					el.title = whole;
				}
				const addresses = (side: 'src' | 'dst'): string => {
					const list = [...new Set(pair.talkers.map((t) => t[side]))];
					return list.length === 1 ? list[0]! : `${list.length} addresses`;
				};
				const shown = (name: string, side: 'src' | 'dst'): string => {
					const s = one ? endpoint(one[side], one[side === 'src' ? 'srcPort' : 'dstPort']) : addresses(side);
					return s === name ? '' : s;
				};
				text(src, shown(pair.from, 'src'));
				text(dst, shown(pair.to, 'dst'));
				const list = talker ? [talker] : pair.talkers;
				const protocols = [...new Set(list.map((t) => protocol(t.proto)))];
				const rows = [...new Set(list.map((t) => t.row))];
				text(proto, one ? protocols[0]! : `${protocols.slice(0, 2).join(', ')}${protocols.length > 2 ? ' …' : ''}, ${pair.talkers.length} conversations`);
				style(mark, 'background', colors(app, rows[0]!).primary);
				style(fill, 'background', colors(app, rows[0]!).primary);
				style(fill, 'width', `${(100 * weight(once)) / most}%`);
				text(name, rows.length === 1 ? flowName(feed.setup, rows[0]!) : `${flowName(feed.setup, rows[0]!)} and ${rows.length - 1} more`);
				text(value, rate(rateOf(app, once, feed.talkers!.window), state.unit));
				const all = weight(feed.talkers!.total);
				text(share, all ? percent(weight(once) / all) : '–');
				text(packets, whole(once.packets));
			},
		};
	}

	function shown(): { pair: Pair; rank: number }[] {
		const found = (feed.talkers?.talkers ?? []).filter((t) => matches(state.filter, nameOf(t.src), nameOf(t.dst), endpoint(t.src, t.srcPort), endpoint(t.dst, t.dstPort), protocol(t.proto), flowName(feed.setup, t.row)));
		return pairs(found, nameOf, weight).map((pair, i) => ({ pair, rank: i + 1 }));
	}

	function update(): void {
		const d = feed.talkers;
		const none = !d || d.talkers.length === 0;
		empty.el.hidden = !none;
		tablePanel.hidden = none;
		if (none) {
			empty.say(...whyNothing(app));
			return;
		}
		const list = shown();
		most = Math.max(1, ...list.map((x) => weight(x.pair.once)));
		table.set(list.flatMap(({ pair, rank }): Row<Item>[] => [{ key: pair.key, item: { pair, talker: null, rank } },
			...(unfolded.has(pair.key) && pair.talkers.length > 1 ? pair.talkers.map((t) => ({ key: `${pair.key} ${keyOf(t)} ${t.row}`, item: { pair, talker: t, rank }, level: 1 })) : [])]));
		const words = [`${rate(rateOf(app, d.total, d.window), state.unit)} in all, each packet once`];
		if (d.other.packets) words.push(`too many to be told apart: ${rate(rateOf(app, d.other, d.window), state.unit)}`);
		if (list.length === 0) words.push('no conversation matches the filter');
		text(rest, words.join('; ') + '.');
	}

	return {
		el,
		update,
		table() {
			const d = feed.talkers;
			if (!d) return [];
			return [
				['rank', 'from', 'to', 'source', 'source port', 'destination', 'destination port', 'protocol', 'flow', `${state.unit}/s`, 'packets', 'bits'],
				...shown().flatMap(({ pair, rank }) => pair.talkers.map((t) => [rank, pair.from, pair.to, t.src, t.srcPort, t.dst, t.dstPort, protocol(t.proto), flowName(feed.setup, t.row), rateOf(app, t.once, d.window), t.once.packets, t.once.bits])),
			];
		},
	};
}
