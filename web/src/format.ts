import type { Count, Series, Span } from './model';

export type Unit = 'bits' | 'bytes' | 'packets';

export const unitNames: Record<Unit, string> = { bits: 'bit/s', bytes: 'byte/s', packets: 'packets/s' };
const unitShort: Record<Unit, string> = { bits: 'bit/s', bytes: 'B/s', packets: 'pkt/s' };

/** What a count is in a unit. */
export function measure(count: Count, unit: Unit): number {
	return unit === 'packets' ? count.packets : unit === 'bytes' ? count.bits / 8 : count.bits;
}

/** A series as rates per second. */
export function rates(series: Series, unit: Unit, step: number): (number | null)[] {
	const list = unit === 'packets' ? series.packets : series.bits;
	const by = unit === 'bytes' ? 8 * step : step;
	return list.map((v) => (v === null ? null : v / by));
}

/** Three digits that count, with a prefix: 1.51 M. */
export function si(v: number): [string, string] {
	if (!Number.isFinite(v)) return ['–', ''];
	const prefixes = ['', 'k', 'M', 'G', 'T', 'P'];
	let i = 0;
	let x = Math.abs(v);
	while (x >= 999.5 && i < prefixes.length - 1) {
		x /= 1000;
		i++;
	}
	const digits = i === 0 && Number.isInteger(x) ? 0 : x >= 99.95 ? 0 : x >= 9.995 ? 1 : 2;
	return [(v < 0 ? '−' : '') + x.toFixed(x === 0 ? 0 : digits), prefixes[i]!];
}

const thin = '\u202f';
const space = '\u00a0';

/** 1.51 Mbit/s */
export function rate(v: number, unit: Unit): string {
	const [n, prefix] = si(v);
	return n + space + prefix + unitShort[unit];
}

/** The number and what stands behind it, for large figures. */
export function ratePair(v: number, unit: Unit): [string, string] {
	const [n, prefix] = si(v);
	return [n, prefix + unitShort[unit]];
}

export function short(v: number): string {
	const [n, prefix] = si(v);
	return n + (prefix ? thin + prefix : '');
}

export function bytes(v: number): string {
	const [n, prefix] = si(v);
	return n + space + prefix + 'B';
}

/** 1 234 567, all digits. */
export function whole(v: number): string {
	return Math.round(v).toString().replace(/\B(?=(\d{3})+$)/g, thin);
}

/** A fraction as percent; small losses are not rounded away. */
export function percent(fraction: number): string {
	const p = 100 * fraction;
	if (p === 0) return '0' + thin + '%';
	if (p < 0.01) return '<' + thin + '0.01' + thin + '%';
	return p.toFixed(p < 1 ? 2 : p < 99.95 ? 1 : 0) + thin + '%';
}

/** Milliseconds as people read them. */
export function delay(ms: number): string {
	const a = Math.abs(ms);
	const sign = ms < 0 ? '−' : '';
	if (a < 1) return sign + (a * 1000).toFixed(0) + space + 'µs';
	if (a < 1000) return sign + a.toFixed(a < 10 ? 2 : a < 100 ? 1 : 0) + space + 'ms';
	return seconds(ms / 1000);
}

export function seconds(s: number): string {
	const a = Math.abs(s);
	const sign = s < 0 ? '−' : '';
	if (a < 1) return sign + (a * 1000).toFixed(0) + space + 'ms';
	if (a < 120) return sign + a.toFixed(a < 10 ? 1 : 0) + space + 's';
	if (a < 7200) return sign + (a / 60).toFixed(0) + space + 'min';
	if (a < 172800) return sign + (a / 3600).toFixed(0) + space + 'h';
	return sign + (a / 86400).toFixed(0) + space + 'd';
}

