import assert from 'node:assert/strict';
import { test } from 'node:test';
import { flowKey, flowQuery } from '../src/feed';
import { lineWidth, shorten } from '../src/map/canvas';
import { arrange, Places } from '../src/map/layout';
import { build, clusters, delivered, type Given, lossy, worstHop } from '../src/map/scene';
import type { PathFlow } from '../src/model';

const row = (packets: number, lost = 0, n = 0) => ({ row: n, packets, bytes: 100 * packets, lost });
const host = (label: string, address: string) => ({ label, name: '', address, feed: 'ipfix' });
const count = (bits: number) => ({ packets: bits / 8, bits });
const none = new Set<never>();

function given(labels: string[], links: Given['map']['links'], more: Partial<Given> = {}): Given {
	return {
		setup: { version: '', run: '', started: '', flows: [], hosts: labels.map((l, i) => host(l, `10.0.${Math.floor(i / 40)}.${i % 40}:4739`)) },
		map: { from: 1, to: 11, sampled: 1, nodes: labels.map((l) => ({ name: l, agents: [l] })), links, delivery: [] },
		counts: labels.map((_, i) => ({ host: i, sent: count(80), relayed: count(0), received: count(160), flows: [] })),
		down: () => false, hidden: none, open: none, chosen: null, ...more,
	};
}

test('the worst hop loses the largest share, not of a few packets', () => {
	const links = [
		{ from: 'a', to: 'b', flows: [row(900, 100), row(1000, 0, 1)] }, { from: 'b', to: 'c', flows: [row(80, 20)] },
		{ from: 'c', to: 'd', flows: [row(1, 4)] }, { from: 'c', to: 'e', flows: [row(40, 2)] },
	];
	assert.deepEqual(worstHop(links), { from: 'b', to: 'c', loss: 0.2, lost: 20, all: 100 });
	assert.equal(worstHop([links[2]!, links[3]!]), null);
	assert.equal(worstHop([]), null);
});

test('what could not be observed is no loss', () => {
	assert.equal(delivered({ delivered: 0, lost: 0 }), null);
	assert.equal(delivered({ delivered: 3, lost: 1 }), 0.75);
});

test('a line is of all flows that are shown, and of the heaviest row', () => {
	const links = [{ from: 'a', to: 'b', flows: [row(10, 1, 0), row(30, 0, 1), row(500, 500, 2)] }];
	const { lines, dots } = build(given(['a', 'b'], links, { hidden: new Set([2]) }));
	assert.deepEqual(lines, [{ from: 'a', to: 'b', row: 1, bytes: 4000, packets: 40, lost: 1, loss: 1 / 41, old: false }]);
	assert.deepEqual(dots.map((d) => [d.id, d.sent, d.received, d.down]), [['a', 80, 160, false], ['b', 80, 160, false]]);
	assert.equal(lossy(lines[0]!), false); // one packet
});

test('what is lost within a node, or behind it, is its own', () => {
	const { dots, lines } = build(given(['a', 'b'], [{ from: 'a', to: 'a', flows: [row(90, 6)] }, { from: 'a', to: '', flows: [row(0, 4)] }]));
	assert.deepEqual([dots[0]!.drops, dots[1]!.drops, lines], [{ share: 0.1, lost: 10 }, { share: 0, lost: 0 }, []]);
});

test('agents of a node are one dot, which is down if all of them are', () => {
	const g = given(['r/a', 'r/b', 's'], []);
	g.map.nodes = [{ name: 'r', agents: ['r/a', 'r/b'] }, { name: 's', agents: ['s'] }, { name: 'stranger', agents: [] }];
	assert.deepEqual(build({ ...g, down: (i) => i === 0 }).dots.map((d) => [d.id, d.sent, d.down]), [['r', 160, false], ['s', 80, false]]);
	assert.equal(build({ ...g, down: (i) => i < 2 }).dots[0]!.down, true);
});

test('of a chosen group there are members, overhearers, and one that receives nothing', () => {
	const at = (node: string, stage: 'in' | 'out') => ({ node, agent: node, stage });
	const flow: PathFlow = {
		src: '10.0.0.1', dst: '239.1.1.1', proto: 17, multicast: true, packets: 100, bytes: 1, arrived: 0, lost: 10, min_hops: 0, max_hops: 0,
		hops: [{ from: at('a', 'out'), to: at('b', 'in'), packets: 90, bytes: 9000, lost: 10, delivered: 0.9 }],
		nodes: [{ node: 'a', role: 'source', received: 0, share: 1 }, { node: 'b', role: 'member', received: 90, share: 0.9 },
			{ node: 'c', role: 'member', received: 0, share: 0 }, { node: 'd', role: 'overhearer', received: 100, share: 1 }],
	};
	const { dots, lines } = build(given(['a', 'b', 'c', 'd', 'e'], [{ from: 'd', to: 'e', flows: [row(5)] }], { chosen: { flow, row: 3 } }));
	assert.deepEqual(lines.map((l) => [l.from, l.to, l.row, l.lost]), [['a', 'b', 3, 10]]);
	assert.deepEqual(dots.map((d) => [d.id, d.role, d.share, d.silent, d.dim]), [
		['a', 'source', null, false, false], ['b', 'member', 0.9, false, false], ['c', 'member', 0, true, false], ['d', 'overhearer', 1, false, false], ['e', '', null, false, true]]);
});

