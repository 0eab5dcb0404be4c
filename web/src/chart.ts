import uPlot from 'uplot';
import { h } from './dom';
import { clock, date, moment, rate, si, type Unit } from './format';
import { isDark } from './palette';

export interface Line {
	name: string;
	color: string;
	values: (number | null)[];
	/** How a value is written. */
	format?: (v: number) => string;
}

export interface ChartOptions {
	height: number;
	/** Lines lie on each other, the first at the bottom, as areas. */
	stacked: boolean;
	/** How a value on the axis is written. */
	axis: (v: number) => string;
	format: (v: number) => string;
	/** The name of what is shown, for people who do not see it. */
	label: string;
	/** Someone has marked a range: UNIX seconds. */
	zoom?: (from: number, to: number) => void;
	/** Drawn small, without axes. */
	spark?: boolean;
	/** The least that the upper end of the axis is. */
	least?: number;
	/** The axis may go below zero. */
	negative?: boolean;
}

/** Steps between labels of the time axis, in seconds. */
const increments = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 2 * 86400, 7 * 86400, 14 * 86400, 30 * 86400, 90 * 86400, 365 * 86400];

const sync = uPlot.sync('time');

/** A chart over time that follows its element's width and the page's theme. */
export class Chart {
	readonly el: HTMLElement;
	private plot: uPlot | null = null;
	private shape = '';
	private lines: Line[] = [];
	private times: number[] = [];
	private range: [number, number] = [0, 1];
	private gaps: [number, number][] = [];
	private tip: HTMLElement;
	private frame: HTMLElement;

	constructor(private options: ChartOptions) {
		this.tip = h('div', { class: 'tip', hidden: true });
		this.frame = h('div', { class: 'plot' });
		this.el = h('figure', { class: options.spark ? 'chart spark' : 'chart', role: 'img', 'aria-label': options.label }, this.frame, this.tip);
		this.el.style.setProperty('--height', `${options.height}px`);
		new ResizeObserver(() => this.resize()).observe(this.frame);
	}

	/** Shows lines over times, on an axis from range[0] to range[1]; of gaps nothing is known. */
	set(times: number[], lines: Line[], range: [number, number], gaps: [number, number][] = []): void {
		this.gaps = gaps;
		this.times = times;
		this.lines = lines;
		this.range = range;
		const shape = JSON.stringify([isDark(), lines.map((l) => [l.name, l.color])]);
		if (!this.plot || shape !== this.shape) {
			this.shape = shape;
			this.make();
		} else {
			this.plot.setData(this.data(), true);
		}
	}

	private data(): uPlot.AlignedData {
		if (!this.options.stacked) return [this.times, ...this.lines.map((l) => l.values)] as uPlot.AlignedData;
		// The uppermost is drawn first, and those below it over it.
		const sums: (number | null)[][] = [];
		let below: (number | null)[] | null = null;
		for (const line of this.lines) {
			const under: (number | null)[] | null = below;
			const sum: (number | null)[] = line.values.map((v, i) => (v === null ? null : v + (under?.[i] ?? 0)));
			sums.push(sum);
			below = sum;
		}
		return [this.times, ...sums.reverse()] as uPlot.AlignedData;
	}

	/** How far right a time is, from 0 to 1. */
	private part(t: number): number {
		return (t - this.range[0]) / Math.max(1, this.range[1] - this.range[0]);
	}

	/** No value but 0: an axis of numbers would mean nothing. */
	private nothing(u: uPlot): boolean {
		return !this.options.least && (u.data.slice(1) as (number | null | undefined)[][]).every((list) => list.every((v) => !v));
	}

	private width(): number {
		return Math.max(60, this.frame.clientWidth);
	}

