import { List, h, text, toggle } from '../dom';
import { moment, whole } from '../format';
import type { App, Page, View } from '../view';
import { panel } from './common';

/** GET /api/v1/ledger. */
interface Ledger {
	closes: boolean;
	error: string;
	entries: Entry[];
	health: Health[];
}
interface Entry {
	stage: string;
	name: string;
	unit: string;
	received: number;
	passed: number;
	lost: { reason: string; count: number }[];
	held: number;
	source: string;
	adrift: number;
	unaccounted: number;
}
interface Health {
	stage: string;
	name: string;
	failing: string;
	since: number;
	oldest: number;
}

/** How often the ledger is asked for, in milliseconds. */
const every = 2000;

/** What each stage does, for people who have not read the documentation. */
const explained: Record<string, string> = {
	feed: 'from the agents',
	lines: 'to stdout, or the live view',
	page: 'to this page',
	paths: 'to the ways of packets',
	aggregates: 'from this page to the history on disk',
	batches: 'to numbered batches',
	detail: 'to the detail that is kept',
	bus: 'to the bus',
	writer: 'to files',
	files: 'kept; passed on means removed, as too old or too many',
	sink: 'to another server',
};

/** Why records were lost, and how many are missing for no reason. */
export function reasons(e: Pick<Entry, 'lost' | 'source' | 'adrift' | 'unaccounted'>): string[] {
	const list = e.lost.map((l) => `${whole(l.count)} ${l.reason}`);
	if (e.unaccounted) list.push(`${whole(e.unaccounted)} unaccounted for`);
	if (e.adrift) list.push(`${whole(e.adrift)} unaccounted for since ${e.source}`);
	return list;
}

/** What has become of the records: losses of the monitoring, not of the network. */
export const monitoring: View = { route: 'monitoring', title: 'Monitoring', open };

function open(_app: App): Page {
	let ledger: Ledger | null = null;
	let asked = 0;
	let problem = '';
	const abort = new AbortController();

	const state = h('p', { class: 'rest' });
	const failing = h('ol', { class: 'wrong-list' });
	const body = h('tbody', {});
	const head: [string, string][] = [['Stage', ''], ['Received', 'num'], ['Passed on', 'num'], ['Lost', 'num'], ['Held', 'num'], ['', ''], ['Lost because', '']];
	const el = h('div', { class: 'page monitoring' },
		panel('What has become of the records', 'since the start of the collector; losses in the network are in the other views', state, failing,
			h('div', { class: 'scroll' }, h('table', { class: 'rows' }, h('thead', {}, h('tr', {}, ...head.map(([n, c]) => h('th', { class: c, scope: 'col' }, n || h('span', { class: 'unseen' }, 'Unit'))))), body))));

	const stages = new List<Entry>(body, (e) => `${e.stage} ${e.name}`, (first) => {
		const cells = [0, 1, 2, 3].map(() => h('td', { class: 'num' }));
		const unit = h('td', { class: 'faint' });
		const why = h('td', { class: 'wide' });
		return {
			el: h('tr', { 'data-stage': first.stage },
				h('td', {}, h('b', {}, first.name ? `${first.stage} ${first.name}` : first.stage), h('small', {}, explained[first.stage] ?? '')), ...cells, unit, why),
			update: (e) => {
				[e.received, e.passed, lost(e), e.held].forEach((n, i) => text(cells[i]!, whole(n)));
				toggle(cells[2]!, 'severe', lost(e) > 0);
				text(unit, e.unit);
				text(why, reasons(e).join(', '));
			},
		};
	});
	const sick = new List<Health>(failing, (x) => `${x.stage} ${x.name}`, () => {
		const what = h('b', {});
		const since = h('span', { class: 'faint' });
		return {
			el: h('li', {}, h('i', { class: 'dot failed' }), what, since),
			update: (x) => {
				text(what, `${x.stage}${x.name ? ` ${x.name}` : ''}: ${x.failing}`);
				text(since, x.since ? `since ${moment(x.since)}` : '');
			},
		};
	});

	function draw(): void {
		const l = ledger;
		if (problem) text(state, `The collector does not say what has become of them: ${problem}`);
		else if (!l) text(state, 'Waiting for the collector.');
		else text(state, l.closes ? 'Every record is accounted for: received is passed on, lost, or held.' : `The figures do not add up: ${l.error}`);
		toggle(state, 'severe', problem !== '' || l?.closes === false);
		sick.set((l?.health ?? []).filter((x) => x.failing));
		stages.set(l?.entries ?? []);
	}

	async function ask(): Promise<void> {
		asked = performance.now();
		try {
			const answer = await fetch('/api/v1/ledger', { signal: abort.signal });
			const data = await answer.json() as Ledger & { error?: string };
			if (!answer.ok) throw new Error(data.error || answer.statusText);
			ledger = data;
			problem = '';
		} catch (err) {
			if (abort.signal.aborted) return;
			problem = err instanceof Error ? err.message : String(err);
		}
		draw();
	}

	return {
		el,
		update() {
			if (!asked || performance.now() - asked >= every) void ask();
		},
		table() {
			return [
				['stage', 'name', 'unit', 'received', 'passed on', 'lost', 'held', 'lost because'],
				...(ledger?.entries ?? []).map((e) => [e.stage, e.name, e.unit, e.received, e.passed, lost(e), e.held, reasons(e).join(', ')]),
			];
		},
		destroy() { abort.abort(); },
	};
}

function lost(e: Pick<Entry, 'lost'>): number {
	return e.lost.reduce((sum, l) => sum + l.count, 0);
}
