import { h, style, text, toggle } from '../dom';
import { covered, matches, measure, middle, percent, rate } from '../format';
import type { Cell, Count, Group, Lost } from '../model';
import { Table, foldButton, type Column, type Drawn, type Row } from '../table';
import type { App, Page, View } from '../view';
import { emptyState, hostName, panel, place, rateOf, whyNothing } from './common';

/** How many rows and columns are drawn; the others are in Other. */
const most = 16;

/** A host, a stranger, or a group; or one of a host's addresses, once it is unfolded. */
interface End { key: string; name: string; addresses: string[]; host: number; group: boolean; sum: number }

/** What one end sends to another. */
interface Sum { once: Count; relayed: Count; loss: Lost | null; unknown: boolean; parts: number }

type Sender = Group['senders'][number];
interface Item { group: Group; sender: Sender; receiver: Sender['receivers'][number] | null; others?: Sender['receivers'] }

const other = 'other';

/** Ends in the order in which they send or receive most, but for the last ones, which are put together. */
export function ends(cells: readonly Cell[], side: 'src' | 'dst', keyOf: (address: string, host: number) => Omit<End, 'addresses' | 'sum'>, weight: (c: Count) => number, limit = most): { list: End[]; of: Map<string, string> } {
	const all = new Map<string, End>();
	const of = new Map<string, string>();
	for (const c of cells) {
		const key = keyOf(c[side], side === 'src' ? c.srcHost : c.dstHost);
		let end = all.get(key.key);
		if (!end) all.set(key.key, end = { ...key, addresses: [], sum: 0 });
		if (!end.addresses.includes(c[side])) end.addresses.push(c[side]);
		end.sum += weight(c.once);
		of.set(c[side], key.key);
	}
	const sorted = [...all.values()].sort((a, b) => b.sum - a.sum);
	// One too many is not worth an Other.
	const cut = sorted.length > limit + 1 ? limit : sorted.length;
	const rest = sorted.slice(cut);
	for (const end of rest) for (const a of end.addresses) of.set(a, other);
	// Agents first, in their order; then strangers; groups last.
	const order = (e: End) => (e.group ? 2e6 : e.host >= 0 ? e.host : 1e6);
	const list = sorted.slice(0, cut).sort((a, b) => order(a) - order(b) || (a.name < b.name ? -1 : 1));
	if (rest.length) list.push({ key: other, name: `${rest.length} others`, addresses: rest.map((e) => e.name), host: -1, group: false, sum: rest.reduce((n, e) => n + e.sum, 0) });
	return { list, of };
}

/** The receivers that want it and lose most; of a group that nobody wants, -1. */
function badness(s: Sender): number {
	return Math.max(-1, ...s.receivers.filter(wants).map((r) => (r.fraction === null ? 0 : 1 - r.fraction)));
}
const wants = (r: Sender['receivers'][number]) => r.role === 'member' || r.role === 'receiver';

/** Who sends how much to whom. */
export const matrix: View = { route: 'matrix', title: 'Matrix', topic: 'matrix', open };

