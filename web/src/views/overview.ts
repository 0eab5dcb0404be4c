import { Chart, rateOptions } from '../chart';
import { List, h, style, text, toggle } from '../dom';
import { delay, matches, measure, moment, rate, seconds, short, whole } from '../format';
import type { FlowCounts, HostCounts } from '../model';
import type { App, Page, View } from '../view';
import {
	axisRange, gapsOf, badges, colors, emptyState, flowName, hostName, panel, primaryLine, problems, rateOf, swatch, times, total, values, whyNothing,
} from './common';
import { headline } from './headline';
import { wrong } from './wrong';

/** Everything at a glance. */
export const overview: View = { route: 'overview', title: 'Overview', overview: true, problems: true, map: true, open };

function open(app: App): Page {
	const { state, feed } = app;
	const figures = headline(app, 'delivered', 'worst', 'traffic', 'packets', 'flows', 'hosts', 'monitoring', 'history');

	const chart = new Chart({ height: 300, stacked: true, ...rateOptions(() => state.unit), label: 'Traffic over time, by flow', zoom: app.zoom });
	const legend = h('div', { class: 'legend' });
	const legendList = new List<number>(legend, String, (row) => {
		const mark = swatch('');
		const name = h('span', { class: 'legend-name' });
		const value = h('em', {});
		const el = h('button', { type: 'button', title: 'Show or hide', onclick: () => state.toggleFlow(row) }, mark, name, value);
		return {
			el,
			update: () => {
				style(mark, 'background', colors(app, row).primary);
				text(name, flowName(feed.setup, row));
				el.title = `${feed.setup?.flows[row]?.detail ?? ''}: show or hide`;
				const flow = feed.current?.flows.find((f) => f.row === row);
				text(value, rate(flow ? measure(total(flow), state.unit) : 0, state.unit));
				el.setAttribute('aria-pressed', String(!state.hidden.has(row)));
			},
		};
	});

	const bars = h('div', { class: 'bars', tabindex: 0, role: 'group', 'aria-label': 'Traffic of hosts' });
	const barNote = h('span', {});
	let most = 1;
	const barList = new List<HostCounts>(bars, (x) => String(x.host), (item) => {
		const name = h('span', { class: 'bar-name' });
		const track = h('div', { class: 'track' });
		const value = h('em', {});
		const parts = new List<FlowCounts>(track, (f) => String(f.row), () => {
			const el = h('i', {});
			return {
				el,
				update: (f) => {
					style(el, 'background', colors(app, f.row).primary);
					style(el, 'width', `${(100 * measure(total(f), state.unit)) / most}%`);
					el.title = `${flowName(feed.setup, f.row)}: ${rate(measure(total(f), state.unit), state.unit)}`;
				},
			};
		});
		return {
			el: h('div', { class: 'bar', 'data-host': item.host }, name, track, value),
			update: (x) => {
				text(name, hostName(feed.setup, x.host));
				const shown = x.flows.filter((f) => !state.hidden.has(f.row));
				parts.set(shown);
				text(value, rate(shown.reduce((sum, f) => sum + measure(total(f), state.unit), 0), state.unit));
			},
		};
	});

	const body = h('tbody', {});
	const rows = new List<number>(body, String, (host) => {
		const dot = h('i', { class: 'dot' });
		const name = h('b', {});
		const address = h('span', { class: 'address' });
		const status = h('td', { class: 'wide' });
		const statusText = h('span', { class: 'status' });
		const marks = h('span', { class: 'badges' });
		status.append(statusText, marks);
		const marksList = badges(marks);
		const cells = Array.from({ length: 6 }, () => h('td', { class: 'num' }));
		const losses = h('td', { class: 'num losses' });
		return {
			el: h('tr', { 'data-host': host }, h('td', { class: 'agent' }, dot, name, ' ', address), status, ...cells, losses),
			update: () => {
				const s = feed.frame?.hosts[host];
				if (!s) return;
				dot.className = `dot ${s.state}`;
				text(name, hostName(feed.setup, host));
				text(address, feed.setup?.hosts[host]?.address ?? '');
				text(statusText, s.state !== 'connected' ? s.status || s.state : feed.setup?.hosts[host]?.feed === 'log' ? 'log file' : 'connected');
				marksList.set(problems(s));
				const now = feed.current?.hosts.find((x) => x.host === host);
				const seen = now ? now.flows.reduce((sum, f) => sum + measure(total(f), state.unit), 0) : 0;
				const list = [
					s.state === 'connected' ? rate(seen, state.unit) : '–', whole(s.records),
					s.late ? whole(s.late) : '0', s.future ? whole(s.future) : '0',
					s.age === null ? '–' : delay(1000 * s.age),
					s.cpu === null ? '–' : `${s.cpu.toFixed(0)}\u202f%`,
				];
				cells.forEach((cell, i) => text(cell, list[i]!));
				toggle(cells[2]!, 'bad', s.late > 0);
				toggle(cells[3]!, 'bad', s.future > 0);
				const sum = s.losses.reduce((n, l) => n + l.count, 0);
				// A 28-byte feed can only be seen to have malformed records.
				const told = s.losses.some((l) => l.stage !== 'malformed' || l.count > 0);
				text(losses, !told ? 'not told' : sum === 0 ? '0' : s.losses.filter((l) => l.count).map((l) => `${l.stage} ${short(l.count)}`).join(', '));
				losses.title = !told ? 'The 28-byte feed does not report what the agent lost; see the agent\u2019s own summary.' : s.losses.map((l) => `${l.stage}: ${l.count}`).join('\n');
				toggle(losses, 'bad', sum > 0);
				toggle(losses, 'faint', !told);
			},
		};
	});
	const head = h('thead', {}, h('tr', {}, ...[
		['Agent', ''], ['State', ''], ['Now', 'num'], ['Records', 'num'], ['Late', 'num'], ['Future', 'num'], ['Age', 'num'], ['CPU', 'num'], ['Lost in transit', 'num'],
	].map(([name, cls]) => h('th', { class: cls, scope: 'col', title: headHelp[name!] }, name))));

	const problemList = wrong(app, 5);
	const empty = emptyState();
	const chartNote = h('span', {});
	const split = h('div', { class: 'split' },
		panel('Traffic by flow', chartNote, chart.el, legend),
		panel('Hosts', barNote, bars));
	const el = h('div', { class: 'page overview' },
		figures.el,
		problemList.el,
		empty.el,
		split,
		panel('Agents', null, h('div', { class: 'scroll' }, h('table', {}, head, body))));

	return {
		el,
		update() {
			figures.update();
			problemList.update();
			const { overview: o, current, frame, setup } = feed;
			if (!frame || !setup) {
				empty.el.hidden = false;
				empty.say(...whyNothing(app));
				return;
			}
			const nothing = !o || o.seen.packets + o.total.packets === 0;
			empty.el.hidden = !nothing || !o;
			if (nothing && o) empty.say(...whyNothing(app));
			split.hidden = nothing;

			const list = current ? [...current.hosts] : [];
			for (let i = 0; i < frame.hosts.length; i++) if (frame.hosts[i]!.state !== 'removed' && !list.some((x) => x.host === i)) list.push({ host: i, sent: zero, relayed: zero, received: zero, flows: [] });
			list.sort((a, b) => a.host - b.host);
			most = Math.max(1, ...list.map((x) => x.flows.filter((f) => !state.hidden.has(f.row)).reduce((sum, f) => sum + measure(total(f), state.unit), 0)));
			barList.set(list.filter((x) => matches(state.filter, hostName(setup, x.host), setup.hosts[x.host]?.address)));
			text(barNote, state.end === null ? 'as each sees it, now' : `as each sees it, ${moment(state.end - 1)}`);
			rows.set(frame.hosts.map((_, i) => i).filter((i) => frame.hosts[i]!.state !== 'removed' && matches(state.filter, hostName(setup, i), setup.hosts[i]?.address)));
			if (!o) return;
			chart.set(times(o.window), o.flows.filter((f) => !state.hidden.has(f.row)).map((f) => primaryLine(app, o, f)), axisRange(o.window), gapsOf(app, o.window));
			legendList.set(o.flows.map((f) => f.row));
			const mean = rateOf(app, o.total, o.window);
			text(chartNote, `${rate(mean, state.unit)} on average${o.window.step > 1 ? `, steps of ${seconds(o.window.step)}` : ''}`);
		},
		table() {
			const o = feed.overview;
			if (!o) return [];
			const levels = o.flows.flatMap((f) => [
				{ name: flowName(feed.setup, f.row), v: values(app, f.primarySeries, o.window, state.unit) },
				{ name: `${flowName(feed.setup, f.row)} secondary`, v: values(app, f.secondarySeries, o.window, state.unit) },
			]);
			return [
				['time', ...levels.map((l) => `${l.name} (${state.unit}/s)`)],
				...times(o.window).map((t, i) => [t, ...levels.map((l) => l.v[i] ?? null)]),
			];
		},
		destroy() { chart.destroy(); },
	};
}

const zero = { packets: 0, bits: 0 };
const headHelp: Record<string, string> = {
	Now: 'What the agent sees in the last second',
	Records: 'Records received since the collector started',
	Late: 'Records that arrived after their second had been published',
	Future: 'Records whose time was ahead of the collector\u2019s clock',
	Age: 'Age of the newest packet when its record arrived; negative if the host\u2019s clock is ahead',
	CPU: 'As the agent reports it with -stats',
	'Lost in transit': 'Records lost between the capture and the collector, by stage',
};
