import { List, h, style, text } from '../dom';
import { clock } from '../format';
import type { Ended } from '../model';

/** How many packets are drawn, the newest. */
const most = 40;

/** Where packets ended, in words. */
export function ending(p: Ended): string {
	const reason = p.reason ? p.reason.toLowerCase().replaceAll('_', ' ') : '';
	if (p.outcome === 'dropped') return `dropped at ${p.at.node}${reason ? `: ${reason}` : ''}`;
	if (p.outcome === 'lost') return p.towards ? `lost between ${p.at.node} and ${p.towards.node}` : `lost behind ${p.at.node}`;
	if (p.outcome === 'unheard') return `seen last at ${p.at.node}; nobody is known who comes next`;
	return `seen last at ${p.at.node}; ${p.towards ? `${p.towards.node} was` : 'who comes next was'} not observed`;
}

/** The columns of a ladder: the way of the flow, and places beside it where packets ended. */
export function columnsOf(packets: readonly Ended[], way: readonly string[]): string[] {
	const list = [...way];
	for (const p of packets) {
		for (const [node, before] of [[p.at.node, p.towards?.node], [p.towards?.node, undefined]] as const) {
			if (!node || list.includes(node)) continue;
			const at = before ? list.indexOf(before) : node === p.towards?.node ? list.indexOf(p.at.node) + 1 : -1;
			if (at >= 0) list.splice(at, 0, node);
			else list.push(node);
		}
	}
	return list;
}

/** Hosts as columns in the order of the way, time running down, a line for each packet, a cross where it ends. */
export function ladder(): { el: HTMLElement; set(packets: Ended[], way: string[]): void } {
	const head = h('div', { class: 'rungs head' });
	const body = h('ol', { class: 'ladder' });
	const none = h('p', { class: 'faint' }, 'None among those that are remembered.');
	let columns: string[] = [];
	const list = new List<Ended>(body, (p) => p.digest + p.time_ns, () => {
		const time = h('span', { class: 'mono' });
		const line = h('i', { class: 'run' });
		const cross = h('i', { class: 'cross' }, '×');
		const words = h('span', { class: 'ending' });
		return {
			el: h('li', {}, time, h('div', { class: 'rungs' }, line, cross), words),
			update: (p) => {
				const n = Math.max(1, columns.length);
				const from = Math.max(0, columns.indexOf(p.at.node));
				const to = p.towards ? columns.indexOf(p.towards.node) : -1;
				// Between two columns if it was lost there.
				const end = p.outcome === 'dropped' || to <= from ? from + (p.outcome === 'dropped' ? 0 : 0.35) : (from + to) / 2;
				style(line, 'left', `${(100 * 0.5) / n}%`);
				style(line, 'width', `${(100 * end) / n}%`);
				style(cross, 'left', `${(100 * (end + 0.5)) / n}%`);
				const t = p.time_ns / 1e9;
				text(time, `${clock(Math.floor(t))}.${String(Math.floor((t % 1) * 1000)).padStart(3, '0')}`);
				text(words, `${p.mgen_seq !== undefined ? `no. ${p.mgen_seq}: ` : ''}${ending(p)}`);
				words.title = `digest ${p.digest}: /api/v1/packet/${p.digest}`;
			},
		};
	});
	return {
		el: h('div', { class: 'ladder-box' }, h('div', { class: 'ladder-head' }, h('span', {}), head, h('span', {})), body, none),
		set(packets, way) {
			const shown = packets.slice(-most);
			columns = columnsOf(shown, way);
			head.replaceChildren(...columns.map((c) => h('span', { title: c }, c)));
			style(body, '--columns', String(Math.max(1, columns.length)));
			list.set(shown);
			none.hidden = shown.length > 0;
		},
	};
}
