import type { Feed, Needs } from './feed';
import type { State } from './state';

/** A view of the page. views/index.ts lists them all. */
export interface View extends Needs {
	/** What follows # in the page's address. */
	route: string;
	/** What its tab says. */
	title: string;
	open(app: App): Page;
}

/** What views share. */
export interface App {
	state: State;
	feed: Feed;
	/** All views, in the order of their tabs. */
	views: readonly View[];
	zoom: (from: number, to: number) => void;
}

/** An open view. */
export interface Page {
	el: HTMLElement;
	update(): void;
	/** What is shown, as a table. */
	table(): (string | number | null)[][];
	destroy?(): void;
}
