import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

function check(answers: { path: string; status: number; body: unknown }[]): { status: number | null; text: string } {
	const { status, stderr } = spawnSync(process.execPath, ['openapi.mjs'], { input: answers.map((a) => JSON.stringify(a)).join('\n'), encoding: 'utf8' });
	return { status, text: stderr };
}

test('openapi.json is a valid document, and answers as it says pass', () => {
	const { status, text } = check([
		{ path: '/api/v1/problems', status: 200, body: { problems: [], more: 0 } },
		{ path: '/api/v1/hops', status: 400, body: { error: 'limit=0' } },
	]);
	assert.equal(status, 0, text);
});

test('answers that are not as openapi.json says are found', () => {
	const { status, text } = check([
		{ path: '/api/v1/problems', status: 200, body: { problems: null, more: 0 } },
		{ path: '/api/v1/hops', status: 400, body: { wrong: 'limit=0' } },
		{ path: '/api/v1/packets', status: 200, body: { packets: [{}] } },
		{ path: '/api/v1/hops', status: 418, body: {} },
	]);
	assert.equal(status, 1);
	for (const want of [
		'/api/v1/problems, status 200: data/problems must be array', "/api/v1/hops, status 400: data must have required property 'error'",
		"data/packets/0 must have required property 'time_ns'", '/api/v1/hops, status 418: no such answer is described',
	]) assert.ok(text.includes(want), `${text}; want ${want}`);
});
