import type { FlowSetup } from './model';

// Hues that people with any kind of colour vision tell apart, in the order of
// Okabe and Ito's palette (2008), tuned for areas on white and on near-black.
const light = ['#2b6cd4', '#eb9a12', '#0c9b73', '#c8609c', '#62b5ec', '#cf4f17', '#7a62c9', '#a39a1f'];
const dark = ['#5793f2', '#f0ab3c', '#2cb890', '#dd80b4', '#86cbf7', '#e87240', '#9d88e6', '#cdc44e'];
const greyLight = '#8b93a1';
const greyDark = '#7d8694';

export function isDark(): boolean {
	const choice = document.documentElement.dataset.theme;
	return choice ? choice === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

export interface Colors {
	primary: string;
	secondary: string;
}

/** The colours of a row: the configuration's, or ours. */
export function flowColors(flows: FlowSetup[], row: number): Colors {
	const flow = flows[row];
	const night = isDark();
	const base = night ? dark : light;
	const own = flow?.id === 'X' ? (night ? greyDark : greyLight) : shade(base[row % base.length]!, Math.floor(row / base.length), night);
	const primary = flow?.color || own;
	return { primary, secondary: flow?.relay || mix(primary, night ? '#161b22' : '#ffffff', 0.5) };
}

/** Sides of a host's traffic. */
export function sideColors(): { sent: string; relayed: string; received: string } {
	const base = isDark() ? dark : light;
	return { sent: base[0]!, relayed: base[1]!, received: base[2]! };
}

/** Rows past the palette's end are lighter or darker again. */
function shade(color: string, round: number, night: boolean): string {
	if (round === 0) return color;
	return mix(color, (round % 2 === 1) === night ? '#ffffff' : '#000000', Math.min(0.25 + 0.12 * (round - 1), 0.6));
}

/** part of b in a, both #rrggbb. */
export function mix(a: string, b: string, part: number): string {
	const channel = (s: string, i: number) => parseInt(s.slice(1 + 2 * i, 3 + 2 * i), 16);
	let out = '#';
	for (let i = 0; i < 3; i++) {
		out += Math.round(channel(a, i) * (1 - part) + channel(b, i) * part).toString(16).padStart(2, '0');
	}
	return out;
}
