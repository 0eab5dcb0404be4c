import { List, h, style, text, toggle } from '../dom';
import { flowKey } from '../feed';
import { covered, percent, protocol, rate, short, whole } from '../format';
import { type Look, MapCanvas } from '../map/canvas';
import { arrange, Places, type Point } from '../map/layout';
import { build, clusters, delivered, type Dot, type Line, mostNodes, type Scene } from '../map/scene';
import type { Brief } from '../model';
import { sideColors } from '../palette';
import type { App, Page, View } from '../view';
import { colors, emptyState, flowName, panel, swatch, whyNothing } from './common';
import { headline } from './headline';
import { wrong } from './wrong';

/** Where everything goes, and where it is lost. */
export const map: View = { route: 'map', title: 'Map', overview: true, problems: true, map: true, paths: true, open };

/** How many flows are listed beside the map. */
const mostFlows = 8;

function storage(): Storage | null {
	try {
		return localStorage;
	} catch {
		return null; // forbidden by the browser's settings
	}
}

function open(app: App): Page {
	const { state, feed } = app;
	const places = new Places(storage());
	const placed = new Map<string, Point>(places.at);
	const opened = new Set<string>();
	let scene: Scene = { dots: [], lines: [] };
	let arranged = false;
	let seconds = 1;

	const name = (b: { row: number; mgen?: number }): string => (feed.setup?.flows[b.row]?.id === 'X' && b.mgen !== undefined ? `MGEN ${b.mgen}` : flowName(feed.setup, b.row));
	const ends = (b: Brief): string => `${b.src_name ?? b.src} → ${b.dst_name ?? b.dst}`;
	const look: Look = {
		color: (row) => colors(app, row).primary,
		rate: (line) => (8 * line.bytes) / seconds,
		tell: (what) => ('id' in what ? tellDot(what) : tellLine(what)),
		choose(dot) {
			if (dot && dot.nodes.length > 1) {
				opened.add(dot.id.slice(1));
				draw();
			} else state.set({ pick: dot && state.pick !== `@${dot.id}` ? `@${dot.id}` : '' });
		},
		moved(id, to) {
			placed.set(id, to);
			places.at.set(id, to);
			keepSoon();
		},
	};
	let keeping = 0;
	const keepSoon = (): void => {
		clearTimeout(keeping);
		keeping = window.setTimeout(() => { places.keep(); draw(); }, 300);
	};
	const canvas = new MapCanvas(look);

	function tellDot(d: Dot): string[] {
		const rates = (['sent', 'relayed', 'received'] as const).map((side) => `${side} ${rate(d[side] / seconds, 'bits')}`);
		return [d.label, ...(d.down ? ['its agent is not connected: nothing is known of it'] : []), ...rates,
			...(d.role ? [`${d.role} of the chosen flow`] : []), ...(d.share !== null ? [`receives ${percent(d.share)}`] : []),
			...(d.drops.lost ? [`lost inside, or behind it: ${whole(d.drops.lost)} packets (${percent(d.drops.share)})`] : []),
			...(d.nodes.length > 1 ? [`${d.nodes.length} hosts; click to see them`] : [])];
	}
	function tellLine(l: Line): string[] {
		const label = (id: string) => scene.dots.find((d) => d.id === id)?.label ?? id;
		return [`${label(l.from)} → ${label(l.to)}`, feed.setup ? `mostly ${flowName(feed.setup, l.row)}` : '', `${rate((8 * l.bytes) / seconds, 'bits')}, ${whole(l.packets)} packets`,
			l.lost ? `lost ${whole(l.lost)} packets (${percent(l.loss)})` : 'nothing lost', ...(l.old ? ['an earlier way of the flow'] : [])];
	}

	// Beside the map: flows to choose from. The names of dots are there for keys and for those who do not see the canvas.
	const flowBox = h('div', { class: 'map-flows' });
	const flowList = new List<Brief>(flowBox, flowKey, (first) => {
		const mark = swatch('');
		const what = h('b', {});
		const way = h('span', { class: 'way' });
		const part = h('em', {});
		const note = h('small', { class: 'bad' });
		const key = flowKey(first);
		const el = h('button', { type: 'button', 'data-flow': key, onclick: () => state.set({ pick: state.pick === key ? '' : key }) }, mark, what, part, way, note);
		return {
			el,
			update: (b) => {
				style(mark, 'background', colors(app, b.row).primary);
				text(what, name(b));
				text(way, ends(b));
				const d = delivered(b);
				text(part, d === null ? '–' : percent(d));
				toggle(part, 'bad', d !== null && d < 0.99);
				el.title = `${b.src} port ${b.src_port ?? '–'} to ${b.dst} port ${b.dst_port ?? '–'}, ${protocol(b.proto)}: ${whole(b.packets)} packets since it began`
					+ (d === null ? '; whether they arrive is not observed' : `; ${whole(b.lost)} of ${whole(b.delivered + b.lost)} did not arrive`);
				text(note, b.silent ? `${b.silent} of ${b.members} members receive${b.silent === 1 ? 's' : ''} nothing` : b.changes ? `its way changed ${b.changes === 1 ? 'once' : `${short(b.changes)} times`}` : '');
				toggle(note, 'bad', !!b.silent);
				el.setAttribute('aria-pressed', String(state.pick === key));
			},
		};
	});
	const dotBox = h('ul', { class: 'hidden-list', 'aria-label': 'Hosts on the map' });
	const dotList = new List<Dot>(dotBox, (d) => d.id, (first) => {
		const button = h('button', { type: 'button', onclick: () => look.choose(scene.dots.find((d) => d.id === first.id) ?? null) });
		return {
			el: h('li', { 'data-dot': first.id }, button),
			update: (d) => {
				const at = canvas.where(d.id);
				button.dataset.at = at ? `${Math.round(at.x)},${Math.round(at.y)}` : '';
				text(button, [d.label, ...(d.down ? ['not connected'] : []), ...(d.silent ? ['receives nothing'] : d.share !== null ? [percent(d.share)] : []), ...(d.role ? [d.role] : [])].join(', '));
				button.setAttribute('aria-pressed', String(state.pick === `@${d.id}`));
			},
		};
	});

	const note = h('span', {});
	const back = h('button', { type: 'button', class: 'tool', onclick: () => state.set({ pick: '' }) }, 'Show all');
	const fold = h('button', { type: 'button', class: 'tool', title: 'Draw the hosts of a subnet as one again', onclick: () => { opened.clear(); draw(); canvas.fit(); } }, 'Fold groups');
	const tools = h('div', { class: 'map-tools' }, back, fold,
		h('button', { type: 'button', class: 'tool', title: 'Closer', 'aria-label': 'Closer', onclick: () => canvas.zoom(1.3) }, '+'),
		h('button', { type: 'button', class: 'tool', title: 'Farther', 'aria-label': 'Farther', onclick: () => canvas.zoom(1 / 1.3) }, '−'),
		h('button', { type: 'button', class: 'tool', title: 'Show all of the map', onclick: () => canvas.fit() }, 'Fit'),
		h('button', { type: 'button', class: 'tool', title: 'Place all hosts anew, also those that were dragged', onclick: () => { places.forget(); placed.clear(); arranged = false; draw(); canvas.fit(); } }, 'Arrange'));
	const sides = ['sent', 'relayed', 'received'] as const;
	const sideMarks = sides.map(() => h('i', { class: 'swatch' }));
	const key = h('div', { class: 'map-key' },
		...sides.map((side, i) => h('span', {}, sideMarks[i], side)),
		h('span', {}, h('i', { class: 'dashes' }), 'dashed: loses packets'), h('span', {}, h('i', { class: 'cross' }, '×'), 'drops, or receives nothing'),
		h('span', {}, h('i', { class: 'hollow' }), 'hollow: idle, or only overhears'));
	const legend = h('div', { class: 'legend' });
	const legendList = new List<number>(legend, String, (row) => {
		const mark = swatch('');
		const label = h('span', { class: 'legend-name' });
		const el = h('button', { type: 'button', title: 'Show or hide', onclick: () => state.toggleFlow(row) }, mark, label);
		return {
			el,
			update: () => {
				style(mark, 'background', colors(app, row).primary);
				text(label, flowName(feed.setup, row));
				el.setAttribute('aria-pressed', String(!state.hidden.has(row)));
			},
		};
	});
	const empty = emptyState();
	const figures = headline(app, 'delivered', 'worst', 'traffic', 'hosts', 'monitoring');
	const problemList = wrong(app, 5);
	const mapPanel = panel('Who sends where', note, tools, canvas.el, dotBox, key, legend);
	mapPanel.classList.add('map-panel');
	const flowNote = h('span', {});
	const flowPanel = panel('Flows, the worst first', flowNote, flowBox);
	const el = h('div', { class: 'page map' }, figures.el, empty.el, h('div', { class: 'map-split' }, problemList.el, mapPanel, flowPanel));

	function chosen() {
		if (!state.pick || state.pick.startsWith('@')) return null;
		const flow = feed.picked?.flows.find((f) => flowKey(f) === state.pick);
		const brief = feed.briefs?.flows.find((f) => flowKey(f) === state.pick);
		return flow ? { flow, row: brief?.row ?? 0 } : null;
	}

	/** Places what has no place yet; the first time once it is known who talks to whom. */
	function place(): void {
		const missing = scene.dots.filter((d) => !placed.has(d.id));
		if (!missing.length && arranged) return;
		const links = scene.lines.map((l) => ({ from: l.from, to: l.to, weight: Math.min(1, Math.max(0.1, Math.log10(1 + (8 * l.bytes) / seconds) / 7)) }));
		if (missing.length) {
			const groups = clusters(feed.setup!.hosts.map((host) => ({ name: host.label, address: host.address })));
			const near = (id: string): Point | undefined => placed.get(`/${groups.get(id) ?? ''}`);
			for (const [id, at] of arrange(scene.dots.map((d) => d.id), links, placed, near)) placed.set(id, at);
		}
		if (!arranged && links.length > 0 && !state.pick) {
			// They stood where they were put before anything was known of links.
			const first = arrange(scene.dots.map((d) => d.id), links, places.at);
			for (const [id, at] of first) placed.set(id, at);
			arranged = true;
			canvas.fit();
		}
	}

	function draw(): void {
		const { setup, frame } = feed;
		if (!setup || !frame) return;
		const span = feed.map;
		seconds = Math.max(1, span ? span.to - span.from : 1);
		const counted = feed.overview ? covered(feed.overview.window, frame.oldest) : 1;
		const by = seconds / counted; // rings and lines are of about the same time
		const scale = (c: { packets: number; bits: number }) => ({ packets: c.packets * by, bits: c.bits * by });
		scene = build({
			setup, map: span ?? { from: 0, to: 0, sampled: 1, nodes: [], links: [], delivery: [] },
			counts: (feed.overview?.hosts ?? []).map((c) => ({ ...c, sent: scale(c.sent), relayed: scale(c.relayed), received: scale(c.received) })),
			down: (host) => state.end === null && frame.hosts[host]?.state !== 'connected', hidden: state.hidden, open: opened, chosen: chosen(),
		});
		place();
		const focus = state.pick.startsWith('@') ? state.pick.slice(1) : '';
		const lossyLines = scene.lines.filter((l) => l.lost >= 3 && l.loss >= 0.005).length;
		canvas.set(scene, placed, scene.dots.some((d) => d.id === focus) ? focus : '', `Map of ${scene.dots.length} hosts and ${scene.lines.length} links, of which ${lossyLines} lose packets`);
		canvas.el.dataset.links = String(scene.lines.length);
		canvas.el.dataset.lossy = String(lossyLines);
		dotList.set([...scene.dots].sort((a, b) => Number(b.nodes.length > 1) - Number(a.nodes.length > 1)).slice(0, 100));
		fold.hidden = opened.size === 0;
		back.hidden = !state.pick;
	}

	return {
		el,
		update() {
			figures.update();
			problemList.update();
			const { setup, frame } = feed;
			if (!setup || !frame) {
				empty.el.hidden = false;
				empty.say(...whyNothing(app));
				return;
			}
			const c = sideColors();
			sides.forEach((side, i) => style(sideMarks[i]!, 'background', c[side]));
			const nothing = !!feed.overview && feed.overview.seen.packets + feed.overview.total.packets === 0;
			empty.el.hidden = !nothing;
			if (nothing) empty.say(...whyNothing(app));
			if (!canvas.busy) draw();
			const pick = chosen();
			const brief = feed.briefs?.flows.find((b) => flowKey(b) === state.pick);
			const hosts = scene.dots.reduce((n, d) => n + d.nodes.length, 0);
			text(note, pick && brief ? `${name(brief)}: ${ends(brief)}` : !feed.map?.to ? (feed.map ? 'no packets can be followed in this time' : 'loading')
				: `${hosts} ${hosts === 1 ? 'host' : 'hosts'}${hosts > mostNodes ? ` in ${scene.dots.length} places` : ''}, as of the last ${whole(seconds)} s that are known`);
			const list = (feed.briefs?.flows ?? []).filter((b) => !state.hidden.has(b.row));
			const picked = list.find((b) => flowKey(b) === state.pick);
			const shown = list.slice(0, mostFlows);
			if (picked && !shown.includes(picked)) shown.push(picked);
			flowList.set(shown);
			flowPanel.hidden = !list.length && !!feed.briefs;
			text(flowNote, list.length > mostFlows ? `${mostFlows} of ${list.length + (feed.briefs?.more ?? 0)}` : 'delivered since they began');
			legendList.set((feed.overview?.flows ?? []).map((f) => f.row));
		},
		table() {
			return [['from', 'to', 'flow', 'packets', 'bytes', 'lost packets'],
				...(feed.map?.links ?? []).flatMap((l) => l.flows.map((f) => [l.from, l.to, flowName(feed.setup, f.row), f.packets, f.bytes, f.lost]))];
		},
		destroy() {
			clearTimeout(keeping);
			canvas.destroy();
		},
	};
}
