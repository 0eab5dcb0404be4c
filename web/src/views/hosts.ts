import { Chart, rateOptions } from '../chart';
import { List, h, style, text } from '../dom';
import { bytes, delay, matches, measure, rate, whole } from '../format';
import type { FlowCounts, HostView } from '../model';
import { sideColors } from '../palette';
import type { App, Page, View } from '../view';
import {
	axisRange, gapsOf, badges, colors, emptyState, flowName, hostName, problems, rateOf, swatch, times, total, values, whyNothing,
} from './common';
import { keptWords } from './kept';

/** How many hosts are drawn at once; the filter finds the others. */
const most = 60;

const sides = ['sent', 'relayed', 'received'] as const;

/** Each agent's host: what it sends, relays and receives, and how it is. */
export const hosts: View = { route: 'hosts', title: 'Hosts', topic: 'hosts', open };

function open(app: App): Page {
	const { state, feed } = app;
	const grid = h('div', { class: 'cards' });
	const charts: Chart[] = [];
	const empty = emptyState();
	const more = h('span', { class: 'rest' });
	const bar = h('div', { class: 'bar-above' }, more);
	const el = h('div', { class: 'page hosts' }, empty.el, bar, grid);
	const view = (host: number): HostView | undefined => feed.hosts?.hosts.find((x) => x.host === host);

	const list = new List<number>(grid, String, (host) => {
		const dot = h('i', { class: 'dot' });
		const name = h('h2', {});
		const address = h('span', { class: 'detail' });
		const marks = h('span', { class: 'badges' });
		const marksList = badges(marks);
		const chart = new Chart({ height: 120, stacked: true, ...rateOptions(() => state.unit), label: `Traffic of ${hostName(feed.setup, host)} over time`, zoom: app.zoom });
		charts.push(chart);
		const numbers = sides.map((side) => {
			const value = h('b', {});
			const mark = swatch('');
			return { side, value, mark, el: h('div', { class: 'side', 'data-side': side }, h('span', {}, mark, side), value) };
		});
		const flowBox = h('div', { class: 'shares' });
		let sum = 1;
		const shares = new List<FlowCounts>(flowBox, (f) => String(f.row), (item) => {
			const fill = h('i', {});
			const label = h('span', {});
			const value = h('em', {});
			return {
				el: h('div', { class: 'share', 'data-row': item.row }, label, h('div', { class: 'track' }, fill), value),
				update: (f) => {
					style(fill, 'background', colors(app, f.row).primary);
					style(fill, 'width', `${(100 * measure(total(f), state.unit)) / sum}%`);
					text(label, flowName(feed.setup, f.row));
					text(value, feed.hosts ? rate(rateOf(app, total(f), feed.hosts.window), state.unit) : '');
				},
			};
		});
		const foot = h('footer', {});
		return {
			el: h('section', { class: 'panel host', 'data-host': host },
				h('header', {}, dot, name, address, marks), h('div', { class: 'sides' }, ...numbers.map((n) => n.el)), chart.el, flowBox, foot),
			update: () => {
				const s = feed.frame?.hosts[host];
				const v = view(host);
				const c = sideColors();
				text(name, hostName(feed.setup, host));
				text(address, feed.setup?.hosts[host]?.address ?? '');
				if (s) {
					dot.className = `dot ${s.state}`;
					marksList.set(problems(s));
					const words = [s.state === 'connected' ? `${whole(s.records)} records` : s.status || s.state];
					if (s.age !== null) words.push(`age ${delay(1000 * s.age)}`);
					if (s.late) words.push(`${whole(s.late)} late`);
					if (s.future) words.push(`${whole(s.future)} from the future`);
					if (s.cpu !== null) words.push(`CPU ${s.cpu.toFixed(0)}\u202f%`);
					if (s.memory !== null) words.push(`memory ${bytes(s.memory)}`);
					words.push(...keptWords(s.detail));
					text(foot, words.join(' · '));
				} else {
					dot.className = 'dot';
					text(foot, 'no longer configured; shown from history');
				}
				const window = feed.hosts?.window;
				const span = window && v ? { ...window, gaps: v.gaps } : window;
				for (const n of numbers) {
					style(n.mark, 'background', c[n.side]);
					text(n.value, span && (v || s?.state === 'connected') ? rate(v ? rateOf(app, v[n.side], span) : 0, state.unit) : '–');
				}
				if (!span) return;
				chart.set(times(span), v ? sides.filter((side) => v[side].packets > 0).map((side) => ({
					name: side, color: c[side], values: values(app, v[`${side}Series`], span, state.unit),
				})) : [], axisRange(span), gapsOf(app, span));
				const shown = (v?.flows ?? []).filter((f) => total(f).packets > 0).sort((a, b) => a.row - b.row).slice(0, 12);
				sum = Math.max(1, ...shown.map((f) => measure(total(f), state.unit)));
				shares.set(shown);
			},
		};
	});

	return {
		el,
		update() {
			const q = state.filter;
			const all = feed.setup?.hosts ?? [];
			const found = all.map((_, i) => i).filter((i) => !all[i]!.former || view(i)).filter((i) => matches(q, hostName(feed.setup, i), all[i]!.label, all[i]!.address));
			text(more, found.length > most ? `${most} of ${found.length} hosts are drawn` : q ? `${found.length} of ${all.length} hosts` : '');
			bar.hidden = more.textContent === '';
			const none = !all.some((_, i) => !all[i]!.former || view(i));
			empty.el.hidden = feed.frame !== null && !none && found.length > 0;
			if (!feed.frame || none) empty.say(...whyNothing(app));
			else if (!found.length) empty.say('No host matches the filter', 'Press / to change it, and Escape in it to clear it.');
			list.set(found.slice(0, most));
		},
		table() {
			const span = feed.hosts?.window;
			if (!span) return [];
			const lines = (feed.hosts?.hosts ?? []).flatMap((v) => sides.map((side) => ({
				name: `${hostName(feed.setup, v.host)} ${side} (${state.unit}/s)`, v: values(app, v[`${side}Series`], { ...span, gaps: v.gaps }, state.unit),
			})));
			return [['time', ...lines.map((l) => l.name)], ...times(span).map((t, i) => [t, ...lines.map((l) => l.v[i] ?? null)])];
		},
		destroy() { for (const c of charts) c.destroy(); },
	};
}