/** A window's length as its button says it; 0 is all. */
export function windowName(s: number): string {
	if (s === 0) return 'All';
	if (s > 3600 && s % 3600 !== 0) return seconds(s);
	return s % 86400 === 0 ? `${s / 86400}${space}d` : s % 3600 === 0 ? `${s / 3600}${space}h` : s % 60 === 0 ? `${s / 60}${space}min` : `${s}${space}s`;
}

const two = (n: number) => String(n).padStart(2, '0');

/** Local time of a UNIX second. */
export function clock(t: number): string {
	const d = new Date(t * 1000);
	return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

export function day(t: number): string {
	const d = new Date(t * 1000);
	return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
}

const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** 24 Nov, with the year if it is not this one. */
export function date(t: number): string {
	const d = new Date(t * 1000);
	const year = d.getFullYear();
	return `${d.getDate()}${space}${months[d.getMonth()]}${year === new Date().getFullYear() ? '' : `${space}${year}`}`;
}

/** A time of which the date matters unless it is today. */
export function moment(t: number): string {
	return day(t) === day(Date.now() / 1000) ? clock(t) : `${date(t)}, ${clock(t)}`;
}

/** From and to, as short as it can be said. */
export function range(from: number, to: number): string {
	if (to - from >= 2 * 86400) return `${date(from)} – ${date(to - 1)}`;
	const short = (t: number) => (to - from >= 3600 ? clock(t).slice(0, 5) : clock(t));
	if (day(from) === day(to - 1)) {
		const both = `${short(from)} – ${short(to)}`;
		return day(from) === day(Date.now() / 1000) ? both : `${date(from)}, ${both}`;
	}
	return `${date(from)} ${short(from)} – ${date(to)} ${short(to)}`;
}

/** How many seconds between from and to nothing is known of. */
export function unknown(gaps: [number, number][] | undefined, from: number, to: number): number {
	let sum = 0;
	for (const [a, b] of gaps ?? []) sum += Math.max(0, Math.min(b, to) - Math.max(a, from));
	return sum;
}

/** How many seconds of a window have data. */
export function covered(span: Span, oldest: number): number {
	const from = oldest > 0 ? Math.min(Math.max(span.from, oldest), span.to) : span.from;
	return Math.max(1, span.to - from - unknown(span.gaps, from, span.to));
}

const protocols: Record<number, string> = { 1: 'ICMP', 2: 'IGMP', 4: 'IPIP', 6: 'TCP', 17: 'UDP', 41: 'IPv6', 47: 'GRE', 50: 'ESP', 58: 'ICMPv6', 89: 'OSPF', 103: 'PIM', 132: 'SCTP', 138: 'MANET' };

export function protocol(n: number): string {
	return protocols[n] ?? `protocol ${n}`;
}

/** An address and port as they are written. */
export function endpoint(address: string, port: number): string {
	if (!port) return address;
	return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

type Value = string | number | null | undefined;

/** RFC 4180, and no value that a spreadsheet would take for a formula. */
export function csv(rows: Value[][]): string {
	const field = (v: Value): string => {
		let s = v === null || v === undefined ? '' : String(v);
		if (typeof v === 'string' && /^[=+\-@\t\r]/.test(s)) s = `'${s}`;
		return /[",\r\n]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s;
	};
	return rows.map((row) => row.map(field).join(',')).join('\r\n') + '\r\n';
}

/** The beginning and the end of a long name, of which the middle is left out: both tell it from others. */
export function middle(name: string, most = 28): string {
	const letters = [...name];
	if (letters.length <= most) return name;
	const end = Math.floor((most - 1) / 2);
	return `${letters.slice(0, most - 1 - end).join('')}…${letters.slice(-end).join('')}`;
}

/** Whether all words of a filter are somewhere in what something is called. */
export function matches(filter: string, ...names: (string | number | null | undefined)[]): boolean {
	const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
	if (!words.length) return true;
	const text = names.filter((n) => n !== null && n !== undefined).join('\n').toLowerCase();
	return words.every((w) => text.includes(w));
}