	private resize(): void {
		if (this.plot && this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: this.options.height });
	}

	private make(): void {
		this.plot?.destroy();
		const styles = getComputedStyle(document.documentElement);
		const color = (name: string) => styles.getPropertyValue(name).trim();
		const { stacked, spark, axis, least } = this.options;
		const font = `11px ${styles.getPropertyValue('--font').trim()}`;
		const shown = stacked ? [...this.lines].reverse() : this.lines;
		const axes: uPlot.Axis[] = spark ? [{ show: false }, { show: false }] : [
			{
				stroke: color('--muted'), font, gap: 6, size: 26,
				grid: { show: false }, ticks: { show: true, stroke: color('--line'), width: 1, size: 4 },
				space: 70, incrs: increments,
				// A label that would be cut at the right is left out.
				values: (u, splits, _i, _s, incr) => splits.map((t) => (this.part(t) > 1 - 18 / (u.width - 70) ? '' : incr >= 86400 || clock(t) === '00:00:00' ? date(t) : incr >= 60 ? clock(t).slice(0, 5) : clock(t))),
			},
			{
				stroke: color('--muted'), font, gap: 6, size: 62,
				grid: { stroke: color('--grid'), width: 1 }, ticks: { show: false },
				space: 34, values: (u, splits) => splits.map((v) => (v === null || (v > 0 && this.nothing(u)) ? '' : axis(v))),
			},
		];
		this.plot = new uPlot({
			width: this.width(),
			height: this.options.height,
			padding: spark ? [2, 0, 0, 0] : [10, 8, 0, 0],
			legend: { show: false },
			cursor: {
				show: !spark, y: false, points: { show: false },
				drag: { x: !!this.options.zoom, y: false, setScale: false },
				sync: spark ? undefined : { key: sync.key, setSeries: false },
			},
			scales: {
				x: { time: true, range: () => this.range },
				y: {
					range: (_u, low, high) => {
						const top = Math.max(high ?? 0, least ?? 0);
						const bottom = this.options.negative ? Math.min(low ?? 0, 0) : 0;
						return [bottom * 1.08, top > 0 ? top * 1.08 : 1];
					},
				},
			},
			axes,
			series: [{}, ...shown.map((line): uPlot.Series => ({
				label: line.name,
				stroke: line.color,
				width: stacked ? 1 : 1.75,
				fill: stacked ? line.color : undefined,
				points: { show: false },
				spanGaps: false,
			}))],
			hooks: {
				drawClear: [(u) => this.paintGaps(u, color('--line'))],
				setCursor: [() => this.showTip()],
				setSelect: [(u) => {
					const { left, width } = u.select;
					if (width > 4 && this.options.zoom) this.options.zoom(u.posToVal(left, 'x'), u.posToVal(left + width, 'x'));
					u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
				}],
			},
		}, this.data(), this.frame);
		if (!spark) this.touch(this.plot);
	}

	/** A finger shows what is there; two mark a range, to which the charts zoom when they are lifted. */
	private touch(u: uPlot): void {
		const fingers = new Map<number, number>();
		const at = (e: PointerEvent) => Math.min(Math.max(e.clientX - u.over.getBoundingClientRect().left, 0), u.over.clientWidth);
		const show = () => {
			const xs = [...fingers.values()].sort((a, b) => a - b);
			if (xs.length === 1) u.setCursor({ left: xs[0]!, top: 1 });
			else if (xs.length === 2) u.setSelect({ left: xs[0]!, top: 0, width: xs[1]! - xs[0]!, height: u.over.clientHeight }, false);
		};
		const of = (f: (e: PointerEvent) => void) => (e: PointerEvent) => { if (e.pointerType === 'touch') f(e); };
		u.over.addEventListener('pointerdown', of((e) => { fingers.set(e.pointerId, at(e)); show(); }));
		u.over.addEventListener('pointermove', of((e) => {
			if (!fingers.has(e.pointerId)) return;
			fingers.set(e.pointerId, at(e));
			show();
		}));
		const lift = of((e) => {
			const { left, width } = u.select;
			const two = fingers.size === 2;
			fingers.delete(e.pointerId);
			if (!two) return;
			fingers.clear();
			u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
			if (e.type === 'pointerup' && width > 12) this.options.zoom?.(u.posToVal(left, 'x'), u.posToVal(left + width, 'x'));
		});
		u.over.addEventListener('pointerup', lift);
		u.over.addEventListener('pointercancel', lift);
	}

	private paintGaps(u: uPlot, color: string): void {
		const { left, width, top, height } = u.bbox;
		for (const [from, to] of this.gaps) {
			const x = Math.max(left, u.valToPos(Math.max(from, this.range[0]), 'x', true));
			const end = Math.min(left + width, u.valToPos(Math.min(to, this.range[1]), 'x', true));
			if (end > x) hatch(u.ctx, x, top, end - x, height, color, devicePixelRatio || 1);
		}
	}

	private showTip(): void {
		const u = this.plot;
		if (!u || this.options.spark) return;
		const { idx, left } = u.cursor;
		if (idx === null || idx === undefined || left === undefined || left < 0) {
			this.tip.hidden = true;
			return;
		}
		const rows: Node[] = [h('b', {}, moment(this.times[idx] ?? 0))];
		let total = 0;
		for (const line of [...this.lines].reverse()) {
			const v = line.values[idx];
			if (v === null || v === undefined) continue;
			total += v;
			if (this.options.stacked && v === 0) continue;
			const mark = h('i', { class: 'swatch' });
			mark.style.background = line.color;
			rows.push(h('span', {}, mark, line.name), h('em', {}, (line.format ?? this.options.format)(v)));
		}
		if (this.options.stacked && this.lines.length > 1) rows.push(h('span', { class: 'sum' }, 'total'), h('em', { class: 'sum' }, this.options.format(total)));
		this.tip.replaceChildren(...rows);
		this.tip.hidden = false;
		const x = u.over.offsetLeft + left;
		const right = x > this.frame.clientWidth / 2;
		this.tip.style.left = right ? '' : `${x + 12}px`;
		this.tip.style.right = right ? `${this.frame.clientWidth - x + 12}px` : '';
	}

	destroy(): void {
		this.plot?.destroy();
		this.plot = null;
	}
}

/** Fills a box with thin slanted lines: here nothing is known. */
export function hatch(ctx: CanvasRenderingContext2D, x: number, y: number, width: number, height: number, color: string, ratio: number): void {
	ctx.save();
	ctx.beginPath();
	ctx.rect(x, y, width, height);
	ctx.clip();
	ctx.strokeStyle = color;
	ctx.lineWidth = 1.2 * ratio;
	ctx.beginPath();
	const step = 6 * ratio;
	// In line with those of the boxes beside it.
	for (let at = Math.floor((x - height) / step) * step; at < x + width; at += step) {
		ctx.moveTo(at, y + height);
		ctx.lineTo(at + height, y);
	}
	ctx.stroke();
	ctx.restore();
}

/** Axis and tip of rates. */
export function rateOptions(unit: () => Unit): Pick<ChartOptions, 'axis' | 'format'> {
	return {
		axis: (v) => {
			const [n, prefix] = si(v);
			return n.replace(/\.?0+$/, (z) => (n.includes('.') ? '' : z)) + (prefix ? `\u202f${prefix}` : '');
		},
		format: (v) => rate(v, unit()),
	};
}
