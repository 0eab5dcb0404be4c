import { Calendar } from './calendar';
import { h, icon, style, text, toggle } from './dom';
import { Feed } from './feed';
import { bytes, clock, csv, date, day, moment, range, seconds, type Unit, unitNames, whole, windowName } from './format';
import { isDark } from './palette';
import { download, picture } from './picture';
import { ReplayBar } from './replay';
import { State, windows } from './state';
import { TimeBar } from './timebar';
import type { App, Page } from './view';
import { views } from './views';

const state = new State(views.map((v) => v.route));
const viewOf = (route: string) => views.find((v) => v.route === route)!;
let pending = 0;
const feed = new Feed(state, viewOf, () => {
	// Several answers in one turn are drawn once.
	if (!pending) pending = requestAnimationFrame(() => { pending = 0; update(); });
});
const timebar = new TimeBar(state, feed);
const calendar = new Calendar(state, feed);
const replay = new ReplayBar(feed);

const app: App = {
	state,
	feed,
	views,
	zoom(from, to) {
		const window = Math.max(2, Math.round(to) - Math.round(from) + 1);
		state.set({ window, end: Math.round(to) + 1 });
	},
};

// The frame around the views.

const tabs = views.map(({ route, title }, i) => {
	const el = h('a', { href: `#${route}`, class: 'tab', 'data-view': route, title: `${title} (${i + 1})` }, title);
	el.addEventListener('click', (e) => {
		if (e.ctrlKey || e.metaKey || e.shiftKey) return;
		e.preventDefault();
		state.set({ view: route });
	});
	return el;
});

function segmented<T extends string | number>(label: string, options: readonly T[], name: (v: T) => string, choose: (v: T) => void) {
	const buttons = options.map((v) => h('button', { type: 'button', 'data-value': v, onclick: () => choose(v) }, name(v)));
	const extra = h('button', { type: 'button', class: 'extra', hidden: true });
	return {
		el: h('div', { class: 'segmented', role: 'group', 'aria-label': label }, ...buttons, extra),
		set(value: T, offered: readonly T[] = options) {
			let found = false;
			buttons.forEach((b, i) => {
				const on = options[i] === value;
				b.hidden = !offered.includes(options[i]!) && !on;
				found ||= on;
				b.setAttribute('aria-pressed', String(on));
			});
			extra.hidden = found;
			extra.setAttribute('aria-pressed', 'true');
			if (!found) text(extra, name(value));
		},
	};
}

const unitShort: Record<Unit, string> = { bits: 'bit/s', bytes: 'B/s', packets: 'pkt/s' };
const units = segmented<Unit>('Unit', ['bits', 'bytes', 'packets'], (u) => unitShort[u], (unit) => state.set({ unit }));
/** 0 stands for all. */
const spans = segmented<number>('Window', [...windows, 0], windowName, (window) => (window ? state.set({ window }) : state.set({ whole: true, end: null })));
/** What is offered with a history in memory, of a day at most, and with one on disk. */
const short = windows.filter((w) => w <= 86400);
const long = [60, 300, 3600, 21600, 86400, 604800, 2592000, 0];

const playIcon = icon('M7 5l8 5-8 5z');
const pauseIcon = icon('M7.500 5v10M12.500 5v10');
const play = h('button', { type: 'button', class: 'play', onclick: pause }, playIcon, pauseIcon);
const live = h('button', { type: 'button', class: 'live', title: 'Go to now (L)', onclick: () => goLive() }, h('i', { class: 'pulse' }), h('span', {}, 'Live'));
const liveText = live.lastElementChild!;
const time = h('span', { class: 'time' });

