// Checks that openapi.json is an OpenAPI document, and that answers of a server are what it says.
//
//	node openapi.mjs <answers       lines {"path": "/api/v1/hops", "status": 200, "body": ...}
import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { readFileSync } from 'node:fs';

const document = JSON.parse(readFileSync('../internal/collector/api/openapi.json', 'utf8'));
const { valid, errors } = await new Validator().validate(structuredClone(document));
if (!valid) {
	console.error('openapi.json is not valid:', JSON.stringify(errors));
	process.exitCode = 1;
}

const ajv = new Ajv2020({ strict: false, formats: { 'date-time': true }, allErrors: true });
ajv.addSchema(document, 'openapi.json');
let checked = 0;
for (const line of readFileSync(0, 'utf8').split('\n').filter((l) => l)) {
	const { path, status, body } = JSON.parse(line);
	let at = `/paths/${escape(path)}/get/responses/${status}`;
	const response = document.paths[path]?.get?.responses?.[status];
	if (response?.$ref) at = response.$ref.slice(1);
	const check = response && ajv.getSchema(`openapi.json#${at}/content/application~1json/schema`);
	if (!check || !check(body)) {
		console.error(`${path}, status ${status}: ${check ? ajv.errorsText(check.errors) : 'no such answer is described'}`);
		process.exitCode = 1;
	}
	checked++;
}
console.log(`${checked} answers`);

/** A piece of a JSON pointer in a URL (RFC 6901). */
function escape(text) {
	return encodeURIComponent(text.replaceAll('~', '~0').replaceAll('/', '~1'));
}
