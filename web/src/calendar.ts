import { h, icon, style, text, toggle } from './dom';
import type { Feed } from './feed';
import { rate, rates, unknown } from './format';
import type { Overview } from './model';
import type { State } from './state';

const names = ['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November', 'December'];
const weekdays = ['Mo', 'Tu', 'We', 'Th', 'Fr', 'Sa', 'Su'];

/** Jumps to a day, or to a minute, of the time that is kept. */
export class Calendar {
	readonly el: HTMLElement;
	private box: HTMLElement;
	private title = h('b', {});
	private back = h('button', { type: 'button', title: 'The month before', 'aria-label': 'The month before', onclick: () => this.turn(-1) }, icon('M12 5l-5 5 5 5'));
	private forth = h('button', { type: 'button', title: 'The month after', 'aria-label': 'The month after', onclick: () => this.turn(1) }, icon('M8 5l5 5-5 5'));
	private days: { el: HTMLButtonElement; fill: HTMLElement; number: HTMLElement }[] = [];
	private input = h('input', { type: 'datetime-local', 'aria-label': 'A time to go to', step: 60 });
	private button: HTMLButtonElement;
	private month = new Date();
	private traffic: Overview | null = null;

	constructor(private state: State, private feed: Feed) {
		for (let i = 0; i < 42; i++) {
			const fill = h('i', {});
			const number = h('span', {});
			const el = h('button', { type: 'button', class: 'day', onclick: () => this.choose(this.date(i)) }, number, fill);
			this.days.push({ el, fill, number });
		}
		this.button = h('button', { type: 'button', class: 'jump', title: 'Go to a day (D)', 'aria-label': 'Go to a day', 'aria-expanded': 'false', onclick: () => this.toggle() },
			icon('M4 6.500h12v9.500H4zM4 9.500h12M7 4v4M13 4v4'));
		this.box = h('div', { class: 'calendar', role: 'dialog', 'aria-label': 'Go to a day', hidden: true },
			h('header', {}, this.back, this.title, this.forth),
			h('div', { class: 'week', 'aria-hidden': 'true' }, ...weekdays.map((d) => h('span', {}, d))),
			h('div', { class: 'month' }, ...this.days.map((d) => d.el)),
			h('form', { onsubmit: (e: Event) => { e.preventDefault(); this.go(); } }, this.input, h('button', { class: 'primary' }, 'Go')));
		this.el = h('div', { class: 'jumper' }, this.button, this.box);
		document.addEventListener('pointerdown', (e) => { if (!this.el.contains(e.target as Node)) this.close(); });
		this.el.addEventListener('keydown', (e) => this.key(e));
	}

	get open(): boolean {
		return !this.box.hidden;
	}

	toggle(): void {
		if (this.open) {
			this.close();
			return;
		}
		if (!this.feed.frame) return; // nothing to go to is known yet
		const t = new Date(1000 * ((this.state.end ?? this.newest()) - 1));
		this.month = new Date(t.getFullYear(), t.getMonth(), 1);
		this.input.value = local(t);
		this.box.hidden = false;
		this.button.setAttribute('aria-expanded', 'true');
		this.load();
		this.days.find((d) => d.el.getAttribute('aria-pressed') === 'true' && !d.el.disabled)?.el.focus();
	}

	close(): void {
		if (!this.open) return;
		const inside = this.el.contains(document.activeElement);
		this.box.hidden = true;
		this.button.setAttribute('aria-expanded', 'false');
		if (inside) this.button.focus();
	}