const themeButton = h('button', { type: 'button', class: 'tool', title: 'Dark or light (T)', 'aria-label': 'Dark or light', onclick: switchTheme }, icon('M10 3a7 7 0 1 0 0 14z', 'M10 3a7 7 0 1 1 0 14'));
const csvButton = h('button', { type: 'button', class: 'tool label', title: 'Download this view as CSV (C)', onclick: saveCSV }, icon('M10 4v8m-3.500-3.500L10 12l3.500-3.500M4 16h12'), 'CSV');
const pngButton = h('button', { type: 'button', class: 'tool label', title: 'Download this view as PNG (P)', onclick: savePNG }, icon('M10 4v8m-3.500-3.500L10 12l3.500-3.500M4 16h12'), 'PNG');
const filter = h('input', { type: 'search', class: 'filter', placeholder: 'Filter', title: 'Hosts, addresses, flows, ports: all words must be there, in every view (/)', 'aria-label': 'Filter all views', maxlength: 100 });
filter.addEventListener('input', () => state.set({ filter: filter.value }));
const helpButton = h('button', { type: 'button', class: 'tool', title: 'Keys (?)', 'aria-label': 'Keys', onclick: openHelp }, icon('M7.500 7.500a2.500 2.500 0 1 1 3.600 2.200c-.8.4-1.100.9-1.100 1.800M10 14.500v.1'));

const main = h('main', { id: 'view', tabindex: -1 });
const linkText = h('span', {});
const link = h('div', { class: 'link-state', role: 'status' }, h('i', { class: 'dot' }), linkText);
const footText = h('span', {});
const notice = h('div', { class: 'notice', role: 'alert', hidden: true });

const keys: [string, string][] = [
	[`1 – ${views.length}`, views.map((v) => v.title).join(', ')],
	['Space', 'pause, or resume live'],
	['← →', 'back and forward in time (with Shift: by a whole window)'],
	['+ −', 'shorter or longer window'],
	['L', 'now'],
	['D', 'go to a day or time'],
	['U', 'bits, bytes, or packets'],
	['T', 'dark or light'],
	['C  P', 'download this view as CSV or PNG'],
	['/', 'filter hosts and flows in all views'],
	['A', 'show all flows again'],
	['↑ ↓ Enter', 'select a row of a table'],
	['→ ←', 'in a table: unfold or fold a row'],
	['R', 'replay: pause or resume'],
	['[ ]', 'replay: slower, faster'],
	['N', 'replay: skip to the next traffic'],
	['?', 'this help'],
	['Esc', 'close this, or leave the filter'],
];
const help = h('dialog', { class: 'help', 'aria-label': 'Keys' },
	h('h2', {}, 'Keys'),
	h('dl', {}, ...keys.flatMap(([k, what]) => [h('dt', {}, ...k.split(' ').map((part) => (part === '–' ? h('span', {}, '–') : h('kbd', {}, part)))), h('dd', {}, what)])),
	h('p', {}, 'Drag in a chart to zoom, drag the handle of the time strip to go back. This page\u2019s address restores what you see. Its data is available under /api/v1/, and Prometheus metrics under /metrics.'),
	h('form', { method: 'dialog' }, h('button', { class: 'primary' }, 'Close')));

const heading = h('h1', { class: 'unseen' });

document.getElementById('app')!.append(
	h('header', { class: 'top' },
		h('a', { class: 'brand', href: `#${state.home}`, title: 'PCapper' }, logo(), h('b', {}, 'PCapper')), heading,
		h('nav', { class: 'tabs', 'aria-label': 'Views' }, ...tabs),
		h('div', { class: 'tools' }, filter, units.el, csvButton, pngButton, themeButton, helpButton)),
	h('section', { class: 'when', 'aria-label': 'Time' }, h('div', { class: 'player' }, play, live, time, calendar.el), timebar.el, spans.el),
	replay.el, notice, main,
	h('footer', { class: 'bottom' }, link, footText), help);

function logo(): SVGElement {
	const svg = icon('M2 12.500h3L7.300 5l3.800 11 2.400-6H18');
	svg.setAttribute('class', 'logo');
	return svg;
}

// What keys and buttons do.

function goLive(): void {
	if (state.whole) return;
	state.set({ end: null, window: windows.includes(state.window) ? state.window : windows.find((w) => w >= state.window) ?? 300 });
}

function pause(): void {
	if (state.end !== null) goLive();
	else if (feed.frame) state.set({ window: state.window, end: feed.frame.complete + 1 });
}