test('many hosts are drawn as their subnets, and one of these as its hosts when it is opened', () => {
	const labels = Array.from({ length: 200 }, (_, i) => `n${i}`);
	const links = [{ from: 'n0', to: 'n1', flows: [row(10)] }, { from: 'n0', to: 'n50', flows: [row(20)] }, { from: 'n1', to: 'n51', flows: [row(30)] }];
	const folded = build(given(labels, links));
	assert.deepEqual(folded.dots.map((d) => [d.id, d.nodes.length]), [0, 1, 2, 3, 4].map((i) => [`/10.0.${i}.0/24`, 40]));
	assert.deepEqual(folded.lines.map((l) => [l.from, l.to, l.packets]), [['/10.0.0.0/24', '/10.0.1.0/24', 50]]);
	assert.equal(folded.dots[0]!.sent, 40 * 80);
	const opened = build(given(labels, links, { open: new Set(['10.0.0.0/24']) }));
	assert.equal(opened.dots.length, 40 + 4);
	assert.deepEqual(opened.lines.map((l) => [l.from, l.to, l.packets]), [['n0', 'n1', 10], ['n0', '/10.0.1.0/24', 20], ['n1', '/10.0.1.0/24', 30]]);
});

test('groups are made by what tells hosts apart', () => {
	const nodes = (n: number, f: (i: number) => [string, string]) => Array.from({ length: n }, (_, i) => { const [name, address] = f(i); return { name, address }; });
	const count = (m: Map<string, string>) => new Set(m.values()).size;
	assert.equal(clusters(nodes(60, (i) => [`n${i}`, `10.0.0.${i}`])).size, 0);
	const named = clusters(nodes(100, (i) => [`${i % 2 ? 'truck' : 'scout'}-${i}`, `10.0.0.${i}`]));
	assert.deepEqual([...new Set(named.values())].sort(), ['scout', 'truck']);
	assert.equal(count(clusters(nodes(250, (i) => [`n${i}`, `10.0.0.${i}`]))), 8);
	for (const n of [61, 100, 500]) {
		const same = clusters(nodes(n, () => ['n', 'x']).map((v, i) => ({ ...v, name: `n${i}` })));
		assert.ok(count(same) >= 2 && count(same) <= 60, `${n} hosts that look alike: ${count(same)} groups`);
	}
});

test('a layout is the same each time, keeps what has a place, and has room', () => {
	const ids = Array.from({ length: 20 }, (_, i) => `n${i}`);
	const lines = ids.slice(1).map((to, i) => ({ from: ids[Math.floor(i / 3)]!, to, weight: 0.5 }));
	const first = arrange(ids, lines, new Map());
	assert.deepEqual(arrange([...ids].reverse(), lines, new Map()), first);
	const dragged = new Map([...first, ['n3', { x: 500, y: -77 }]]);
	const more = arrange([...ids, 'new'], [...lines, { from: 'n3', to: 'new', weight: 1 }], dragged);
	for (const [id, at] of dragged) assert.deepEqual(more.get(id), at);
	const distance = (a: string, b: string) => Math.hypot(more.get(a)!.x - more.get(b)!.x, more.get(a)!.y - more.get(b)!.y);
	assert.ok(distance('new', 'n3') < 300, `the new one is ${distance('new', 'n3')} away from its neighbour`);
	for (const a of ids) for (const b of ids) assert.ok(a === b || b === 'n3' || a === 'n3' || distance(a, b) > 30, `${a} and ${b} are ${distance(a, b)} apart`);
});

test('places are kept, and anything else is not read', () => {
	let kept: string | null = null;
	const storage = { getItem: () => kept, setItem: (_: string, v: string) => { kept = v; }, removeItem: () => { kept = null; } };
	const places = new Places(storage);
	places.at.set('a', { x: 1.4, y: -2 });
	places.keep();
	assert.deepEqual([...new Places(storage).at], [['a', { x: 1, y: -2 }]]);
	kept = '{"a":[1,"x"],"b":[1],"c":5,"d":[3,4],"e":[1e9,0]}';
	assert.deepEqual([...new Places(storage).at], [['d', { x: 3, y: 4 }]]);
	for (kept of ['', 'null', '[', '7', null]) assert.equal(new Places(storage).at.size, 0, String(kept));
	places.forget();
	assert.equal(kept, null);
	new Places({ getItem: () => { throw new Error('forbidden'); }, setItem: () => { throw new Error('forbidden'); }, removeItem: () => { throw new Error('forbidden'); } }).keep();
});

test('the key of a flow can be asked for', () => {
	const flow = { src: '10.0.0.1', dst: 'ff02::1', src_port: 1, dst_port: 2, proto: 17, mgen: 7 };
	assert.equal(flowKey(flow), '10.0.0.1~1~ff02::1~2~17~7');
	assert.equal(flowQuery(flowKey(flow)), 'src=10.0.0.1&dst=ff02%3A%3A1&mgen=7&limit=50');
	assert.equal(flowKey({ src: 'a', dst: 'b', proto: 1 }), 'a~0~b~0~1~');
	for (const key of ['', '@node', 'x~1', '~~~~']) assert.equal(flowQuery(key), null, key);
});

test('each factor of ten makes a line wider by as much', () => {
	const steps = [1e4, 1e5, 1e6, 1e7].map(lineWidth);
	assert.ok(Math.abs(steps[1]! - steps[0]! - 1.6) < 1e-9 && Math.abs(steps[2]! - steps[1]! - 1.6) < 1e-9);
	assert.deepEqual([lineWidth(0), lineWidth(1e15)], [1, 9]);
});

test('long names stay different', () => {
	assert.equal(shorten('short'), 'short');
	assert.equal(shorten('a-very-long-name-of-a-host-1').length, 18);
	assert.notEqual(shorten('a-very-long-name-of-a-host-1'), shorten('a-very-long-name-of-a-host-2'));
	assert.notEqual(shorten('1-a-very-long-name-of-a-host'), shorten('2-a-very-long-name-of-a-host'));
});
