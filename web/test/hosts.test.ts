import assert from 'node:assert/strict';
import { test } from 'node:test';
import { matches, middle } from '../src/format';
import type { Cell, MGENFlow, Talker } from '../src/model';
import { ends } from '../src/views/matrix';
import { deliveryOf, lossOf, worstFirst } from '../src/views/mgen';
import { pairs } from '../src/views/talkers';

const count = (bits: number) => ({ packets: bits / 8, bits });
const cell = (src: string, srcHost: number, dst: string, bits: number): Cell => ({ src, dst, srcHost, dstHost: -1, once: count(bits), sent: count(0), relayed: count(0), received: count(0), loss: null });

test('addresses of one host are one end, and the lightest ends are put together', () => {
	const cells = [cell('10.0.0.1', 0, 'x', 800), cell('fe80::1', 0, 'x', 80), ...Array.from({ length: 5 }, (_, i) => cell(`10.9.0.${i}`, -1, 'x', 8 + i))];
	const key = (address: string, host: number) => ({ key: host >= 0 ? `host ${host}` : address, name: host >= 0 ? 'n1' : address, host, group: false });
	const { list, of } = ends(cells, 'src', key, (c) => c.bits, 3);
	assert.deepEqual(list.map((e) => [e.name, e.sum]), [['n1', 880], ['10.9.0.3', 11], ['10.9.0.4', 12], ['3 others', 27]]);
	assert.deepEqual(list[0]!.addresses, ['10.0.0.1', 'fe80::1']);
	assert.equal(of.get('fe80::1'), 'host 0');
	assert.equal(of.get('10.9.0.0'), 'other');
	assert.equal(list.reduce((n, e) => n + e.sum, 0), cells.reduce((n, c) => n + c.once.bits, 0));
});

test('conversations of two hosts are one row, the heaviest first', () => {
	const talker = (src: string, dstPort: number, bits: number): Talker => ({ src, dst: 'd', srcPort: 1, dstPort, proto: 17, row: 0, once: count(bits), sent: count(0), relayed: count(0), received: count(0) });
	const list = pairs([talker('b', 1, 800), talker('a4', 1, 400), talker('a6', 2, 480)], (a) => (a.startsWith('a') ? 'a' : a), (c) => c.bits);
	assert.deepEqual(list.map((p) => [p.from, p.once.bits, p.talkers.map((t) => t.dstPort)]), [['a', 880, [2, 1]], ['b', 800, [1]]]);
});

test('MGEN flows: the one whose worst receiver loses most comes first, and relays do not count', () => {
	const receiver = (host: number, role: 'member' | 'relay', arrived: number, lost: number) => ({ host, role, delivery: role === 'relay' ? null : { sent: arrived + lost + 5, arrived, lost, unobserved: 5, unseen: 0, application: null } });
	const flow = (id: number, ...receivers: unknown[]) => ({ id, sent: { packets: 100, bits: 0, messages: 100 }, receivers }) as unknown as MGENFlow;
	const list = [flow(1, receiver(1, 'member', 99, 1)), flow(2, receiver(1, 'member', 100, 0), receiver(2, 'member', 0, 100)), flow(3, receiver(3, 'relay', 1, 99)), flow(4, receiver(1, 'member', 90, 10))];
	assert.deepEqual(worstFirst(list).map((f) => f.id), [2, 4, 1, 3]);
	assert.deepEqual(deliveryOf(list[1]!), { sent: 210, arrived: 100, lost: 100, unobserved: 10, unseen: 0, application: null });
	assert.equal(lossOf(deliveryOf(list[1]!)), 0.5);
	assert.equal(deliveryOf(list[2]!), null);
});

test('long names keep both ends, and a filter wants all of its words', () => {
	const [a, b] = [middle('x'.repeat(60) + 'one'), middle('x'.repeat(60) + 'two')];
	assert.notEqual(a, b);
	assert.equal([...a].length, 28);
	assert.equal(middle('short'), 'short');
	assert.ok(matches('N1 500', 'n1', '10.0.0.1:5001'));
	assert.ok(!matches('n1 600', 'n1', '10.0.0.1:5001', null));
	assert.ok(matches('  ', 'anything'));
});
