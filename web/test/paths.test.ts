import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { At, Ended, Hop } from '../src/model';
import { columnsOf, ending } from '../src/views/ladder';
import { hopLoss, placeName, reason, worstFirst } from '../src/views/paths';

const at = (node: string, stage: At['stage'] = 'out', agent = node): At => ({ node, agent, stage });
const hop = (from: string, packets: number, lost: number): Hop => ({ from: at(from), packets, bytes: 0, lost, delivered: 0 });
const ended = (outcome: Ended['outcome'], node: string, towards?: string, why?: string): Ended => ({
	time_ns: 1, digest: '1', flow: { src: 'a', dst: 'b', proto: 17 }, outcome, at: at(node), ...(towards ? { towards: at(towards, 'in') } : {}), ...(why ? { reason: why } : {}),
});

test('hops that lose most come first, few packets and idle ones last', () => {
	const list = [hop('idle', 0, 0), hop('few', 1, 9), hop('busy', 1000, 10), hop('bad', 50, 50), hop('well', 500, 0)];
	assert.deepEqual(worstFirst(list).map((x) => x.from.node), ['bad', 'busy', 'well', 'few', 'idle']);
	assert.equal(hopLoss(hop('bad', 50, 50)), 0.5);
	assert.equal(hopLoss(hop('idle', 0, 0)), 0);
});

test('places within a node say on which side they are', () => {
	assert.equal(placeName(at('r', 'in', 'r/a'), at('r', 'out', 'r/b')), 'r/a (received)');
	assert.equal(placeName(at('r', 'queue', 'r/a'), at('d')), 'r/a');
});

test('reasons are those of most packets first', () => {
	assert.equal(reason({ NO_SOCKET: 2, QDISC_DROP: 1200 }), 'qdisc drop 1.20\u202fk, no socket 2');
	assert.equal(reason(undefined), '');
});

test('where packets ended is a column of the ladder, in its place', () => {
	assert.deepEqual(columnsOf([ended('lost', 'r', 'x')], ['a', 'r', 'b']), ['a', 'r', 'x', 'b']);
	assert.deepEqual(columnsOf([ended('lost', 'y', 'b')], ['a', 'r', 'b']), ['a', 'r', 'y', 'b']);
	assert.deepEqual(columnsOf([ended('dropped', 'q')], []), ['q']);
});

test('a sentence says how each packet ended', () => {
	assert.equal(ending(ended('dropped', 'r', undefined, 'QDISC_DROP')), 'dropped at r: qdisc drop');
	assert.equal(ending(ended('lost', 'a', 'b')), 'lost between a and b');
	assert.equal(ending(ended('lost', 'a')), 'lost behind a');
	assert.equal(ending(ended('unheard', 'a')), 'seen last at a; nobody is known who comes next');
	assert.equal(ending(ended('unobserved', 'a', 'b')), 'seen last at a; b was not observed');
});
