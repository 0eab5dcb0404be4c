// Small helpers to make and keep up the page's elements. Text only ever becomes
// text: nothing here, or anywhere else, takes markup from a string.

type Child = Node | string | number | null | undefined | false;
type Props = Record<string, unknown>;

function apply(el: Element, props: Props): void {
	for (const [name, value] of Object.entries(props)) {
		if (value === undefined || value === null || value === false) continue;
		if (name === 'class') el.setAttribute('class', String(value));
		else if (name.startsWith('on') && typeof value === 'function') el.addEventListener(name.slice(2), value as EventListener);
		else el.setAttribute(name, value === true ? '' : String(value));
	}
}

export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props?: Props, ...children: Child[]): HTMLElementTagNameMap[K] {
	const el = document.createElement(tag);
	if (props) apply(el, props);
	for (const child of children) {
		if (child !== null && child !== undefined && child !== false) el.append(child instanceof Node ? child : String(child));
	}
	return el;
}

const svgNS = 'http://www.w3.org/2000/svg';

/** An icon of stroked paths in a 20 x 20 box. */
export function icon(...paths: string[]): SVGElement {
	const svg = document.createElementNS(svgNS, 'svg');
	apply(svg, { viewBox: '0 0 20 20', class: 'icon', 'aria-hidden': 'true' });
	for (const d of paths) {
		const path = document.createElementNS(svgNS, 'path');
		path.setAttribute('d', d);
		svg.append(path);
	}
	return svg;
}

/** Sets text only if it is another, so that selections survive. */
export function text(el: Node, value: string): void {
	if (el.textContent !== value) el.textContent = value;
}

export function toggle(el: Element, name: string, on: boolean): void {
	if (el.classList.contains(name) !== on) el.classList.toggle(name, on);
}

/** A custom property or a style; style attributes are forbidden by the page's policy, this is not. */
export function style(el: HTMLElement, name: string, value: string): void {
	if (el.style.getPropertyValue(name) !== value) el.style.setProperty(name, value);
}

interface Kept<T> {
	el: HTMLElement;
	update: (item: T) => void;
}

/** Keeps a parent's children in step with a list: elements of items that stay are kept. */
export class List<T> {
	private kept = new Map<string, Kept<T>>();
	constructor(
		private parent: HTMLElement,
		private key: (item: T) => string,
		private make: (item: T) => Kept<T>,
	) {}

	set(items: readonly T[]): void {
		const seen = new Set<string>();
		let at: ChildNode | null = this.parent.firstChild;
		for (const item of items) {
			const key = this.key(item);
			if (seen.has(key)) continue;
			seen.add(key);
			let kept = this.kept.get(key);
			if (!kept) {
				kept = this.make(item);
				this.kept.set(key, kept);
			}
			if (kept.el === at) at = at.nextSibling;
			else this.parent.insertBefore(kept.el, at);
			kept.update(item);
		}
		for (const [key, kept] of this.kept) {
			if (!seen.has(key)) {
				kept.el.remove();
				this.kept.delete(key);
			}
		}
	}
}
