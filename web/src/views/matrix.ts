import { List, h, style, text, toggle } from '../dom';
import { covered, measure, percent, rate, short } from '../format';
import type { Cell, Group } from '../model';
import type { App, Page, View } from '../view';
import { emptyState, hostName, panel, place, rateOf, whyNothing } from './common';

/** How many rows and columns are drawn; the rest is in the sum below. */
const most = 40;
const mostGroups = 20;

interface End { address: string; host: number; sum: number }

/** Who sends how much to whom. */
export const matrix: View = { route: 'matrix', title: 'Matrix', topic: 'matrix', open };

function open(app: App): Page {
	const { state, feed } = app;
	const head = h('tr', {});
	const body = h('tbody', {});
	const table = h('table', { class: 'heat' }, h('thead', {}, head), body);
	const note = h('span', {});
	const rest = h('p', { class: 'rest' });
	const groupsBox = h('div', { class: 'groups' });
	const moreGroups = h('p', { class: 'rest' });
	const empty = emptyState();
	const scale = h('div', { class: 'scale' }, h('span', {}, '0'), h('i', {}), h('span', {}));
	const matrixPanel = panel('Who sends to whom', note, h('div', { class: 'scroll' }, table), scale, rest);
	const groupPanel = panel('Multicast groups', 'share of each sender\u2019s packets that arrive', groupsBox, moreGroups);
	const el = h('div', { class: 'page matrix' }, empty.el, h('div', { class: 'split wide' }, matrixPanel, groupPanel));

	const isGroup = (address: string) => /^(22[4-9]|23\d)\./.test(address) || /^ff/i.test(address) || address === '255.255.255.255' || (feed.matrix?.groups ?? []).some((g) => g.group === address);

	function ends(side: 'src' | 'dst', cells: Cell[]): End[] {
		const byAddress = new Map<string, End>();
		for (const c of cells) {
			const address = c[side];
			const end = byAddress.get(address) ?? { address, host: side === 'src' ? c.srcHost : c.dstHost, sum: 0 };
			end.sum += measure(c.once, state.unit);
			byAddress.set(address, end);
		}
		const list = [...byAddress.values()].sort((a, b) => b.sum - a.sum).slice(0, most);
		// Agents first, in their order; then strangers; groups last.
		const order = (e: End) => (isGroup(e.address) ? 2e6 : e.host >= 0 ? e.host : 1e6);
		return list.sort((a, b) => order(a) - order(b) || (a.address < b.address ? -1 : 1));
	}

	let shape = '';
	let cellOf = new Map<string, HTMLElement>();

	function draw(): void {
		const m = feed.matrix!;
		const rows = ends('src', m.cells);
		const columns = ends('dst', m.cells);
		const now = JSON.stringify([rows.map((r) => [r.address, r.host]), columns.map((c) => [c.address, c.host]), feed.setup?.run, m.names]);
		if (now !== shape) {
			shape = now;
			cellOf = new Map();
			const heading = (e: End, scope: string) => {
				const cell = h('th', { scope, class: isGroup(e.address) ? 'group' : '', title: e.address }, h('span', {}, place(feed.setup, e.address, e.host, feed.matrix?.names)));
				if (place(feed.setup, e.address, e.host, feed.matrix?.names) !== e.address) cell.append(h('small', {}, e.address));
				return cell;
			};
			head.replaceChildren(h('th', { class: 'corner' }, 'from \\ to'), ...columns.map((c) => heading(c, 'col')));
			body.replaceChildren(...rows.map((r) => h('tr', {}, heading(r, 'row'), ...columns.map((c) => {
				const cell = h('td', {});
				cellOf.set(`${r.address} ${c.address}`, cell);
				return cell;
			}))));
		}
		const span = m.window;
		const full = Math.max(1, ...m.cells.map((c) => measure(c.once, state.unit)));
		const filled = new Set<string>();
		let hiddenCells = 0;
		let hiddenSum = measure(m.other, state.unit);
		for (const c of m.cells) {
			const key = `${c.src} ${c.dst}`;
			const cell = cellOf.get(key);
			const v = measure(c.once, state.unit);
			if (!cell) {
				hiddenCells++;
				hiddenSum += v;
				continue;
			}
			filled.add(key);
			const r = rateOf(app, c.once, span);
			const strength = Math.sqrt(v / full);
			style(cell, '--heat', strength.toFixed(3));
			cell.className = strength > 0.85 ? 'on strong' : 'on';
			// By counts, packets on their way at the window's ends look like a few lost ones.
			const lost = c.loss && c.loss.lost > (c.loss.bySequence ? 0 : Math.max(3, c.loss.expected / 500)) ? percent(c.loss.fraction) : '';
			const wanted = short(r) + (lost ? `|${lost}` : '');
			if (cell.dataset.text !== wanted) {
				cell.dataset.text = wanted;
				cell.replaceChildren(short(r), ...(lost ? [h('small', {}, `−${lost}`)] : []));
			}
			cell.title = `${place(feed.setup, c.src, c.srcHost, m.names)} (${c.src}) to ${place(feed.setup, c.dst, c.dstHost, m.names)} (${c.dst})\n${rate(r, state.unit)}`
				+ (c.loss ? `\nloss ${percent(c.loss.fraction)} (${c.loss.lost} of ${c.loss.expected} packets${c.loss.bySequence ? ', by sequence number' : ''})` : '\nloss not known: the two ends were not watched at the same time')
				+ (c.relayed.packets ? `\nrelayed ${rate(rateOf(app, c.relayed, span), state.unit)}` : '');
		}
		for (const [key, cell] of cellOf) {
			if (!filled.has(key) && cell.dataset.text) {
				cell.className = '';
				cell.replaceChildren();
				cell.dataset.text = '';
				cell.title = '';
			}
		}
		const last = scale.lastElementChild;
		if (last) text(last, rate(full / covered(span, feed.frame?.oldest ?? 0), state.unit));
		text(note, `${rate(rateOf(app, m.total, span), state.unit)} in all, each packet once`);
		rest.hidden = hiddenSum === 0;
		text(rest, `Not drawn: ${hiddenCells ? `${hiddenCells} pairs and ` : ''}merged small entries, ${rate(rateOf(app, { packets: hiddenSum, bits: state.unit === 'bytes' ? hiddenSum * 8 : hiddenSum }, span), state.unit)}`);
	}

	const groupList = new List<Group>(groupsBox, (g) => g.group, (first) => {
		const sum = h('em', {});
		const senders = h('div', {});
		const senderList = new List<Group['senders'][number]>(senders, (s) => s.src, () => {
			const name = h('b', {});
			const value = h('em', {});
			const box = h('div', { class: 'receivers' });
			const receivers = new List<Group['senders'][number]['receivers'][number]>(box, (r) => String(r.host), (r) => {
				const label = h('span', {});
				const fill = h('i', {});
				const share = h('em', {});
				const row = h('div', { class: 'share', 'data-receiver': r.host }, label, h('div', { class: 'track' }, fill), share);
				return {
					el: row,
					update: (x) => {
						text(label, hostName(feed.setup, x.host));
						style(fill, 'width', `${Math.min(100, 100 * (x.fraction ?? 0))}%`);
						toggle(row, 'bad', x.fraction !== null && x.fraction < 0.99);
						text(share, x.fraction === null ? '–' : percent(x.fraction));
						row.title = feed.matrix ? rate(rateOf(app, x.received, feed.matrix.window), state.unit) : '';
					},
				};
			});
			const nobody = h('p', { class: 'faint' });
			return {
				el: h('div', { class: 'sender' }, h('div', { class: 'sender-head' }, name, value), box, nobody),
				update: (s) => {
					text(name, place(feed.setup, s.src, s.host, feed.matrix?.names));
					name.title = s.src;
					text(value, feed.matrix ? rate(rateOf(app, s.once, feed.matrix.window), state.unit) : '');
					receivers.set(s.receivers);
					nobody.hidden = s.receivers.length > 0;
					text(nobody, 'No agent sees it arrive; agents report what they receive with -m dst or -m none.');
				},
			};
		});
		return {
			el: h('div', { class: 'group', 'data-group': first.group }, h('header', {}, h('h3', {}, place(feed.setup, first.group, -1, feed.matrix?.names)), sum), senders),
			update: (g) => {
				text(sum, feed.matrix ? rate(rateOf(app, g.once, feed.matrix.window), state.unit) : '');
				senderList.set(g.senders);
			},
		};
	});

	return {
		el,
		update() {
			const m = feed.matrix;
			const nothing = !m || m.cells.length === 0;
			empty.el.hidden = !nothing;
			matrixPanel.hidden = nothing;
			groupPanel.hidden = nothing || m!.groups.length === 0;
			if (nothing) empty.say(...whyNothing(app));
			else draw();
			groupList.set((m?.groups ?? []).slice(0, mostGroups));
			moreGroups.hidden = (m?.groups.length ?? 0) <= mostGroups;
			text(moreGroups, `${(m?.groups.length ?? 0) - mostGroups} lighter groups are not drawn.`);
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
