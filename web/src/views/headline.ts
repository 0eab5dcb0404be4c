import { List, h, text, toggle } from '../dom';
import { bytes, date, measure, moment, percent, rate, ratePair, short, whole } from '../format';
import { delivered, worstHop } from '../map/scene';
import type { Frame } from '../model';
import type { App } from '../view';
import { hostName, problems } from './common';

interface Figure { key: string; el: HTMLElement; update(): void }

/** What matters at a glance: does it arrive, where is it lost, how much is there; and, apart from that, whether the monitoring is well. */
export function headline(app: App, ...names: Name[]): { el: HTMLElement; update(): void } {
	const el = h('div', { class: 'figures' });
	const list = new List<Figure>(el, (f) => f.key, (f) => ({ el: f.el, update: () => f.update() }));
	const figures = names.map((name) => figure(app, name));
	return { el, update: () => list.set(figures) };
}

interface Shown {
	name?: string;
	value: string;
	unit?: string;
	note: string;
	alert?: boolean;
	title?: string;
	/** The value is words. */
	words?: boolean;
}

function figure(app: App, key: Name): Figure {
	const name = h('span', { class: 'name' });
	const value = h('b', {});
	const unit = h('small', {});
	const note = h('span', { class: 'sub' });
	const el = h('div', { class: 'figure', 'data-figure': key }, name, h('div', {}, value, unit), note);
	return {
		key, el,
		update() {
			const shown = app.feed.frame && app.feed.setup ? figures[key][1](app, app.feed.frame) : { value: '–', note: 'waiting for the collector' };
			text(name, shown.name ?? figures[key][0]);
			text(value, shown.value);
			text(unit, shown.unit ?? '');
			text(note, shown.note);
			el.title = shown.title ?? shown.note;
			toggle(el, 'alert', shown.alert ?? false);
			toggle(el, 'words', shown.words ?? false);
		},
	};
}

const then = (app: App): string => (app.state.end === null ? 'now' : `at ${moment(app.state.end - 1)}`);

