import { hatch } from './chart';
import { h, style } from './dom';
import type { Feed } from './feed';
import { clock, date, day, moment, rates } from './format';
import type { State } from './state';

/** The strip is so many times as long as what is shown: long enough to see where one is, short enough to take hold of it. */
const around = 10;
/** The strip is never shorter, in seconds. */
const least = 600;

const steps = [60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 2 * 86400, 7 * 86400, 14 * 86400, 30 * 86400, 90 * 86400, 365 * 86400];

/** A part of the time that is kept as a strip, with the window that is shown as a handle on it. */
export class TimeBar {
	readonly el: HTMLElement;
	private canvas = h('canvas', {});
	private brush = h('div', { class: 'brush' });
	private track: HTMLElement;
	private drag: { x: number; end: number } | null = null;
	private pointer = 0;
	private scrolling = 0;
	/** What the strip shows while it is not live. */
	private still: [number, number] | null = null;

	constructor(private state: State, private feed: Feed) {
		this.track = h('div', {
			class: 'past', tabindex: 0, role: 'slider', 'aria-label': 'Time that is shown', 'aria-valuemin': 0, 'aria-valuemax': 0, 'aria-valuenow': 0,
		}, this.canvas, this.brush);
		this.el = h('div', { class: 'timebar' }, this.track);
		this.track.addEventListener('pointerdown', (e) => this.down(e));
		this.track.addEventListener('pointermove', (e) => this.move(e));
		this.track.addEventListener('pointerup', () => this.up());
		this.track.addEventListener('pointercancel', () => this.up());
		this.track.addEventListener('wheel', (e) => this.wheel(e), { passive: false });
		new ResizeObserver(() => this.draw()).observe(this.track);
	}

	/** The first second after the newest, and the first that is kept or shown. */
	private kept(): [number, number] {
		const frame = this.feed.frame;
		if (!frame) return [0, 1];
		const to = frame.complete + 1;
		return [Math.min(frame.oldest > 0 ? frame.oldest : to, to - least), to];
	}

	/** What the strip shows: it stays where it is as long as the window is in it. */
	private ends(): [number, number] {
		const [oldest, now] = this.kept();
		const length = Math.min(Math.max(around * this.state.window, least), now - oldest);
		const { end } = this.state;
		if (end === null) return [now - length, now];
		const from = end - this.state.window;
		const old = this.still;
		if (old && (this.drag || Math.abs(old[1] - old[0] - length) <= 0.02 * length) && (this.drag || (from >= old[0] && end <= old[1]))) return old;
		const to = Math.min(Math.max(Math.round(end - this.state.window / 2 + length / 2), oldest + length), now);
		this.still = [to - length, to];
		return this.still;
	}

	private at(clientX: number): number {
		const box = this.track.getBoundingClientRect();
		const [from, to] = this.ends();
		return from + ((clientX - box.left) / box.width) * (to - from);
	}

	private down(e: PointerEvent): void {
		if (!this.feed.frame) return;
		this.track.setPointerCapture(e.pointerId);
		this.still = this.ends();
		this.pointer = e.clientX;
		const at = this.at(e.clientX);
		const end = this.state.end ?? this.still[1];
		const inside = at <= end && at >= end - this.state.window;
		this.drag = { x: at, end: inside ? end : at + this.state.window / 2 };
		if (!inside) this.show(this.drag.end);
		this.scrolling = window.setInterval(() => this.scroll(), 40);
	}

	private move(e: PointerEvent): void {
		if (!this.drag) return;
		this.pointer = e.clientX;
		this.show(this.drag.end + this.at(e.clientX) - this.drag.x);
	}

	private up(): void {
		clearInterval(this.scrolling);
		this.drag = null;
		this.draw();
	}

	/** At an end of the strip there is more. */
	private scroll(): void {
		if (!this.drag || !this.still) return;
		const box = this.track.getBoundingClientRect();
		const [oldest, now] = this.kept();
		const [from, to] = this.still;
		const edge = 14;
		const by = this.pointer < box.left + edge ? -1 : this.pointer > box.right - edge ? 1 : 0;
		const shift = Math.round(Math.min(Math.max((by * (to - from)) / 120, oldest - from), now - to));
		if (!shift) return;
		this.still = [from + shift, to + shift];
		this.show(this.drag.end + this.at(this.pointer) - this.drag.x);
	}