function zoomBy(direction: number): void {
	const sorted = direction > 0 ? windows.filter((w) => w > state.window) : windows.filter((w) => w < state.window).reverse();
	if (sorted[0]) state.set({ window: sorted[0] });
}

function switchTheme(): void {
	const theme = isDark() ? 'light' : 'dark';
	document.documentElement.dataset.theme = theme;
	if (state.theme) state.set({ theme });
	try {
		localStorage.setItem('pcapper-theme', theme);
	} catch {
		// Then it lasts as long as the page.
	}
	update();
}

function fileName(ending: string): string {
	const t = state.end ?? (feed.frame?.complete ?? 0) + 1;
	return `pcapper-${state.view}-${day(t)}-${clock(t).replaceAll(':', '')}.${ending}`;
}

function saveCSV(): void {
	if (page) download(new Blob([csv(page.table())], { type: 'text/csv' }), fileName('csv'));
}

function savePNG(): void {
	if (!page) return;
	const t = state.end ?? (feed.frame?.complete ?? 0) + 1;
	picture(page.el, `PCapper · ${viewOf(state.view).title} · ${day(t)} ${clock(t)} · ${seconds(state.window)} · ${unitNames[state.unit]}`)
		.then((blob) => download(blob, fileName('png')))
		.catch((err: unknown) => say(`The picture could not be made: ${String(err)}`));
}

function openHelp(): void {
	if (!help.open) help.showModal();
}

function say(what: string): void {
	text(notice, what);
	notice.hidden = !what;
}

addEventListener('keydown', (e) => {
	if (e.ctrlKey || e.metaKey || e.altKey || help.open) return;
	const target = e.target as HTMLElement;
	if (target instanceof HTMLInputElement) {
		if (e.key === 'Escape') {
			if (target.value) state.set({ filter: '' });
			target.value = '';
			target.blur();
		}
		return;
	}
	const number = Number(e.key);
	const unitList: Unit[] = ['bits', 'bytes', 'packets'];
	if (number >= 1 && number <= views.length) state.set({ view: views[number - 1]!.route });
	else if (e.key === ' ' && !(target instanceof HTMLButtonElement)) pause();
	else if (e.key === 'ArrowLeft') timebar.step(e.shiftKey ? -1 : -0.1);
	else if (e.key === 'ArrowRight') timebar.step(e.shiftKey ? 1 : 0.1);
	else if (e.key === '+' || e.key === '=') zoomBy(-1);
	else if (e.key === '-' || e.key === '_') zoomBy(1);
	else if (e.key === 'd' || e.key === 'D') calendar.toggle();
	else if (e.key === 'r' || e.key === 'R') replay.toggle();
	else if (e.key === '[') replay.steer('slower');
	else if (e.key === ']') replay.steer('faster');
	else if (e.key === 'n' || e.key === 'N') replay.steer('next');
	else if (e.key === 'l' || e.key === 'L') goLive();
	else if (e.key === 'u' || e.key === 'U') state.set({ unit: unitList[(unitList.indexOf(state.unit) + 1) % 3]! });
	else if (e.key === 't' || e.key === 'T') switchTheme();
	else if (e.key === 'c' || e.key === 'C') saveCSV();
	else if (e.key === 'p' || e.key === 'P') savePNG();
	else if (e.key === 'a' || e.key === 'A') state.showAll();
	else if (e.key === '/') filter.focus();
	else if (e.key === '?') openHelp();
	else if (e.key === 'Escape' && state.flow >= 0) state.set({ flow: -1 });
	else return;
	e.preventDefault();
});

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => update());

// Drawing.

let page: Page | null = null;
let shownView = '';
let shownRun = '';

function show(): void {
	// Another run may have other hosts and flows; the first setup to arrive is no
	// reason to draw everything anew.
	const run = feed.setup?.run ?? shownRun;
	if (page && shownView === state.view && (shownRun === run || shownRun === '')) {
		shownRun = run;
		return;
	}
	page?.destroy?.();
	if (shownView !== state.view) main.scrollTop = 0;
	shownView = state.view;
	shownRun = run;
	page = viewOf(state.view).open(app);
	main.replaceChildren(page.el);
}

