import assert from 'node:assert/strict';
import { test } from 'node:test';
import { merge } from '../src/feed';
import type { Overview, Series } from '../src/model';

const series = (list: (number | null)[]): Series => ({ packets: list, bits: list.map((v) => v && 8 * v) });
const overview = (from: number, list: (number | null)[], row = 0): Overview => ({
	window: { from, to: from + list.length, step: 1, points: list.length }, series: series(list),
	total: { packets: 0, bits: 0 }, relayed: { packets: 0, bits: 0 }, seen: { packets: 0, bits: 0 }, hosts: [],
	flows: [{ row, primary: { packets: 0, bits: 0 }, secondary: { packets: 0, bits: 0 }, primarySeries: series(list), secondarySeries: series(list.map(() => 0)) }],
});

test('newer seconds are put over the window, which moves on', () => {
	const got = merge(overview(100, [1, 2, 3, 4]), overview(103, [40, 5]), 105, false);
	assert.deepEqual([got.window.from, got.window.to], [101, 105]);
	assert.deepEqual(got.series.packets, [2, 3, 40, 5]);
	assert.deepEqual(got.total, { packets: 50, bits: 400 });
	assert.deepEqual(got.flows[0]!.primary, { packets: 50, bits: 400 });
});

test('a flow that is new had no traffic before, unless that is unknown', () => {
	const got = merge(overview(100, [1, null, 3, 4]), overview(103, [4, 5], 1), 105, false);
	assert.deepEqual(got.flows.map((f) => [f.row, f.primarySeries.packets]), [[0, [null, 3, 0, 0]], [1, [null, 0, 4, 5]]]);
});
