import { h } from '../dom';
import { isDark, sideColors } from '../palette';
import type { Point } from './layout';
import { type Dot, type Line, lossy, type Scene } from './scene';

export interface Look {
	color: (row: number) => string;
	/** Bits per second, of a line's bytes. */
	rate: (line: Line) => number;
	/** What is said of something that is pointed at, a line each. */
	tell: (what: Dot | Line) => string[];
	choose: (dot: Dot | null) => void;
	/** Somebody has moved a dot. */
	moved: (id: string, to: Point) => void;
}

/** Above so many lines nothing moves by itself. */
const mostMoving = 400;
const padding = 56;
/** Marks move so often: they are no reason to keep a processor busy. */
const markEvery = 48; // ms

interface Curve { line: Line; a: Point; b: Point; c: Point; width: number; color: string }

/**
 * Draws a scene, and has its dots dragged. What stands still is on a canvas of its own below, drawn when it
 * changes; above it is what moves: marks, and what is dragged or pointed at.
 */
export class MapCanvas {
	readonly el: HTMLElement;
	/** Frames drawn, for tests and measurements. */
	drawn = 0;
	private base = h('canvas', { 'aria-hidden': 'true' });
	private canvas = h('canvas', { role: 'img' });
	private tip = h('div', { class: 'tip map-tip', hidden: true });
	private scene: Scene = { dots: [], lines: [] };
	private places: ReadonlyMap<string, Point> = new Map();
	private curves: Curve[] = [];
	private view = { scale: 1, x: 0, y: 0 };
	private size = { width: 0, height: 0, ratio: 1 };
	private fitted = false;
	private frame = 0;
	private stale = true; // the base
	private marked = 0; // when marks were drawn
	private pointed: Dot | Line | null = null;
	private chosen = '';
	private hand: { id: number; dot: Dot | null; x: number; y: number; moved: boolean } | null = null;
	private pinch = new Map<number, Point>();
	private calm = matchMedia('(prefers-reduced-motion: reduce)');
	private observer = new ResizeObserver(() => this.resize());
	private ink = { text: '', muted: '', card: '', line: '', bad: '', faint: '', accent: '' };
	private inkOf = '';

	constructor(private look: Look) {
		this.el = h('div', { class: 'map-canvas' }, this.base, this.canvas, this.tip);
		this.observer.observe(this.el);
		const c = this.canvas;
		c.addEventListener('pointerdown', (e) => this.down(e));
		c.addEventListener('pointermove', (e) => this.move(e));
		c.addEventListener('pointerup', (e) => this.up(e));
		c.addEventListener('pointercancel', (e) => this.up(e));
		c.addEventListener('pointerleave', () => { if (!this.hand) this.point(null, 0, 0); });
		c.addEventListener('wheel', (e) => {
			if (!e.ctrlKey && !e.metaKey) return; // the page scrolls
			e.preventDefault();
			this.zoom(Math.exp(-e.deltaY / 200), e.offsetX, e.offsetY);
		}, { passive: false });
		this.calm.addEventListener('change', this.redraw);
	}

	destroy(): void {
		cancelAnimationFrame(this.frame);
		this.observer.disconnect();
		this.calm.removeEventListener('change', this.redraw);
	}

	/** What to draw from now on. */
	set(scene: Scene, places: ReadonlyMap<string, Point>, chosen: string, label: string): void {
		this.scene = scene;
		this.places = places;
		this.chosen = chosen;
		this.canvas.setAttribute('aria-label', label);
		if (!this.fitted && scene.dots.length > 0 && this.size.width > 0) this.fit();
		this.shape();
		this.redraw();
	}

	/** Somebody has something in hand: it is no time to change what is drawn. */
	get busy(): boolean {
		return this.hand !== null;
	}

