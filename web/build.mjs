// Makes the bundle that internal/collector/web embeds: ../internal/collector/web/dist.
//
//	node build.mjs          build, and fail if it is too large
import { build } from 'esbuild';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

const out = '../internal/collector/web/dist';
const most = 150_000; // bytes, gzipped, of everything that a browser loads

mkdirSync(out, { recursive: true });
for (const name of readdirSync(out)) {
	if (name !== 'placeholder.html') rmSync(`${out}/${name}`, { recursive: true });
}

await build({
	entryPoints: { app: 'src/main.ts', theme: 'src/theme.ts', style: 'src/style.css' },
	outdir: out,
	bundle: true,
	minify: true,
	format: 'iife',
	target: ['es2022', 'chrome110', 'firefox115', 'safari16'],
	loader: { '.woff2': 'file' },
	assetNames: '[name]',
	legalComments: 'none',
	logLevel: 'warning',
});
copyFileSync('src/icon.svg', `${out}/icon.svg`);

// What the bundle is made of, and on which terms.
const parts = ['uplot', 'd3-force', 'd3-quadtree', 'd3-dispatch', 'd3-timer', '@fontsource-variable/inter'];
writeFileSync(`${out}/licenses.txt`, parts.map((name) =>
	`${name}\n\n${readFileSync(`node_modules/${name}/LICENSE`, 'utf8').trim()}\n`).join('\n\n'));

const index = readFileSync('src/index.html');
let total = gzipSync(index, { level: 9 }).length;
for (const name of readdirSync(out)) {
	if (name === 'placeholder.html' || name === 'licenses.txt') continue;
	const data = readFileSync(`${out}/${name}`);
	total += name.endsWith('.woff2') ? data.length : gzipSync(data, { level: 9 }).length;
}
console.error(`page: ${total} bytes gzipped`);
if (total > most) {
	console.error(`page: more than ${most}`);
	process.exit(1);
}
writeFileSync(`${out}/index.html`, index); // last: scripts/page takes it for a sign that all is well
