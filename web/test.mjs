// Runs the unit tests in test/, which need no browser.
//
//	node test.mjs
import { build } from 'esbuild';
import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';

const out = 'node_modules/.tests';
rmSync(out, { recursive: true, force: true });
const tests = readdirSync('test').filter((name) => name.endsWith('.test.ts'));
await build({
	entryPoints: tests.map((name) => `test/${name}`), outdir: out, outExtension: { '.js': '.mjs' },
	bundle: true, format: 'esm', platform: 'node', target: 'node18', logLevel: 'warning',
});
const { status } = spawnSync(process.execPath, ['--test', ...tests.map((name) => `${out}/${name.replace(/ts$/, 'mjs')}`)], { stdio: 'inherit' });
process.exit(status ?? 1);
