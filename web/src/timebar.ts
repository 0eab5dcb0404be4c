import { h, style, text } from './dom';
import type { Feed } from './feed';
import { clock, day, rates, seconds } from './format';
import type { State } from './state';

/** The whole time that is kept as one strip, with the window that is shown as a handle on it. */
export class TimeBar {
	readonly el: HTMLElement;
	private canvas = h('canvas', {});
	private brush = h('div', { class: 'brush' });
	private track: HTMLElement;
	private left = h('span', {});
	private right = h('span', {});
	private drag: { x: number; end: number } | null = null;

	constructor(private state: State, private feed: Feed) {
		this.track = h('div', {
			class: 'past', tabindex: 0, role: 'slider', 'aria-label': 'Time that is shown', 'aria-valuemin': 0, 'aria-valuemax': 0, 'aria-valuenow': 0,
		}, this.canvas, this.brush);
		this.el = h('div', { class: 'timebar' }, this.track, h('div', { class: 'ends' }, this.left, this.right));
		this.track.addEventListener('pointerdown', (e) => this.down(e));
		this.track.addEventListener('pointermove', (e) => this.move(e));
		this.track.addEventListener('pointerup', () => { this.drag = null; });
		this.track.addEventListener('pointercancel', () => { this.drag = null; });
		new ResizeObserver(() => this.draw()).observe(this.track);
	}

	/** The first second after the newest, and the first one that is kept or shown. */
	private ends(): [number, number] {
		const frame = this.feed.frame;
		if (!frame) return [0, 1];
		const to = frame.complete + 1;
		const from = this.feed.past ? to - this.feed.past.window.points * this.feed.past.window.step : to - 600;
		return [from, to];
	}

	private at(clientX: number): number {
		const box = this.track.getBoundingClientRect();
		const [from, to] = this.ends();
		return from + ((clientX - box.left) / box.width) * (to - from);
	}

	private down(e: PointerEvent): void {
		if (!this.feed.frame) return;
		this.track.setPointerCapture(e.pointerId);
		const at = this.at(e.clientX);
		const end = this.state.end ?? this.ends()[1];
		const inside = at <= end && at >= end - this.state.window;
		this.drag = { x: at, end: inside ? end : at + this.state.window / 2 };
		if (!inside) this.show(this.drag.end);
	}

	private move(e: PointerEvent): void {
		if (this.drag) this.show(this.drag.end + this.at(e.clientX) - this.drag.x);
	}

	/** Shows the window that ends there; at the right end that is live. */
	private show(end: number): void {
		const [from, to] = this.ends();
		const clipped = Math.round(Math.max(end, Math.min(from + this.state.window, to)));
		const slack = Math.max(1, (to - from) / 200);
		this.state.set({ end: clipped >= to - slack ? null : clipped });
	}

	/** Scrubs by so many windows. */
	step(windows: number): void {
		if (!this.feed.frame) return;
		const end = this.state.end ?? this.ends()[1];
		this.show(end + Math.sign(windows) * Math.max(1, Math.round(this.state.window * Math.abs(windows))));
	}

	draw(): void {
		const [from, to] = this.ends();
		const end = this.state.end ?? to;
		const scale = (t: number) => Math.min(100, Math.max(0, (100 * (t - from)) / (to - from)));
		const low = scale(end - this.state.window);
		style(this.brush, 'left', `${low}%`);
		style(this.brush, 'width', `max(6px, ${scale(end) - low}%)`);
		this.track.setAttribute('aria-valuemin', String(from));
		this.track.setAttribute('aria-valuemax', String(to));
		this.track.setAttribute('aria-valuenow', String(end));
		this.track.setAttribute('aria-valuetext', this.state.end === null ? 'live' : `${day(end)} ${clock(end)}`);
		text(this.left, this.feed.frame ? `${seconds(to - from)} ago` : '');
		text(this.right, 'now');
		this.paint();
	}

	private paint(): void {
		const past = this.feed.past;
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
		if (!past) return;
		const v = rates(past.series, this.state.unit, past.window.step);
		const top = Math.max(1, ...v);
		const oldest = this.feed.frame?.oldest ?? 0;
		ctx.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--past').trim();
		const w = width / v.length;
		v.forEach((x, i) => {
			if (past.window.from + i * past.window.step + past.window.step <= oldest) return;
			const y = Math.max(x > 0 ? 1.5 : 0, (x / top) * (height - 4));
			ctx.fillRect(i * w, height - y, Math.max(w, 0.5) + 0.3, y);
		});
	}
}