	/** Makes everything visible. */
	fit(): void {
		const at = this.scene.dots.flatMap((d) => this.places.get(d.id) ?? []);
		if (!at.length || !this.size.width) return;
		const [left, right] = [Math.min(...at.map((p) => p.x)), Math.max(...at.map((p) => p.x))];
		const [top, bottom] = [Math.min(...at.map((p) => p.y)), Math.max(...at.map((p) => p.y))];
		const wide = Math.max(1, this.size.width - 2 * Math.min(padding, this.size.width / 8));
		const high = Math.max(1, this.size.height - 2 * padding);
		const scale = Math.min(1.5, wide / Math.max(1, right - left), high / Math.max(1, bottom - top));
		this.view = { scale, x: this.size.width / 2 - scale * (left + right) / 2, y: this.size.height / 2 - 6 - scale * (top + bottom) / 2 };
		this.fitted = true;
		this.shape();
		this.redraw();
	}

	zoom(by: number, x = this.size.width / 2, y = this.size.height / 2): void {
		const scale = Math.min(6, Math.max(0.05, this.view.scale * by));
		const k = scale / this.view.scale;
		this.view = { scale, x: x - k * (x - this.view.x), y: y - k * (y - this.view.y) };
		this.shape();
		this.redraw();
	}

	/** Where a dot is on the screen, within the canvas. */
	where(id: string): Point | null {
		const p = this.places.get(id);
		return p ? this.screen(p) : null;
	}

	private screen(p: Point): Point {
		return { x: this.view.x + this.view.scale * p.x, y: this.view.y + this.view.scale * p.y };
	}

	private resize(): void {
		const { clientWidth: width, clientHeight: height } = this.el;
		const ratio = Math.min(devicePixelRatio || 1, 3);
		if (!width || (width === this.size.width && height === this.size.height && ratio === this.size.ratio)) return;
		this.size = { width, height, ratio };
		for (const c of [this.base, this.canvas]) {
			c.width = Math.round(width * ratio);
			c.height = Math.round(height * ratio);
		}
		this.fit();
		this.draw(performance.now()); // a canvas of another size is empty
	}

	private radius(dot: Dot): number {
		const few = Math.min(1, Math.max(0.45, this.view.scale));
		return few * (dot.nodes.length > 1 ? 15 + Math.min(12, 2 * Math.sqrt(dot.nodes.length)) : 12);
	}

	/** Works out the curves, once for all frames until something changes. */
	private shape(): void {
		this.stale = true;
		this.curves = this.curvesOf(this.scene.lines);
	}

	private curvesOf(lines: Line[]): Curve[] {
		const pairs = new Set(this.scene.lines.map((l) => `${l.from}\n${l.to}`));
		const dots = new Map(this.scene.dots.map((d) => [d.id, d]));
		const curves: Curve[] = [];
		for (const line of lines) {
			const [p, q] = [this.where(line.from), this.where(line.to)];
			const [from, to] = [dots.get(line.from), dots.get(line.to)];
			if (!p || !q || !from || !to) continue;
			const length = Math.hypot(q.x - p.x, q.y - p.y) || 1;
			const [ux, uy] = [(q.x - p.x) / length, (q.y - p.y) / length];
			// Both directions bow to their own left.
			const bow = pairs.has(`${line.to}\n${line.from}`) ? Math.min(22, 0.12 * length + 5) : 0;
			const c = { x: (p.x + q.x) / 2 + 2 * bow * uy, y: (p.y + q.y) / 2 - 2 * bow * ux };
			const cut = (end: Point, r: number): Point => {
				const d = Math.hypot(c.x - end.x, c.y - end.y) || 1;
				return { x: end.x + (c.x - end.x) * Math.min(1, r / d), y: end.y + (c.y - end.y) * Math.min(1, r / d) };
			};
			const width = lineWidth(this.look.rate(line));
			curves.push({ line, a: cut(p, this.radius(from) + 4), b: cut(q, this.radius(to) + 5 + width), c, width, color: this.look.color(line.row) });
		}
		// Thin ones on top, so that none hides another.
		return curves.sort((x, y) => y.width - x.width);
	}

