import { h, style, toggle } from './dom';

/** Name, class, and explanation of a column. */
export type Column = readonly [name: string, cls: string, title: string];

export interface Row<T> {
	key: string;
	item: T;
	/** Under the one before it, which unfolds. */
	level?: number;
}

export interface Drawn<T> {
	el: HTMLTableRowElement;
	update(item: T): void;
}

/** How many rows a table has before it scrolls. */
const fewest = 25;
/** Rows drawn above and below what is seen. */
const spare = 8;

/**
 * A table of any length, of which only the rows are drawn that are seen, and details below the row that they are
 * of. Arrow keys move, Enter chooses, → and ← unfold and fold.
 */
export class Table<T> {
	readonly el: HTMLElement;
	private body = h('tbody', {});
	private box: HTMLElement;
	private above = h('tr', { class: 'spacer', 'aria-hidden': 'true' });
	private below = h('tr', { class: 'spacer', 'aria-hidden': 'true' });
	private detailRow: HTMLTableRowElement | null = null;
	private kept = new Map<string, Drawn<T>>();
	private rows: readonly Row<T>[] = [];
	private order: string[] = [];
	private height = 41;
	private over = false;
	private table: HTMLTableElement;
	private detailOf = '';

	constructor(columns: readonly Column[], private make: (row: Row<T>) => Drawn<T>, options: { class?: string; label: string; detail?: HTMLElement }) {
		this.table = h('table', { class: `rows ${options.class ?? ''}`, 'aria-label': options.label },
			h('thead', {}, h('tr', {}, ...columns.map(([name, cls, title]) => h('th', { class: cls, scope: 'col', title: title || undefined }, name || h('span', { class: 'unseen' }, title))))), this.body);
		this.box = h('div', { class: 'scroll', role: 'group', 'aria-label': options.label }, this.table);
		this.el = this.box;
		if (options.detail) this.detailRow = h('tr', { class: 'detail-row' }, h('td', { colspan: columns.length }, options.detail));
		this.box.addEventListener('scroll', () => this.draw());
		this.box.addEventListener('pointerenter', () => { this.over = true; });
		this.box.addEventListener('pointerleave', () => { this.over = false; });
		this.body.addEventListener('keydown', (e) => this.key(e));
	}

	/**
	 * Shows rows; each group of a row of level 0 and those below it stays where it is while a pointer or the focus is on
	 * the table, so that nothing moves away from it. The details stand below the row with a key.
	 */
	set(rows: readonly Row<T>[], detailOf = ''): void {
		this.detailOf = detailOf;
		this.rows = this.over || this.body.contains(document.activeElement) ? this.settled(rows) : rows;
		this.order = this.rows.filter((r) => !r.level).map((r) => r.key);
		toggle(this.box, 'tall', rows.length > fewest);
		// What can be scrolled must be reached by keys, too.
		if (rows.length > fewest) this.box.setAttribute('tabindex', '0');
		else this.box.removeAttribute('tabindex');
		this.table.setAttribute('aria-rowcount', String(rows.length + 1));
		this.draw();
	}

	private settled(rows: readonly Row<T>[]): Row<T>[] {
		const groups = new Map<string, Row<T>[]>();
		let group: Row<T>[] = [];
		for (const row of rows) {
			if (!row.level) groups.set(row.key, group = []);
			group.push(row);
		}
		const out: Row<T>[] = [];
		for (const key of [...this.order, ...groups.keys()]) {
			out.push(...groups.get(key) ?? []);
			groups.delete(key);
		}
		return out;
	}

	private draw(): void {
		const all = this.rows.length;
		let first = 0;
		let last = all;
		if (all > fewest) {
			const page = this.box.clientHeight || 600;
			const detail = this.rows.findIndex((r) => r.key === this.detailOf);
			const extra = detail >= 0 && this.detailRow?.isConnected ? this.detailRow.offsetHeight : 0;
			let top = this.box.scrollTop;
			if (detail >= 0 && top > detail * this.height) top = Math.max(detail * this.height, top - extra);
			first = Math.max(0, Math.floor(top / this.height) - spare);
			last = Math.min(all, Math.ceil((top + page) / this.height) + spare);
			// The focus is not lost by scrolling.
			const focused = (document.activeElement as HTMLElement | null)?.closest<HTMLElement>('tr[data-row-key]');
			if (focused && this.body.contains(focused)) {
				const i = this.rows.findIndex((r) => r.key === focused.dataset.rowKey);
				if (i >= 0 && i >= first - 40 && i < last + 40) {
					first = Math.min(first, i);
					last = Math.max(last, i + 1);
				}
			}
		}
		style(this.above, 'height', `${first * this.height}px`);
		style(this.below, 'height', `${(all - last) * this.height}px`);
		const shown: HTMLElement[] = [];
		if (first > 0) shown.push(this.above);
		const seen = new Set<string>();
		for (let i = first; i < last; i++) {
			const row = this.rows[i]!;
			if (seen.has(row.key)) continue;
			seen.add(row.key);
			let drawn = this.kept.get(row.key);
			if (!drawn) {
				drawn = this.make(row);
				drawn.el.dataset.rowKey = row.key;
				this.kept.set(row.key, drawn);
			}
			drawn.el.setAttribute('aria-rowindex', String(i + 2));
			toggle(drawn.el, 'child', !!row.level);
			drawn.update(row.item);
			shown.push(drawn.el);
			if (this.detailRow && row.key === this.detailOf) shown.push(this.detailRow);
		}
		if (last < all) shown.push(this.below);
		let at: ChildNode | null = this.body.firstChild;
		for (const el of shown) {
			if (el === at) at = at.nextSibling;
			else this.body.insertBefore(el, at);
		}
		while (at) {
			const next: ChildNode | null = at.nextSibling;
			at.remove();
			at = next;
		}
		for (const key of this.kept.keys()) if (!seen.has(key)) this.kept.delete(key);
		const one = this.body.querySelector<HTMLElement>('tr[data-row-key]')?.offsetHeight;
		if (one) this.height = one;
	}

	private key(e: KeyboardEvent): void {
		const row = (e.target as HTMLElement).closest<HTMLElement>('tr[data-row-key]');
		if (!row || (e.target as HTMLElement).closest('.detail-row')) return;
		const to = (by: 1 | -1): HTMLElement | null => {
			let el = by > 0 ? row.nextElementSibling : row.previousElementSibling;
			while (el && !(el as HTMLElement).dataset.rowKey) el = by > 0 ? el.nextElementSibling : el.previousElementSibling;
			return el as HTMLElement | null;
		};
		const fold = row.querySelector<HTMLButtonElement>('button.fold');
		const open = fold?.getAttribute('aria-expanded') === 'true';
		if (e.key === 'ArrowDown') to(1)?.focus();
		else if (e.key === 'ArrowUp') to(-1)?.focus();
		else if (e.key === 'Enter' && e.target === row) row.click();
		else if (fold && (e.key === 'ArrowRight' ? !open : e.key === 'ArrowLeft' && open)) fold.click();
		else return;
		e.preventDefault();
		e.stopPropagation();
	}
}

/** A button that unfolds what is under a row. */
export function foldButton(click: () => void): { el: HTMLButtonElement; set(open: boolean, name: string): void } {
	const el = h('button', { type: 'button', class: 'fold', onclick: (e: Event) => { e.stopPropagation(); click(); } });
	return {
		el,
		set(open, name) {
			el.setAttribute('aria-expanded', String(open));
			el.setAttribute('aria-label', `${open ? 'Fold' : 'Unfold'} ${name}`);
		},
	};
}
