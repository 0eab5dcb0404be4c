import assert from 'node:assert/strict';
import { test } from 'node:test';

const location = { hash: '' };
Object.assign(globalThis, {
	location, addEventListener: () => undefined,
	history: { pushState: (_: unknown, __: string, to: string) => { location.hash = to; }, replaceState: (_: unknown, __: string, to: string) => { location.hash = to; } },
});
const { State } = await import('../src/state');
const { views } = await import('../src/views');

test('each view has a route and a title of its own', () => {
	assert.ok(views.length >= 6);
	assert.equal(new Set(views.map((v) => v.route)).size, views.length);
	assert.equal(new Set(views.map((v) => v.title)).size, views.length);
	for (const v of views) assert.match(v.route, /^[a-z]+$/);
});

test('an address says which view is shown', () => {
	for (const [hash, want] of [['', 'home'], ['#second', 'second'], ['#second?w=60', 'second'], ['#nothing', 'home'], ['#__proto__', 'home']] as const) {
		location.hash = hash;
		assert.equal(new State(['home', 'second']).view, want, hash);
	}
});

test('what an address says comes back when it is written', () => {
	location.hash = '#second?w=60&end=1000&u=packets&hide=3,1&flow=2&q=x%20y';
	const state = new State(['home', 'second']);
	state.set({ filter: 'x y' });
	assert.equal(location.hash, '#second?w=60&end=1000&u=packets&hide=1%2C3&flow=2&q=x+y');
	assert.deepEqual([state.window, state.end, state.unit, [...state.hidden], state.flow], [60, 1000, 'packets', [3, 1], 2]);
});

test('what makes no sense in an address is left out', () => {
	location.hash = '#home?w=-5&end=x&u=ells&hide=1,x,3&flow=-2&theme=pink';
	const state = new State(['home']);
	assert.deepEqual([state.window, state.end, state.unit, [...state.hidden], state.flow, state.theme], [300, null, 'bits', [1, 3], -1, '']);
});