	private redraw = (): void => {
		if (!this.frame) this.frame = requestAnimationFrame((t) => { this.frame = 0; this.draw(t); });
	};

	private moving(): boolean {
		return !this.calm.matches && this.curves.length > 0 && this.curves.length <= mostMoving && !document.hidden && this.el.isConnected;
	}

	private inks(): void {
		const now = String(isDark());
		if (this.inkOf === now) return;
		this.inkOf = now;
		const css = getComputedStyle(document.documentElement);
		for (const name of Object.keys(this.ink) as (keyof typeof this.ink)[]) this.ink[name] = css.getPropertyValue(`--${name}`).trim();
		this.shape();
	}

	private draw(time: number): void {
		if (!this.size.width) return;
		this.inks();
		const dragged = this.hand?.moved ? this.hand.dot : null;
		const touches = (l: Line): boolean => dragged !== null && (l.from === dragged.id || l.to === dragged.id);
		if (this.stale) {
			this.stale = false;
			const g = this.clear(this.base);
			if (!g) return;
			for (const c of this.curves) if (!touches(c.line)) this.drawLine(g, c);
			for (const dot of this.scene.dots) if (dot !== dragged) this.drawDot(g, dot);
			this.drawLabels(g, dragged);
		}
		const moving = this.moving();
		if (moving && !dragged && time - this.marked < markEvery) {
			this.redraw();
			return;
		}
		this.marked = time;
		const g = this.clear(this.canvas);
		if (!g) return;
		this.drawn++;
		const curves = dragged ? this.curvesOf(this.scene.lines.filter(touches)) : this.curves;
		for (const c of curves) {
			if (dragged || c.line === this.pointed) this.drawLine(g, c);
			if (this.curves.length <= mostMoving) this.drawMarks(g, c, moving && !c.line.old ? time / 1000 : -1);
		}
		if (dragged) {
			this.drawDot(g, dragged);
			this.drawLabels(g, null, dragged);
		} else if (this.pointed && 'id' in this.pointed) {
			this.ring(g, this.pointed);
		}
		if (moving) this.redraw();
	}

	private clear(canvas: HTMLCanvasElement): CanvasRenderingContext2D | null {
		const g = canvas.getContext('2d');
		g?.setTransform(this.size.ratio, 0, 0, this.size.ratio, 0, 0);
		g?.clearRect(0, 0, this.size.width, this.size.height);
		return g;
	}

	private related(line: Line): boolean {
		return !this.chosen || line.from === this.chosen || line.to === this.chosen;
	}

	private opacity(line: Line, width: number): number {
		return line.old ? 0.3 : !this.related(line) ? 0.1 : this.pointed === line ? 1 : Math.min(0.85, 0.25 + 0.16 * width);
	}

	private drawLine(g: CanvasRenderingContext2D, { line, a, b, c, width, color }: Curve): void {
		const bad = lossy(line);
		g.globalAlpha = this.opacity(line, width);
		g.strokeStyle = color;
		g.lineWidth = width + (this.pointed === line ? 1.5 : 0);
		g.lineCap = bad ? 'butt' : 'round';
		g.setLineDash(bad ? [8 + width, 5 + width / 2] : []);
		g.beginPath();
		g.moveTo(a.x, a.y);
		g.quadraticCurveTo(c.x, c.y, b.x, b.y);
		g.stroke();
		g.setLineDash([]);
	}

