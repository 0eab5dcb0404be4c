import { Chart, rateOptions, type Line } from '../chart';
import { List, h, style, text, toggle } from '../dom';
import { matches, measure, rate } from '../format';
import type { FlowCounts } from '../model';
import type { App, Page, View } from '../view';
import {
	axisRange, gapsOf, colors, emptyState, flowName, hostName, swatch, times, total, values, whyNothing,
} from './common';

interface Bar { host: number; counts: FlowCounts }

/** Each flow: bars per host, now, over a strip chart. */
export const flows: View = { route: 'flows', title: 'Flows', overview: true, open };

function open(app: App): Page {
	const { state, feed } = app;
	const grid = h('div', { class: 'cards' });
	const charts = new Map<number, Chart>();
	const empty = emptyState();
	const back = h('button', { type: 'button', class: 'link', onclick: () => state.set({ flow: -1 }) }, 'All flows');
	const el = h('div', { class: 'page flows' }, back, empty.el, grid);

	const list = new List<number>(grid, String, (row) => {
		const mark = swatch('');
		const name = h('button', { type: 'button', class: 'title', title: 'Show only this flow', onclick: () => state.set({ flow: state.flow === row ? -1 : row }) });
		const detail = h('span', { class: 'detail' });
		const now = h('b', { class: 'now' });
		const strip = h('div', { class: 'columns' });
		const chart = new Chart({ height: 130, stacked: true, ...rateOptions(() => state.unit), label: `Flow ${flowName(feed.setup, row)} over time`, zoom: app.zoom });
		charts.set(row, chart);
		const secondary = h('span', { class: 'key' });
		let most = 1;
		const columns = new List<Bar>(strip, (b) => String(b.host), (bar) => {
			const low = h('i', {});
			const high = h('i', {});
			const label = h('span', {});
			const value = h('em', {});
			const column = h('div', { class: 'column', 'data-host': bar.host }, value, h('div', { class: 'well' }, high, low), label);
			return {
				el: column,
				update: ({ host, counts }) => {
					const c = colors(app, row);
					const p = measure(counts.primary, state.unit);
					const s = measure(counts.secondary, state.unit);
					style(low, 'background', c.primary);
					style(high, 'background', c.secondary);
					style(low, 'height', `${(100 * p) / most}%`);
					style(high, 'height', `${(100 * s) / most}%`);
					text(label, hostName(feed.setup, host));
					text(value, rate(p + s, state.unit));
					column.title = `${hostName(feed.setup, host)}: ${rate(p, state.unit)} primary, ${rate(s, state.unit)} relayed or secondary`;
				},
			};
		});
		return {
			el: h('section', { class: 'panel flow', 'data-row': row }, h('header', {}, mark, name, detail, now), strip, chart.el, secondary),
			update: () => {
				const c = colors(app, row);
				style(mark, 'background', c.primary);
				text(name, flowName(feed.setup, row));
				const what = feed.setup?.flows[row]?.detail ?? '';
				text(detail, (what === flowName(feed.setup, row) ? '' : what) + (feed.setup?.flows[row]?.former ? ' · no longer configured' : ''));
				const current = feed.current?.flows.find((f) => f.row === row);
				text(now, rate(current ? measure(total(current), state.unit) : 0, state.unit));
				const hosts = (feed.setup?.hosts ?? []).map((_, host): Bar => ({
					host,
					counts: feed.current?.hosts.find((x) => x.host === host)?.flows.find((f) => f.row === row) ?? { row, primary: zero, secondary: zero },
				}));
				const known = hosts.filter((b) => !feed.setup?.hosts[b.host]?.former || total(b.counts).packets > 0);
				const busy = known.length > 24 ? known.filter((b) => total(b.counts).packets > 0) : known;
				most = Math.max(1, ...busy.map((b) => measure(total(b.counts), state.unit)));
				columns.set(busy);
				toggle(strip, 'many', busy.length > 12);
				const o = feed.overview;
				if (!o) return;
				const f = o.flows.find((x) => x.row === row);
				if (!f) {
					chart.set(times(o.window), [], axisRange(o.window), gapsOf(app, o.window));
					return;
				}
				const lines: Line[] = [{ name: 'primary', color: c.primary, values: values(app, f.primarySeries, o.window, state.unit) }];
				const relayed = f.secondary.packets > 0;
				if (relayed) lines.push({ name: 'relayed or secondary', color: c.secondary, values: values(app, f.secondarySeries, o.window, state.unit) });
				chart.set(times(o.window), lines, axisRange(o.window), gapsOf(app, o.window));
				secondary.hidden = !relayed;
				if (relayed && !secondary.firstChild) secondary.append(swatch(c.primary), 'primary', swatch(c.secondary), 'relayed or secondary');
			},
		};
	});

	return {
		el,
		update() {
			const rows = (feed.setup?.flows ?? []).map((_, row) => row)
				.filter((row) => (state.flow >= 0 ? row === state.flow : !state.hidden.has(row) && matches(state.filter, flowName(feed.setup, row), feed.setup?.flows[row]?.detail)))
				.filter((row) => (feed.setup?.flows[row] && feed.setup.flows[row].id !== 'X' && !feed.setup.flows[row].former) || state.flow === row || feed.overview?.flows.some((f) => f.row === row));
			back.hidden = state.flow < 0;
			toggle(grid, 'solo', state.flow >= 0);
			const quiet = feed.overview !== null && feed.overview.flows.length === 0;
			empty.el.hidden = !quiet && feed.frame !== null;
			if (!empty.el.hidden) empty.say(...whyNothing(app));
			grid.hidden = quiet;
			list.set(rows);
		},
		table() {
			const o = feed.overview;
			if (!o) return [];
			const levels = o.flows.filter((f) => (state.flow < 0 || f.row === state.flow) && matches(state.filter, flowName(feed.setup, f.row))).flatMap((f) => [
				{ name: flowName(feed.setup, f.row), v: values(app, f.primarySeries, o.window, state.unit) },
				{ name: `${flowName(feed.setup, f.row)} relayed or secondary`, v: values(app, f.secondarySeries, o.window, state.unit) },
			]);
			return [['time', ...levels.map((l) => `${l.name} (${state.unit}/s)`)], ...times(o.window).map((t, i) => [t, ...levels.map((l) => l.v[i] ?? null)])];
		},
		destroy() { for (const c of charts.values()) c.destroy(); },
	};
}

const zero = { packets: 0, bits: 0 };