function open(app: App): Page {
	const { state, feed } = app;
	const unfolded = new Set<string>();
	const head = h('tr', {});
	const body = h('tbody', {});
	const note = h('span', {});
	const rest = h('p', { class: 'rest' });
	const empty = emptyState();
	const scale = h('div', { class: 'scale' }, h('span', {}, '0'), h('i', {}), h('span', {}));
	const matrixPanel = panel('Who sends to whom', note, h('div', { class: 'scroll heat-box', tabindex: 0, role: 'group', 'aria-label': 'Who sends to whom' }, h('table', { class: 'heat' }, h('thead', {}, head), body)), scale, rest);
	const columns: Column[] = [['Group', '', 'Multicast address'], ['From', '', 'Sender'], ['To', '', 'Members of the group; the others are folded away'], ['Delivered', 'num', 'Share of the sender\u2019s packets that arrive, of the time when both were watched; of several members the least'],
		['', 'share-cell', 'Share as a bar'], ['Rate', 'num', 'Sent, or received']];
	const groups = new Table<Item>(columns, drawGroup, { label: 'Multicast groups, the worst first' });
	const groupPanel = panel('Multicast groups, the worst first', 'share of each sender\u2019s packets that arrive', groups.el);
	const el = h('div', { class: 'page matrix' }, empty.el, matrixPanel, groupPanel);
	const weight = (c: Count) => measure(c, state.unit);
	const nameOf = (address: string, host: number) => place(feed.setup, address, host, feed.matrix?.names);
	const isGroup = (address: string) => /^(22[4-9]|23\d)\./.test(address) || /^ff/i.test(address) || address === '255.255.255.255' || (feed.matrix?.groups ?? []).some((g) => g.group === address);

	/** IPv4, IPv6 and link-local addresses of one host are one end, unless that is unfolded. */
	function endOf(address: string, host: number): Omit<End, 'addresses' | 'sum'> {
		const name = host >= 0 ? hostName(feed.setup, host) : nameOf(address, -1);
		const key = host >= 0 ? `host ${host}` : isGroup(address) ? address : name;
		return unfolded.has(key) ? { key: address, name: address, host, group: isGroup(address) } : { key, name, host, group: isGroup(address) };
	}

	let shape = '';
	let cellOf = new Map<string, HTMLElement>();

	function heading(e: End, scope: string): HTMLElement {
		const name = h('span', {}, middle(e.name, 22));
		const cell = h('th', { scope, class: e.group ? 'group' : '', title: e.key === other ? `${e.addresses.slice(0, 30).join(', ')}${e.addresses.length > 30 ? ' …' : ''}` : [e.name, ...e.addresses].join('\n') }, name);
		const whole = e.host >= 0 ? `host ${e.host}` : e.name;
		if (e.addresses.length > 1 && e.key !== other || unfolded.has(whole)) {
			const open = unfolded.has(whole);
			const button = h('button', { type: 'button', class: 'fold', 'aria-expanded': open, 'aria-label': `${open ? 'Fold' : 'Unfold'} the addresses of ${e.name}` });
			button.addEventListener('click', () => {
				if (!unfolded.delete(whole)) unfolded.add(whole);
				draw();
			});
			name.prepend(button);
		}
		const below = e.key === other ? '' : e.addresses.length > 1 ? `${e.addresses.length} addresses` : e.addresses[0] === e.name ? (e.host >= 0 ? hostName(feed.setup, e.host) : '') : e.addresses[0] ?? '';
		if (below) cell.append(h('small', {}, middle(below, 24)));
		return cell;
	}

	function draw(): void {
		const m = feed.matrix!;
		const found = m.cells.filter((c) => matches(state.filter, c.src, c.dst, nameOf(c.src, c.srcHost), nameOf(c.dst, c.dstHost)));
		const rows = ends(found, 'src', endOf, weight);
		const cols = ends(found, 'dst', endOf, weight);
		const now = JSON.stringify([rows.list.map((r) => [r.key, r.name, r.addresses.length]), cols.list.map((c) => [c.key, c.name, c.addresses.length])]);
		if (now !== shape) {
			shape = now;
			cellOf = new Map();
			head.replaceChildren(h('th', { class: 'corner' }, 'from \\ to'), ...cols.list.map((c) => heading(c, 'col')));
			body.replaceChildren(...rows.list.map((r) => h('tr', {}, heading(r, 'row'), ...cols.list.map((c) => {
				const cell = h('td', {});
				cellOf.set(JSON.stringify([r.key, c.key]), cell);
				return cell;
			}))));
		}
		const sums = new Map<string, Sum>();
		for (const c of found) {
			const key = JSON.stringify([rows.of.get(c.src), cols.of.get(c.dst)]);
			let sum = sums.get(key);
			if (!sum) sums.set(key, sum = { once: { packets: 0, bits: 0 }, relayed: { packets: 0, bits: 0 }, loss: null, unknown: false, parts: 0 });
			sum.parts++;
			sum.once.packets += c.once.packets;
			sum.once.bits += c.once.bits;
			sum.relayed.packets += c.relayed.packets;
			sum.relayed.bits += c.relayed.bits;
			sum.unknown ||= !c.loss;
			if (c.loss) {
				const all: Lost = sum.loss ?? { expected: 0, lost: 0, fraction: 0, bySequence: c.loss.bySequence };
				all.expected += c.loss.expected;
				all.lost += c.loss.lost;
				all.fraction = all.expected ? all.lost / all.expected : 0;
				all.bySequence &&= c.loss.bySequence;
				sum.loss = all;
			}
		}
		const span = m.window;
		const full = Math.max(1, ...[...sums].filter(([key]) => !key.includes(`"${other}"`)).map(([, s]) => weight(s.once)));
		const name = (e: End) => (e.addresses.length === 1 && e.addresses[0] !== e.name ? `${e.name} (${e.addresses[0]})` : e.name);
		for (const r of rows.list) {
			for (const c of cols.list) {
				const key = JSON.stringify([r.key, c.key]);
				const cell = cellOf.get(key)!;
				const s = sums.get(key);
				if (!s) {
					if (cell.dataset.text) {
						cell.className = '';
						cell.replaceChildren();
						cell.dataset.text = cell.title = '';
					}
					continue;
				}
				const speed = rateOf(app, s.once, span);
				const strength = Math.min(1, Math.sqrt(weight(s.once) / full));
				style(cell, '--heat', strength.toFixed(3));
				cell.className = 'on';
				// By counts, packets on their way at the window's ends look like a few lost ones.
				const lost = s.loss && s.loss.lost > (s.loss.bySequence ? 0 : Math.max(3, s.loss.expected / 500)) ? percent(s.loss.fraction) : '';
				const wanted = `${rate(speed, state.unit)}|${lost}`;
				if (cell.dataset.text !== wanted) {
					cell.dataset.text = wanted;
					cell.replaceChildren(rate(speed, state.unit), ...(lost ? [h('small', {}, `−${lost}`)] : []));
				}
				cell.title = `${name(r)} to ${name(c)}\n${rate(speed, state.unit)}`
					+ (s.loss ? `\nloss ${percent(s.loss.fraction)} (${s.loss.lost} of ${s.loss.expected} packets${s.loss.bySequence ? ', by sequence number' : ''}${s.unknown ? '; of others it is not known' : ''})` : '\nloss not known: the two ends were not watched at the same time')
					+ (s.parts > 1 ? `\n${s.parts} pairs of addresses` : '') + (s.relayed.packets ? `\nrelayed ${rate(rateOf(app, s.relayed, span), state.unit)}` : '');
			}
		}
		const last = scale.lastElementChild;
		if (last) text(last, rate(full / covered(span, feed.frame?.oldest ?? 0), state.unit));
		text(note, `${rate(rateOf(app, m.total, span), state.unit)} in all, each packet once`);
		rest.hidden = m.other.packets === 0 && found.length > 0;
		text(rest, found.length === 0 ? 'No host matches the filter.' : `Not drawn: small entries that were merged, ${rate(rateOf(app, m.other, span), state.unit)}`);
	}

	function drawGroup(first: Row<Item>): Drawn<Item> {
		const fold = foldButton(() => {
			if (!unfolded.delete(first.key)) unfolded.add(first.key);
			drawGroups();
		});
		const group = h('b', {});
		const address = h('small', {});
		const [from, to, below] = [h('td', {}), h('span', {}), h('small', {})];
		const [share, speed] = [h('td', { class: 'num', 'data-column': 'share' }), h('td', { class: 'num' })];
		const fill = h('i', {});
		const row = h('tr', { tabindex: 0, 'data-group': first.item.group.group, 'data-sender': first.item.sender.src }, h('td', {}, fold.el, group, address), from, h('td', {}, to, below), share,
			h('td', { class: 'share-cell' }, h('div', { class: 'track' }, fill)), speed);
		row.addEventListener('click', () => { if (!fold.el.classList.contains('none')) fold.el.click(); });
		return {
			el: row,
			update({ group: g, sender: s, receiver: r, others }) {
				const wanted = s.receivers.filter(wants);
				const silent = wanted.filter((x) => x.fraction === 0);
				row.dataset.receiver = String(r?.host ?? '');
				toggle(fold.el, 'none', r !== null || (!others && s.receivers.length === 0));
				fold.set(unfolded.has(first.key), `${nameOf(g.group, -1)} from ${nameOf(s.src, s.host)}`);
				const called = nameOf(g.group, -1);
				text(group, first.level ? '' : middle(called));
				text(address, first.level || called === g.group ? '' : g.group);
				text(from, first.level ? '' : middle(nameOf(s.src, s.host)));
				from.title = nameOf(s.src, s.host);
				const count = (role: string, list: Sender['receivers'], n = list.filter((x) => x.role === role).length) => (n ? [`${n} ${role}${n === 1 ? '' : 's'}`] : []);
				const parts = [...wanted].map((x) => x.fraction).filter((x) => x !== null);
				const part = r ? r.fraction : others || !parts.length ? null : Math.min(...parts);
				text(to, r ? middle(hostName(feed.setup, r.host)) : others ? `${[...count('relay', others), ...count('overhearer', others)].join(' and ')}` : [...count('member', s.receivers), ...count('receiver', s.receivers)].join(', ') || 'nobody who wants it is known');
				text(below, r ? (r.fraction === 0 && wants(r) ? 'receives nothing' : r.role) : others ? 'see it, but are not receivers' : silent.length ? `${silent.length} of them get${silent.length === 1 ? 's' : ''} nothing` : '');
				const bad = part !== null && part < 0.99 && (!r || wants(r));
				toggle(below, 'bad', bad && part === 0);
				text(share, part === null ? '–' : percent(part));
				toggle(share, 'bad', bad);
				style(fill, 'width', `${Math.min(100, 100 * (part ?? 0))}%`);
				toggle(row, 'lossy', bad);
				text(speed, others || !feed.matrix ? '' : rate(rateOf(app, r ? r.received : s.once, feed.matrix.window), state.unit));
			},
		};
	}

	function drawGroups(): void {
		const list = (feed.matrix?.groups ?? []).flatMap((group) => group.senders.map((sender) => ({ group, sender })))
			.filter(({ group, sender: s }) => matches(state.filter, group.group, nameOf(group.group, -1), s.src, nameOf(s.src, s.host), ...s.receivers.map((r) => hostName(feed.setup, r.host))))
			.sort((a, b) => badness(b.sender) - badness(a.sender) || weight(b.sender.once) - weight(a.sender.once));
		groups.set(list.flatMap(({ group, sender }): Row<Item>[] => {
			const key = `${group.group} ${sender.src}`;
			const out: Row<Item>[] = [{ key, item: { group, sender, receiver: null } }];
			if (!unfolded.has(key)) return out;
			const rest = sender.receivers.filter((r) => !wants(r));
			out.push(...sender.receivers.filter(wants).sort((a, b) => (a.fraction ?? 2) - (b.fraction ?? 2)).map((receiver) => ({ key: `${key} ${receiver.host}`, item: { group, sender, receiver }, level: 1 })));
			if (rest.length) {
				out.push({ key: `${key} others`, item: { group, sender, receiver: null, others: rest }, level: 1 });
				if (unfolded.has(`${key} others`)) out.push(...rest.map((receiver) => ({ key: `${key} ${receiver.host}`, item: { group, sender, receiver }, level: 2 })));
			}
			return out;
		}));
	}

	return {
		el,
		update() {
			const m = feed.matrix;
			const nothing = !m || m.cells.length === 0;
			empty.el.hidden = !nothing;
			matrixPanel.hidden = nothing;
			groupPanel.hidden = nothing || m!.groups.length === 0;
			if (nothing) {
				empty.say(...whyNothing(app));
				return;
			}
			draw();
			drawGroups();
		},
		table() {
			const m = feed.matrix;
			if (!m) return [];
			return [
				['source', 'source host', 'destination', 'destination host', `${state.unit}/s`, 'packets', 'bits', 'lost packets', 'expected packets'],
				...m.cells.map((c) => [c.src, c.srcHost < 0 ? '' : hostName(feed.setup, c.srcHost), c.dst, c.dstHost < 0 ? '' : hostName(feed.setup, c.dstHost),
					rateOf(app, c.once, m.window), c.once.packets, c.once.bits, c.loss?.lost ?? null, c.loss?.expected ?? null]),
			];
		},
	};
}