	private drawMarks(g: CanvasRenderingContext2D, { line, a, b, c, width, color }: Curve, time: number): void {
		g.globalAlpha = this.opacity(line, width);
		g.fillStyle = color;
		// An arrow, in the middle or on its way.
		const length = Math.hypot(b.x - a.x, b.y - a.y);
		if (length < 16) return;
		const many = Math.max(1, Math.min(6, Math.floor(length / 90)));
		const marks = time < 0 ? [0.62] : Array.from({ length: many }, (_, i) => ((time * 46) / length + i / many) % 1);
		const size = 3.2 + width * 0.75;
		for (const t of marks) {
			const p = at(a, c, b, t);
			const q = at(a, c, b, Math.min(1, t + 0.02));
			const angle = Math.atan2(q.y - p.y, q.x - p.x);
			g.save();
			g.translate(p.x, p.y);
			g.rotate(angle);
			g.beginPath();
			g.moveTo(size, 0);
			g.lineTo(-size * 0.8, size * 0.8);
			g.lineTo(-size * 0.8, -size * 0.8);
			g.closePath();
			g.fill();
			g.lineWidth = 1;
			g.strokeStyle = this.ink.card;
			g.stroke();
			g.restore();
		}
	}

	private drawDot(g: CanvasRenderingContext2D, dot: Dot): void {
		const at = this.where(dot.id);
		if (!at) return;
		const r = this.radius(dot);
		const around = this.chosen && this.chosen !== dot.id && !this.scene.lines.some((l) => (l.from === this.chosen && l.to === dot.id) || (l.to === this.chosen && l.from === dot.id));
		g.globalAlpha = dot.dim || around ? 0.28 : 1;
		g.beginPath();
		g.arc(at.x, at.y, r, 0, 7);
		g.fillStyle = this.ink.card;
		g.fill();
		const hollow = dot.role === 'overhearer';
		const sum = dot.sent + dot.relayed + dot.received;
		g.lineWidth = r * 0.4;
		if (hollow || sum === 0 || dot.down) {
			g.lineWidth = 1.5;
			g.setLineDash(dot.down ? [3, 3] : []);
			g.strokeStyle = dot.down ? this.ink.bad : this.ink.muted;
			g.beginPath();
			g.arc(at.x, at.y, r - 1, 0, 7);
			g.stroke();
			g.setLineDash([]);
		} else {
			const sides = sideColors();
			let from = -Math.PI / 2;
			for (const side of ['sent', 'relayed', 'received'] as const) {
				const to = from + (2 * Math.PI * dot[side]) / sum;
				g.beginPath();
				g.arc(at.x, at.y, r * 0.8, from, to);
				g.strokeStyle = sides[side];
				g.stroke();
				from = to;
			}
		}
		if (dot.nodes.length > 1) {
			g.fillStyle = this.ink.text;
			g.font = `600 ${Math.max(9, r * 0.62)}px Inter, sans-serif`;
			g.textAlign = 'center';
			g.textBaseline = 'middle';
			g.fillText(String(dot.nodes.length), at.x, at.y + 0.5);
		}
		if (this.chosen === dot.id) this.ring(g, dot);
		if (dot.silent || (dot.role === '' && dot.drops.lost >= 3 && dot.drops.share >= 0.005)) {
			const [x, y, s] = dot.silent ? [at.x, at.y, r * 0.75] : [at.x + r * 0.85, at.y - r * 0.85, 4];
			g.lineCap = 'round';
			for (const [width, color] of [[dot.silent ? 7 : 6, this.ink.card], [3, this.ink.bad]] as const) {
				g.lineWidth = width;
				g.strokeStyle = color;
				g.beginPath();
				g.moveTo(x - s, y - s);
				g.lineTo(x + s, y + s);
				g.moveTo(x + s, y - s);
				g.lineTo(x - s, y + s);
				g.stroke();
			}
		}
	}

	private ring(g: CanvasRenderingContext2D, dot: Dot): void {
		const at = this.where(dot.id);
		if (!at) return;
		g.globalAlpha = 1;
		g.lineWidth = 2;
		g.strokeStyle = this.ink.accent;
		g.beginPath();
		g.arc(at.x, at.y, this.radius(dot) + 3, 0, 7);
		g.stroke();
	}

