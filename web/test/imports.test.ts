import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

/** The modules that a file imports, for types too. */
function imports(file: string): string[] {
	const text = readFileSync(file, 'utf8');
	return [...text.matchAll(/^(?:import|export)\b[^;]*?from '(\.[^']*)';/gms)].map(([, name]) => {
		const path = normalize(join(dirname(file), name!));
		return statSync(path, { throwIfNoEntry: false })?.isDirectory() ? join(path, 'index.ts') : `${path}.ts`;
	});
}

/** The first circle of imports that is reached from a file, or nothing. */
function circle(file: string, edges: (file: string) => string[], way: string[] = [], done = new Set<string>()): string[] {
	if (way.includes(file)) return [...way.slice(way.indexOf(file)), file];
	if (done.has(file)) return [];
	for (const next of edges(file)) {
		const found = circle(next, edges, [...way, file], done);
		if (found.length) return found;
	}
	done.add(file);
	return [];
}

test('a circle is found', () => {
	const edges: Record<string, string[]> = { a: ['b', 'c'], b: [], c: ['d'], d: ['c'] };
	assert.deepEqual(circle('a', (f) => edges[f]!), ['c', 'd', 'c']);
	assert.deepEqual(circle('b', (f) => edges[f]!), []);
});

test('no module imports itself by way of others', () => {
	const files = (readdirSync('src', { recursive: true }) as string[]).filter((f) => f.endsWith('.ts')).map((f) => join('src', f));
	assert.ok(files.length > 15, `only ${files.length} sources were found`);
	assert.ok(files.some((f) => imports(f).includes(join('src', 'view.ts'))), 'imports are not found');
	for (const file of files) assert.deepEqual(circle(file, imports), []);
});

test('only the registry and its views know the views', () => {
	for (const file of readdirSync('src').filter((f) => f.endsWith('.ts'))) {
		const known = imports(join('src', file)).filter((f) => f.startsWith(join('src', 'views')));
		assert.deepEqual(known, file === 'main.ts' ? [join('src', 'views', 'index.ts')] : []);
	}
});