	/** Sideways through the time; with Ctrl, a longer or shorter window. */
	private wheel(e: WheelEvent): void {
		if (e.ctrlKey) {
			const window = Math.round(Math.min(Math.max(this.state.window * (e.deltaY > 0 ? 1.25 : 0.8), 10), this.kept()[1] - this.kept()[0]));
			const end = this.state.end ?? this.kept()[1];
			this.state.set({ window, end: Math.min(Math.round(end - this.state.window / 2 + window / 2), this.kept()[1]) });
		} else if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) {
			this.step(e.deltaX / 400);
		} else return;
		e.preventDefault();
	}

	/** Shows the window that ends there; at the right end that is live. */
	private show(end: number): void {
		const [oldest, now] = this.kept();
		const clipped = Math.round(Math.max(end, Math.min(oldest + this.state.window, now)));
		const [from, to] = this.ends();
		const slack = Math.max(1, (to - from) / 200);
		this.state.set({ end: clipped >= now - slack ? null : clipped });
	}

	/** Scrubs by so many windows. */
	step(windows: number): void {
		if (!this.feed.frame) return;
		const end = this.state.end ?? this.kept()[1];
		this.show(end + Math.sign(windows) * Math.max(1, Math.round(this.state.window * Math.abs(windows))));
	}

	draw(): void {
		const [from, to] = this.ends();
		const now = this.kept()[1];
		const end = this.state.end ?? to;
		const scale = (t: number) => Math.min(100, Math.max(0, (100 * (t - from)) / (to - from)));
		const low = scale(end - this.state.window);
		style(this.brush, 'left', `${low}%`);
		style(this.brush, 'width', `max(8px, ${scale(end) - low}%)`);
		this.track.setAttribute('aria-valuemin', String(from));
		this.track.setAttribute('aria-valuemax', String(to));
		this.track.setAttribute('aria-valuenow', String(end));
		this.track.setAttribute('aria-valuetext', this.state.end === null ? 'live' : `${day(end)} ${clock(end)}`);
		this.feed.showPast(from, to, this.state.end === null && to === now);
		this.paint(from, to);
	}

	private paint(from: number, to: number): void {
		const width = this.track.clientWidth;
		const height = this.track.clientHeight;
		const ratio = devicePixelRatio || 1;
		if (!width) return;
		if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = Math.round(width * ratio);
		if (this.canvas.height !== Math.round(height * ratio)) this.canvas.height = Math.round(height * ratio);
		const ctx = this.canvas.getContext('2d');
		if (!ctx) return;
		ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
		ctx.clearRect(0, 0, width, height);
		const styles = getComputedStyle(document.documentElement);
		const color = (name: string) => styles.getPropertyValue(name).trim();
		const x = (t: number) => ((t - from) / (to - from)) * width;
		const oldest = this.feed.frame?.oldest ?? 0;
		const past = this.feed.past;
		if (past) {
			const span = past.window;
			const gaps: [number, number][] = [...(span.gaps ?? [])];
			if (oldest > from) gaps.push([from, oldest]);
			for (const [a, b] of gaps) hatch(ctx, x(a), 0, Math.max(1, x(b) - x(a)), height, color('--line'), 1);
			const v = rates(past.series, this.state.unit, span.step);
			const top = Math.max(1, ...v.map((rate) => rate ?? 0));
			ctx.fillStyle = color('--past');
			v.forEach((known, i) => {
				const rate = known ?? 0;
				const t = span.from + i * span.step;
				const left = x(Math.max(t, oldest));
				const right = x(t + span.step);
				if (right < 0 || left > width || t + span.step <= oldest) return;
				const y = Math.max(rate > 0 ? 1.5 : 0, (rate / top) * (height - 16));
				ctx.fillRect(left, height - y, Math.max(right - left, 0.5) + 0.3, y);
			});
		}
		this.paintTimes(ctx, from, to, width, color);
	}

	/** Full hours, days and so on, by this place's clock. */
	private paintTimes(ctx: CanvasRenderingContext2D, from: number, to: number, width: number, color: (name: string) => string): void {
		const most = Math.max(1, Math.floor(width / 80));
		const step = steps.find((s) => (to - from) / s <= most) ?? steps[steps.length - 1]!;
		ctx.font = `10.5px ${color('--font')}`;
		ctx.textBaseline = 'top';
		const offset = new Date(from * 1000).getTimezoneOffset() * 60;
		for (let t = Math.ceil((from - offset) / step) * step + offset; t < to; t += step) {
			const x = Math.round(((t - from) / (to - from)) * width);
			const label = step >= 86400 || clock(t) === '00:00:00' ? date(t) : clock(t).slice(0, 5);
			ctx.fillStyle = color('--line');
			ctx.fillRect(x, 0, 1, 14);
			ctx.fillStyle = color('--muted');
			if (x + 4 + ctx.measureText(label).width < width - 2) ctx.fillText(label, x + 4, 3);
		}
	}

	/** What the window is, in words. */
	title(): string {
		const end = this.state.end ?? this.kept()[1];
		return `${moment(end - this.state.window)} – ${moment(end)}`;
	}
}