	/** Arrows walk through days, Escape leaves. */
	private key(e: KeyboardEvent): void {
		if (!this.open || e.ctrlKey || e.metaKey || e.altKey) return;
		if (e.key === 'Escape') this.close();
		const at = this.days.findIndex((d) => d.el === document.activeElement);
		const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -7, ArrowDown: 7 }[e.key];
		if (at >= 0 && by) {
			for (let i = at + by; i >= 0 && i < 42; i += by) {
				if (!this.days[i]!.el.disabled) {
					this.days[i]!.el.focus();
					break;
				}
			}
			e.preventDefault();
		}
		if (e.key === 'PageUp' || e.key === 'PageDown') {
			this.turn(e.key === 'PageUp' ? -1 : 1);
			e.preventDefault();
		}
		e.stopPropagation(); // the page has other meanings for these keys
	}

	private newest(): number {
		return (this.feed.frame?.complete ?? 0) + 1;
	}

	private oldest(): number {
		return this.feed.frame?.oldest || this.newest() - 600;
	}

	/** The i-th day that is shown: a Monday is the first. */
	private date(i: number): Date {
		const first = (this.month.getDay() + 6) % 7;
		return new Date(this.month.getFullYear(), this.month.getMonth(), 1 + i - first);
	}

	private turn(by: number): void {
		this.month = new Date(this.month.getFullYear(), this.month.getMonth() + by, 1);
		this.load();
	}

	private load(): void {
		this.traffic = null;
		this.draw();
		const [from, to] = [seconds(this.date(0)), seconds(this.date(42))];
		void this.feed.hours(from, Math.min(to, this.newest()), (data) => {
			this.traffic = data;
			this.draw();
		});
	}

	private draw(): void {
		text(this.title, `${names[this.month.getMonth()]} ${this.month.getFullYear()}`);
		this.back.disabled = seconds(this.month) <= this.oldest();
		this.forth.disabled = seconds(new Date(this.month.getFullYear(), this.month.getMonth() + 1, 1)) >= this.newest();
		const end = this.state.end ?? this.newest();
		const sums = this.days.map((_, i) => this.sum(seconds(this.date(i)), seconds(this.date(i + 1))));
		const top = Math.max(...sums.map((s) => s ?? 0), 1e-9);
		this.days.forEach(({ el, fill, number }, i) => {
			const [from, to] = [seconds(this.date(i)), seconds(this.date(i + 1))];
			const date = this.date(i);
			text(number, String(date.getDate()));
			el.disabled = to <= this.oldest() || from >= this.newest();
			const s = sums[i] ?? null;
			toggle(el, 'other', date.getMonth() !== this.month.getMonth());
			toggle(el, 'off', this.traffic !== null && s === null && !el.disabled);
			el.setAttribute('aria-pressed', String(end > from && end - this.state.window < to));
			el.title = el.disabled ? '' : s === null ? (this.traffic ? 'The collector did not run' : '') : `${rate(s, this.state.unit)} on average`;
			style(fill, 'height', `${s ? Math.max(4, (42 * s) / top) : 0}%`);
		});
	}

	/** The mean rate of a day; null if nothing is known of it. */
	private sum(from: number, to: number): number | null {
		if (!this.traffic) return null;
		const { window, series } = this.traffic;
		const v = rates(series, this.state.unit, 1);
		const [begin, end] = [Math.max(from, this.oldest()), Math.min(to, this.newest())];
		const known = end - begin - unknown(window.gaps, begin, end);
		if (known <= 0) return null;
		let sum = 0;
		v.forEach((x, i) => {
			const t = window.from + i * window.step;
			if (t >= from && t < to) sum += x ?? 0;
		});
		return sum / known;
	}

	/** Shows a day: the part of it that there is. */
	private choose(d: Date): void {
		const from = seconds(d);
		const to = Math.min(seconds(new Date(d.getFullYear(), d.getMonth(), d.getDate() + 1)), this.newest());
		this.close();
		this.state.set({ window: Math.max(60, to - from), end: to });
	}

	/** Shows the time that was typed in, in the middle of the window. */
	private go(): void {
		const t = Date.parse(this.input.value) / 1000;
		if (!Number.isFinite(t)) return;
		this.close();
		const window = Math.min(this.state.window, 86400);
		this.state.set({ window, end: Math.round(Math.min(Math.max(t + window / 2, this.oldest() + window), this.newest())) });
	}
}

function seconds(d: Date): number {
	return Math.floor(d.getTime() / 1000);
}

/** A time as its input wants it. */
function local(d: Date): string {
	const two = (n: number) => String(n).padStart(2, '0');
	return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}T${two(d.getHours())}:${two(d.getMinutes())}`;
}