const figures = {
	delivered: ['Delivered', (app: App): Shown => {
		const { map } = app.feed;
		const sum = { delivered: 0, lost: 0, unobserved: 0 };
		for (const d of map?.delivery ?? []) {
			sum.delivered += d.delivered;
			sum.lost += d.lost;
			sum.unobserved += d.unobserved;
		}
		const part = delivered(sum);
		if (part === null) return { value: '–', note: 'no packets could be followed', title: 'Packets can be followed if agents report digests (an IPFIX feed) at both ends.' };
		const all = sum.delivered + sum.lost;
		const unseen = sum.unobserved / (all + sum.unobserved);
		const [n, u] = percent(part === 1 ? 1 : Math.min(part, 0.9999)).split('\u202f');
		return {
			value: n!, unit: u, alert: part < 0.99,
			note: `${short(sum.lost)} of ${short(all)} lost` + (unseen >= 0.001 ? `; ${percent(unseen)} not observed` : ''),
			title: `Of ${whole(all)} packets whose arrival could be observed, ${whole(sum.lost)} did not arrive. A packet to a group counts once for each member.`
				+ (sum.unobserved ? `\nOf ${whole(sum.unobserved)} more it was not observed whether they arrived.` : '')
				+ (map && map.sampled < 1 ? `\n${percent(map.sampled)} of all packets are looked at.` : ''),
		};
	}],
	worst: ['Worst hop', (app: App): Shown => {
		const { map } = app.feed;
		const hop = worstHop(map?.links ?? []);
		if (!map?.to) return { value: '–', note: 'no packets could be followed', words: true };
		if (!hop) return { value: 'none', note: 'no hop loses packets', words: true };
		const place = hop.to && hop.to !== hop.from ? `${hop.from} → ${hop.to}` : hop.from;
		return {
			value: place, words: true, alert: hop.loss >= 0.01,
			note: `loses ${percent(hop.loss)} of ${short(hop.all)} packets`,
			title: `${place} lost ${whole(hop.lost)} of ${whole(hop.all)} packets in the time that is shown`,
		};
	}],
	traffic: ['Traffic', (app: App): Shown => {
		const { current } = app.feed;
		const bits = app.state.unit === 'bytes' ? 'bytes' : 'bits';
		const sum = current?.total ?? { packets: 0, bits: 0 };
		const [value, unit] = ratePair(measure(sum, bits), bits);
		return {
			name: `Traffic ${then(app)}`, value, unit,
			note: current?.relayed.bits ? `and ${rate(measure(current.relayed, bits), bits)} relayed` : 'each packet once',
			title: 'What hosts send, each packet counted once, however many agents see it. What relays send again is not part of it.',
		};
	}],
	packets: ['Packets', (app: App): Shown => {
		const sum = app.feed.current?.total ?? { packets: 0, bits: 0 };
		const [value, unit] = ratePair(sum.packets, 'packets');
		return { value, unit, note: sum.packets ? `${whole(sum.bits / 8 / sum.packets)} bytes on average` : 'none in this second' };
	}],
	flows: ['Flows', (app: App): Shown => {
		const setup = app.feed.setup!;
		const active = app.feed.current?.flows.filter((f) => f.primary.packets + f.secondary.packets > 0 && setup.flows[f.row]?.id !== 'X').length ?? 0;
		const configured = setup.flows.filter((f) => !f.former).length - 1;
		return { value: String(active), unit: `of ${Math.max(active, configured)}`, note: app.state.end === null ? 'with traffic now' : 'with traffic then' };
	}],
	hosts: ['Hosts', (app: App, frame: Frame): Shown => {
		const all = frame.hosts.filter((s) => s.state !== 'removed').length;
		const busy = app.feed.current?.hosts.filter((x) => x.sent.packets + x.relayed.packets + x.received.packets > 0).length ?? 0;
		return { value: String(all), note: `${busy === all ? 'all' : busy} with traffic ${then(app)}` };
	}],
	monitoring: ['Monitoring', (app: App, frame: Frame): Shown => {
		const there = frame.hosts.map((s, host) => ({ s, host })).filter(({ s }) => s.state !== 'removed');
		const down = there.filter(({ s }) => s.state !== 'connected');
		const clocks = there.filter(({ s }) => s.state === 'connected' && problems(s).some((p) => p.text !== 'late' && /clock|future/.test(p.text)));
		const lost = frame.store.lost + frame.hosts.reduce((sum, s) => sum + s.losses.reduce((a, l) => a + l.count, 0), 0) + (frame.store.archive?.lost ?? 0);
		const up = `${there.length - down.length} of ${there.length} agents connected`;
		const words = [
			...(down.length ? [`${down.length} of ${there.length} agents down`] : []),
			...(clocks.length ? [`${clocks.length} ${clocks.length === 1 ? 'clock' : 'clocks'} off`] : []),
			...(lost ? [`${short(lost)} records lost`] : []),
		];
		const named = (list: typeof there) => list.slice(0, 12).map(({ host }) => hostName(app.feed.setup, host)).join(', ') + (list.length > 12 ? ' …' : '');
		return {
			value: words.length ? words[0]! : 'OK', words: words.length > 0, alert: words.length > 0,
			note: words.length > 1 ? words.slice(1).join(', ') : down.length ? named(down) : words.length ? up : up,
			title: [up, ...(down.length ? [`Not connected: ${named(down)}`] : []), ...(clocks.length ? [`Clocks: ${named(clocks)}`] : []),
				`Records lost by the collector: ${whole(frame.store.lost)}; by agents: ${whole(lost - frame.store.lost - (frame.store.archive?.lost ?? 0))}; parts of the history not written: ${whole(frame.store.archive?.lost ?? 0)}. None of them is a packet that the network lost.`].join('\n'),
		};
	}],
	history: ['History', (_: App, frame: Frame): Shown => {
		const a = frame.store.archive;
		const kept = frame.oldest ? frame.complete + 1 - frame.oldest : 0;
		const [n, unit] = kept >= 2 * 86400 ? [kept / 86400, 'days'] as const : kept >= 7200 ? [kept / 3600, 'hours'] as const : [kept / 60, 'minutes'] as const;
		const note = !a ? `${bytes(frame.store.memory)} in memory only` : a.full ? 'the disk is full' : a.error ? 'cannot be written' : a.lost ? `${whole(a.lost)} parts not written`
			: `${bytes(a.size)} on disk, ${percent(a.size / a.most)} used`;
		return {
			value: n < 10 && kept > 0 ? n.toFixed(1) : n.toFixed(0), unit, note, alert: a !== null && (a.error !== '' || a.lost > 0),
			title: a ? `On disk since ${frame.oldest ? date(frame.oldest) : 'now'}: ${bytes(a.size)} of at most ${bytes(a.most)}.`
				+ (a.lost ? `\n${whole(a.lost)} parts, most of them one second long, could not be written.` : '')
				+ (a.damaged ? `\n${whole(a.damaged)} files were damaged; what was readable is shown.` : '')
				+ (a.cut ? '\nThe previous run ended abruptly; its last seconds may be missing.' : '')
				+ (a.error ? `\n${a.error}` : '') : 'Kept only while the collector runs; start recollect with -store DIR to keep it on disk.',
		};
	}],
} satisfies Record<string, [string, (app: App, frame: Frame) => Shown]>;

type Name = keyof typeof figures;
