import { List, h, text, toggle } from '../dom';
import { moment } from '../format';
import type { Problem } from '../model';
import type { App } from '../view';

/** What is wrong now, the worst first, each with a link to the view that shows it. */
export function wrong(app: App, most = 10): { el: HTMLElement; update: () => void } {
	const list = h('ol', { class: 'wrong-list' });
	const title = h('h2', {});
	let all = false;
	const more = h('button', { type: 'button', class: 'tool', onclick: () => { all = !all; draw(); } });
	const el = h('section', { class: 'panel wrong', hidden: true }, h('header', {}, title), list, more);
	const items = new List<Problem>(list, (p) => p.id, (item) => {
		const what = h('b', {});
		const since = h('span', { class: 'faint' });
		const mark = h('i', { class: 'dot' });
		const label = h('span', { class: 'badge' });
		const view = app.views.find((v) => v.route === item.view && (v.route !== app.state.view || item.pick));
		const link = view && h('a', { href: `#${view.route}${item.pick ? `?pick=${encodeURIComponent(item.pick)}` : ''}` }, view.route === app.state.view ? 'Show' : `Show in ${view.title}`);
		link?.addEventListener('click', (e) => {
			if (e.ctrlKey || e.metaKey || e.shiftKey) return;
			e.preventDefault();
			app.state.set({ view: view!.route, ...(item.pick ? { pick: item.pick } : {}) });
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
	function draw(): void {
		const answer = app.feed.problems;
		el.hidden = !answer;
		if (!answer) return;
		const n = answer.problems.length + answer.more;
		text(title, n === 0 ? 'Nothing is wrong now, as far as it was observed' : 'What is wrong now');
		toggle(el, 'well', n === 0);
		const shown = all ? answer.problems : answer.problems.slice(0, most);
		items.set(shown);
		more.hidden = n <= most;
		text(more, all ? (answer.more ? `Show fewer; ${answer.more} more are not listed` : 'Show fewer') : `Show ${answer.problems.length - shown.length} more`);
		more.hidden ||= !all && shown.length === answer.problems.length;
	}
	return { el, update: draw };
}