	/** Names below dots, shares of loss beside lines: on a halo, and none over another. */
	private drawLabels(g: CanvasRenderingContext2D, without: Dot | null, only?: Dot): void {
		const dots = only ? [only] : this.scene.dots.filter((d) => d !== without);
		const taken: [number, number, number, number][] = dots.flatMap((d) => {
			const at = this.where(d.id);
			const r = this.radius(d);
			return at ? [[at.x - r, at.y - r, at.x + r, at.y + r] as [number, number, number, number]] : [];
		});
		const write = (words: string, x: number, y: number, color: string, must: boolean): void => {
			const w = g.measureText(words).width / 2 + 2;
			const box: [number, number, number, number] = [x - w, y - 7, x + w, y + 7];
			if (!must && taken.some((t) => t[0] < box[2] && t[2] > box[0] && t[1] < box[3] && t[3] > box[1])) return;
			taken.push(box);
			g.lineWidth = 3.5;
			g.strokeStyle = this.ink.card;
			g.lineJoin = 'round';
			g.strokeText(words, x, y);
			g.fillStyle = color;
			g.fillText(words, x, y);
		};
		g.textAlign = 'center';
		g.textBaseline = 'middle';
		g.globalAlpha = 1;
		const crowd = this.scene.dots.length > 150 && this.view.scale < 0.7;
		for (const d of dots) {
			const p = this.where(d.id);
			if (!p) continue;
			const special = d.id === this.chosen || d.silent || !!only;
			if (crowd && !special) continue;
			g.globalAlpha = d.dim ? 0.45 : 1;
			g.font = `${special ? 650 : 550} 12px Inter, sans-serif`;
			const below = this.radius(d) + 11;
			write(shorten(d.label), p.x, p.y + below, d.down ? this.ink.bad : this.ink.text, special);
			g.font = '550 11px Inter, sans-serif';
			if (d.silent) write('receives nothing', p.x, p.y + below + 14, this.ink.bad, true);
			else if (d.down) write('not connected', p.x, p.y + below + 14, this.ink.bad, false);
			else if (d.share !== null) write(share(d.share), p.x, p.y + below + 14, d.share < 0.99 ? this.ink.bad : this.ink.muted, true);
			else if (d.role === '' && d.drops.lost >= 3 && d.drops.share >= 0.005) write(`\u2212${share(d.drops.share)}`, p.x + this.radius(d) + 20, p.y - this.radius(d), this.ink.bad, false);
		}
		if (only) return;
		const ends = (l: Line): boolean => !!without && (l.from === without.id || l.to === without.id);
		g.globalAlpha = 1;
		g.font = '600 11.5px Inter, sans-serif';
		const worst = this.curves.filter((c) => lossy(c.line) && !ends(c.line) && !c.line.old && this.related(c.line)).sort((x, y) => y.line.loss - x.line.loss);
		for (const c of worst.slice(0, 40)) {
			const p = at(c.a, c.c, c.b, 0.42);
			write(`\u2212${share(c.line.loss)}`, p.x, p.y, this.ink.bad, false);
		}
	}

	// Hands.

	private find(x: number, y: number): Dot | Line | null {
		for (let i = this.scene.dots.length - 1; i >= 0; i--) {
			const dot = this.scene.dots[i]!;
			const p = this.where(dot.id);
			if (p && Math.hypot(p.x - x, p.y - y) <= this.radius(dot) + 5) return dot;
		}
		let best: Line | null = null;
		let least = 9;
		for (const c of this.curves) {
			if (!this.related(c.line)) continue;
			for (let t = 0; t <= 1; t += 0.05) {
				const p = at(c.a, c.c, c.b, t);
				const d = Math.hypot(p.x - x, p.y - y) - c.width / 2;
				if (d < least) { least = d; best = c.line; }
			}
		}
		return best;
	}

