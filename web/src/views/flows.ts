import { Chart, rateOptions, type Line } from '../chart';
import { List, h, style, text, toggle } from '../dom';
import { measure, rate } from '../format';
import type { FlowCounts } from '../model';
import type { App, Page, View } from '../view';
import {
	axisRange, colors, emptyState, flowName, hostName, swatch, times, total, values, whyNothing,
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
					chart.set(times(o.window), [], axisRange(o.window), o.window.gaps);
					return;
				}
				const lines: Line[] = [{ name: 'primary', color: c.primary, values: values(app, f.primarySeries, o.window, state.unit) }];
				const relayed = f.secondary.packets > 0;
				if (relayed) lines.push({ name: 'relayed or secondary', color: c.secondary, values: values(app, f.secondarySeries, o.window, state.unit) });
				chart.set(times(o.window), lines, axisRange(o.window), o.window.gaps);
				secondary.hidden = !relayed;
				if (relayed && !secondary.firstChild) secondary.append(swatch(c.primary), 'primary', swatch(c.secondary), 'relayed or secondary');
			},
		};
	});

	return {
		el,
		update() {
			const rows = (feed.setup?.flows ?? []).map((_, row) => row)
				.filter((row) => (state.flow >= 0 ? row === state.flow : !state.hidden.has(row) || false))
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
			const out: (string | number | null)[][] = [['flow', 'host', `primary (${state.unit}/s)`, `secondary (${state.unit}/s)`]];
			for (const host of feed.current?.hosts ?? []) {
				for (const f of host.flows) out.push([flowName(feed.setup, f.row), hostName(feed.setup, host.host), measure(f.primary, state.unit), measure(f.secondary, state.unit)]);
			}
			return out;
		},
		destroy() { for (const c of charts.values()) c.destroy(); },
	};
}

const zero = { packets: 0, bits: 0 };
