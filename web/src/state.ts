import type { Unit } from './format';

/** Windows that the server streams; any other comes from zooming and is shown paused. */
export const windows = [10, 60, 300, 900, 3600, 21600, 86400, 604800, 2592000];

/** The longest that can be asked for. */
export const longest = 10 * 366 * 86400;

/** All that a URL restores. */
export class State {
	/** The route of the view that is shown; the first one is the home page. */
	view: string;
	window = 300;
	/** The window is all that is kept, and grows. */
	whole = false;
	/** dark or light, if the URL says so. */
	theme = '';
	/** The first second after what is shown, or null while it is live. */
	end: number | null = null;
	unit: Unit = 'bits';
	/** Rows that are not shown. */
	hidden = new Set<number>();
	/** The row that is shown alone in Flows, or -1. */
	flow = -1;
	/** The MGEN flow whose charts are shown. */
	mgen = '';
	filter = '';
	/** The flow whose way is shown, as flowKey names it, or a node of the map after "@". */
	pick = '';

	private listeners: (() => void)[] = [];
	private last = '';

	/** The routes are those of the views that there are. */
	constructor(private routes: readonly string[]) {
		this.view = this.home;
		this.read();
		addEventListener('hashchange', () => {
			if (location.hash !== this.last) {
				this.read();
				this.tell();
			}
		});
	}

	get home(): string {
		return this.routes[0] ?? '';
	}

	onChange(f: () => void): void {
		this.listeners.push(f);
	}

	/** Applies a change, keeps it in the URL, and tells everyone. */
	set(change: Partial<Pick<State, 'view' | 'window' | 'whole' | 'end' | 'unit' | 'flow' | 'mgen' | 'filter' | 'pick' | 'theme'>>): void {
		const old = this.view;
		if (change.end || change.window) this.whole = false;
		Object.assign(this, change);
		this.write(this.view !== old);
		this.tell();
	}

	toggleFlow(row: number): void {
		if (!this.hidden.delete(row)) this.hidden.add(row);
		this.write(false);
		this.tell();
	}

	showAll(): void {
		this.hidden.clear();
		this.write(false);
		this.tell();
	}

	private tell(): void {
		for (const f of this.listeners) f();
	}

	/** Every value is checked: a URL may come from anywhere. */
	private read(): void {
		this.last = location.hash;
		const [name, query] = location.hash.slice(1).split('?', 2);
		const p = new URLSearchParams(query ?? '');
		const number = (key: string, low: number, high: number): number | null => {
			const text = p.get(key);
			const n = text === null ? NaN : Number(text);
			return Number.isInteger(n) && n >= low && n <= high ? n : null;
		};
		this.view = this.routes.find((v) => v === name) ?? this.home;
		this.window = number('w', 2, longest) ?? 300;
		this.whole = p.get('w') === 'all';
		this.end = this.whole ? null : number('end', 1, 2 ** 32 - 1);
		if (this.end === null && !windows.includes(this.window)) this.window = 300;
		const unit = p.get('u');
		this.unit = unit === 'bytes' || unit === 'packets' ? unit : 'bits';
		this.hidden = new Set((p.get('hide') ?? '').split(',').filter((s) => /^\d{1,6}$/.test(s)).map(Number));
		this.flow = number('flow', 0, 1e6) ?? -1;
		this.mgen = (p.get('mgen') ?? '').slice(0, 200);
		this.filter = (p.get('q') ?? '').slice(0, 100);
		this.pick = (p.get('pick') ?? '').slice(0, 200);
		const theme = p.get('theme');
		this.theme = theme === 'dark' || theme === 'light' ? theme : '';
	}

	private write(isNewPage: boolean): void {
		const p = new URLSearchParams();
		if (this.whole) p.set('w', 'all');
		else if (this.window !== 300) p.set('w', String(this.window));
		if (this.end !== null) p.set('end', String(this.end));
		if (this.unit !== 'bits') p.set('u', this.unit);
		if (this.hidden.size) p.set('hide', [...this.hidden].sort((a, b) => a - b).join(','));
		if (this.flow >= 0) p.set('flow', String(this.flow));
		if (this.mgen) p.set('mgen', this.mgen);
		if (this.filter) p.set('q', this.filter);
		if (this.pick) p.set('pick', this.pick);
		if (this.theme) p.set('theme', this.theme);
		const query = p.toString();
		this.last = `#${this.view}${query ? `?${query}` : ''}`;
		if (isNewPage) history.pushState(null, '', this.last);
		else history.replaceState(null, '', this.last);
	}
}