	private point(what: Dot | Line | null, x: number, y: number): void {
		if (this.pointed !== what) {
			this.pointed = what;
			this.redraw();
		}
		this.tip.hidden = what === null;
		this.canvas.classList.toggle('over', what !== null);
		if (!what) return;
		const [title, ...lines] = this.look.tell(what);
		this.tip.replaceChildren(h('b', {}, title), ...lines.map((l) => h('span', { class: 'wide' }, l)));
		const left = x + 18 + this.tip.offsetWidth > this.size.width;
		this.tip.style.setProperty('left', `${Math.max(0, left ? x - 14 - this.tip.offsetWidth : x + 18)}px`);
		this.tip.style.setProperty('top', `${Math.max(4, Math.min(y + 12, this.size.height - this.tip.offsetHeight - 4))}px`);
	}

	private down(e: PointerEvent): void {
		const found = this.find(e.offsetX, e.offsetY);
		this.canvas.setPointerCapture(e.pointerId);
		this.pinch.set(e.pointerId, { x: e.offsetX, y: e.offsetY });
		this.hand = { id: e.pointerId, dot: found && 'id' in found ? found : null, x: e.offsetX, y: e.offsetY, moved: false };
	}

	private move(e: PointerEvent): void {
		const hand = this.hand;
		const before = this.pinch.get(e.pointerId);
		if (before && this.pinch.size === 2) { // two fingers zoom
			const other = [...this.pinch].find(([id]) => id !== e.pointerId)![1];
			const was = Math.hypot(before.x - other.x, before.y - other.y);
			const is = Math.hypot(e.offsetX - other.x, e.offsetY - other.y);
			this.pinch.set(e.pointerId, { x: e.offsetX, y: e.offsetY });
			if (was > 0 && is > 0) this.zoom(is / was, other.x, other.y);
			if (hand) hand.moved = true;
			return;
		}
		if (before) this.pinch.set(e.pointerId, { x: e.offsetX, y: e.offsetY });
		if (!hand || hand.id !== e.pointerId) {
			this.point(this.find(e.offsetX, e.offsetY), e.offsetX, e.offsetY);
			return;
		}
		if (!hand.moved && Math.hypot(e.offsetX - hand.x, e.offsetY - hand.y) < 4) return;
		if (!hand.moved) {
			hand.moved = true;
			this.stale = true; // what is dragged is drawn above from now on
			this.point(null, 0, 0);
		}
		if (hand.dot) {
			this.look.moved(hand.dot.id, { x: (e.offsetX - this.view.x) / this.view.scale, y: (e.offsetY - this.view.y) / this.view.scale });
		} else {
			this.view.x += e.offsetX - hand.x;
			this.view.y += e.offsetY - hand.y;
			[hand.x, hand.y] = [e.offsetX, e.offsetY];
			this.shape();
		}
		this.redraw();
	}

	private up(e: PointerEvent): void {
		const hand = this.hand;
		this.pinch.delete(e.pointerId);
		this.hand = null;
		if (hand?.moved) {
			this.shape();
			this.redraw();
		}
		if (hand && hand.id === e.pointerId && !hand.moved && e.type === 'pointerup') {
			this.look.choose(hand.dot);
			if (hand.dot && e.pointerType === 'touch') this.point(hand.dot, e.offsetX, e.offsetY);
		}
	}
}

/** 1 kbit/s is a hairline; each factor of ten adds as much again. */
export function lineWidth(bitsPerSecond: number): number {
	return Math.min(9, Math.max(1, 1 + 1.6 * (Math.log10(Math.max(1, bitsPerSecond)) - 3.3)));
}

function at(a: Point, c: Point, b: Point, t: number): Point {
	const u = 1 - t;
	return { x: u * u * a.x + 2 * u * t * c.x + t * t * b.x, y: u * u * a.y + 2 * u * t * c.y + t * t * b.y };
}

function share(v: number): string {
	const p = 100 * v;
	return `${p < 9.95 && p > 0 ? p.toFixed(1) : p < 100 ? Math.min(99, Math.round(p)) : 100}\u202f%`;
}

/** Long names keep both ends, where they differ. */
export function shorten(name: string, most = 18): string {
	if (name.length <= most) return name;
	const head = Math.ceil((most - 1) / 2);
	return `${name.slice(0, head)}…${name.slice(head - most + 1)}`;
}
