import { List, h, text, toggle } from '../dom';
import { moment } from '../format';
import type { Problem } from '../model';
import type { App } from '../view';

/** What is wrong now, the worst first, each with a link to the view that shows it. */
export function wrong(app: App): { el: HTMLElement; update: () => void } {
	const list = h('ol', { class: 'wrong-list' });
	const title = h('h2', {});
	const el = h('section', { class: 'panel wrong', hidden: true }, h('header', {}, title), list);
	const items = new List<Problem>(list, (p) => p.kind + key(p), (item) => {
		const what = h('b', {});
		const since = h('span', { class: 'faint' });
		const mark = h('i', { class: 'dot' });
		const label = h('span', { class: 'badge' });
		const view = app.views.find((v) => v.route === item.view && v.route !== app.state.view);
		const link = view && h('a', { href: `#${view.route}` }, `Show in ${view.title}`);
		link?.addEventListener('click', (e) => {
			if (e.ctrlKey || e.metaKey || e.shiftKey) return;
			e.preventDefault();
			app.state.set({ view: view!.route });
		});
		return {
			el: h('li', { 'data-kind': item.kind }, mark, label, what, since, link),
			update: (p) => {
				mark.className = `dot ${p.severity >= 50 ? 'failed' : 'dialling'}`;
				text(label, p.monitoring ? 'monitoring' : 'network');
				toggle(label, 'severe', !p.monitoring);
				text(what, p.text);
				text(since, p.since ? `since ${moment(p.since)}` : '');
			},
		};
	});
	return {
		el,
		update() {
			const answer = app.feed.problems;
			el.hidden = !answer;
			if (!answer) return;
			const n = answer.problems.length + answer.more;
			text(title, n === 0 ? 'Nothing is wrong now, as far as it was observed' : `What is wrong now${answer.more ? `: the worst ${answer.problems.length} of ${n}` : ''}`);
			toggle(el, 'well', n === 0);
			items.set(answer.problems);
		},
	};
}

/** A problem is the same while only its numbers change. */
function key(p: Problem): string {
	return p.text.replace(/[\d.]+ %.*$/, '').replace(/: \d+ since the start$/, '');
}
