import assert from 'node:assert/strict';
import { test } from 'node:test';
import { reasons } from '../src/views/monitoring';

test('what is lost has its reason, and what is missing for none is said', () => {
	const e = { received: 10, passed: 6, lost: [{ reason: 'queue full', count: 2 }], held: 2, source: 'feed', adrift: 0, unaccounted: 0 };
	assert.deepEqual(reasons(e), ['2 queue full']);
	assert.deepEqual(reasons({ ...e, unaccounted: 1, adrift: 3 }), ['2 queue full', '1 unaccounted for', '3 unaccounted for since feed']);
});
