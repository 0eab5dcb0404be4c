import { h, style, text } from '../dom';
import { delay, percent, whole } from '../format';
import type { HopDelay } from '../model';

/** Bars of a histogram; more buckets than that are put together. */
const most = 56;

/** What a delay between two clocks depends on. */
export function clockWords(d: HopDelay): string {
	const ns = (v: number): string => delay(v / 1e6);
	return {
		same: 'One clock at both ends.', common: 'The clocks at both ends agree, as far as can be told.',
		estimated: `Corrected by an estimate: the clocks differ by ${ns(d.offset_ns ?? 0)}, ± ${ns(d.uncertainty_ns ?? 0)}.`,
		unknown: 'Whether the clocks agree is not known, since packets go one way only.',
	}[d.clock];
}

/** Buckets in groups of equal number, at most so many. */
export function grouped(buckets: NonNullable<HopDelay['histogram']>, limit = most): typeof buckets {
	const size = Math.ceil(buckets.length / limit);
	const out: typeof buckets = [];
	for (let i = 0; i < buckets.length; i += size) {
		const part = buckets.slice(i, i + size);
		out.push({ from_ns: part[0]!.from_ns, to_ns: part[part.length - 1]!.to_ns, count: part.reduce((sum, b) => sum + b.count, 0) });
	}
	return out;
}

/** How long packets take from end to end: bars, each of which is an eighth of a power of two or more, and percentiles. */
export function delays(): { el: HTMLElement; set(d: HopDelay | undefined, of: string): void } {
	const bars = h('div', { class: 'histogram', role: 'img' });
	const axis = h('div', { class: 'histogram-axis' }, h('span', {}), h('span', {}));
	const list = h('dl', { class: 'percentiles' });
	const note = h('p', { class: 'faint' });
	const el = h('div', { class: 'delays' }, bars, axis, list, note);
	let shape = '';
	return {
		el,
		set(d, of) {
			const now = JSON.stringify([d, of]);
			if (now === shape) return;
			shape = now;
			const buckets = d?.histogram ? grouped(d.histogram) : [];
			bars.hidden = axis.hidden = list.hidden = buckets.length === 0;
			if (!d || !buckets.length) {
				text(note, 'No packet was seen at both ends in the last minutes: agents at both must report digests (an IPFIX feed).');
				return;
			}
			const ns = (v: number): string => delay(v / 1e6);
			const top = Math.max(...buckets.map((b) => b.count));
			bars.replaceChildren(...buckets.map((b) => {
				const bar = h('i', { title: `${ns(b.from_ns)} to ${ns(b.to_ns)}: ${whole(b.count)} packets, ${percent(b.count / d.count)}` });
				style(bar, 'height', `${(100 * b.count) / top}%`);
				if (b.from_ns <= d.p50_ns && d.p50_ns < b.to_ns) bar.className = 'p50';
				else if (b.from_ns <= d.p95_ns && d.p95_ns < b.to_ns) bar.className = 'p95';
				return bar;
			}));
			bars.setAttribute('aria-label', `Histogram of delays to ${of}: half below ${ns(d.p50_ns)}, 95 % below ${ns(d.p95_ns)}, 99 % below ${ns(d.p99_ns)}`);
			text(axis.firstChild!, ns(buckets[0]!.from_ns));
			text(axis.lastChild!, ns(buckets[buckets.length - 1]!.to_ns));
			list.replaceChildren(...([['least', d.min_ns], ['p50', d.p50_ns], ['mean', d.mean_ns], ['p95', d.p95_ns], ['p99', d.p99_ns], ['jitter', d.jitter_ns]] as const)
				.flatMap(([name, v]) => [h('dt', {}, name), h('dd', {}, ns(v))]));
			text(note, `${whole(d.count)} packets to ${of} in the last one to two minutes. ${clockWords(d)}`);
		},
	};
}