function update(): void {
	show();
	for (const tab of tabs) {
		const on = tab.dataset.view === state.view;
		if (on) tab.setAttribute('aria-current', 'page');
		else tab.removeAttribute('aria-current');
	}
	units.set(state.unit);
	if (document.activeElement !== filter) filter.value = state.filter;
	toggle(filter, 'on', state.filter !== '');
	spans.set(state.whole ? 0 : state.window, feed.frame?.store.archive ? long : short);
	const paused = state.end !== null;
	toggle(document.body, 'paused', paused);
	play.setAttribute('aria-label', paused ? 'Go on' : 'Pause');
	play.title = paused ? 'Go on (Space)' : 'Pause (Space)';
	const t = state.end ?? (feed.frame ? feed.frame.complete + 1 : 0);
	const quiet = feed.arrived ? (performance.now() - feed.arrived) / 1000 : 0;
	const stalled = feed.link === 'live' && quiet > 4;
	const bad = feed.link === 'broken' || stalled;
	toggle(document.body, 'broken', bad);
	toggle(document.body, 'archived', feed.frame?.store.archive != null);
	toggle(document.body, 'waiting', feed.link === 'connecting');
	text(liveText, paused ? 'Go live' : feed.link === 'live' ? 'Live' : feed.link === 'broken' ? 'Offline' : 'Connecting');
	text(time, t ? (paused ? range(t - state.window, t) : state.whole ? `since ${date(t - state.window)}` : moment(t)) : '');
	time.title = t ? `${day(t)}: ${timebar.title()}` : '';
	toggle(main, 'busy', feed.busy);
	main.setAttribute('aria-busy', String(feed.busy));
	timebar.draw();
	replay.draw();
	page!.update();
	link.className = `link-state ${bad ? 'failed' : feed.link === 'live' ? 'connected' : 'dialling'}`;
	text(linkText, feed.link === 'broken' ? 'Connection to recollect lost; reconnecting'
		: stalled ? `No news for ${seconds(quiet)}` : feed.link === 'live' ? 'Connected' : 'Connecting');
	const words: string[] = [];
	if (feed.frame) {
		const s = feed.frame.store;
		words.push(`${whole(s.records)} records`, s.archive ? `${bytes(s.memory)} of history in memory` : `history ${bytes(s.memory)} of ${bytes(s.budget)} in memory`);
		if (s.archive) words.push(`${bytes(s.archive.size)} of ${bytes(s.archive.most)} on disk`);
		if (s.archive?.damaged) words.push(`${whole(s.archive.damaged)} damaged files`);
		if (s.lost) words.push(`${whole(s.lost)} lost by the collector`);
		if (s.forgotten) words.push(`${whole(s.forgotten)} small entries merged into Other`);
	}
	if (feed.skipped) words.push(`${whole(feed.skipped)} ${feed.skipped === 1 ? 'update' : 'updates'} skipped by this page`);
	if (feed.setup) words.push(`recollect ${feed.setup.version}`);
	text(footText, words.join(' · '));
	const notices: string[] = [];
	if (feed.link === 'broken') notices.push('Connection to recollect lost. You see the last data received; the page reconnects by itself.');
	if (performance.now() - feed.skippedAt < 15_000) notices.push(`Updates are skipped (${whole(feed.skipped)} so far), as this page cannot keep up. The charts are complete.`);
	const archive = feed.frame?.store.archive;
	if (archive?.error) {
		notices.push(archive.full ? `The disk is full: history is not kept (${whole(archive.lost)} parts lost so far). Free some space; the collector keeps trying.`
			: `History cannot be written: ${archive.error}`);
	}
	if (feed.problem && feed.link !== 'broken') notices.push(`The collector says: ${feed.problem}`);
	say(notices.join(' '));
	text(heading, viewOf(state.view).title);
	document.title = `${viewOf(state.view).title} – PCapper`;
	style(document.documentElement, '--tabs', String(views.length));
}

state.onChange(() => {
	if (state.theme) document.documentElement.dataset.theme = state.theme;
	feed.follow();
	update();
});
feed.start();
update();
