import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import vm from 'node:vm';
import { gzipSync } from 'node:zlib';
import * as module from '../token-relay.js';

const at = (name) => new URL(`../${name}`, import.meta.url);
const read = (name) => readFile(at(name), 'utf8');

test('the script-tag build is what `npm run build` makes of the source', async () => {
  const { scripts } = JSON.parse(await read('package.json'));
  // To standard output instead of the file.
  const command = scripts.build.replace(/ --outfile=\S+ --allow-overwrite$/, '');
  assert.notEqual(command, scripts.build);
  const built = execFileSync('sh', ['-c', `node_modules/.bin/${command}`], { cwd: at('.').pathname, encoding: 'utf8' });
  assert.equal(await read('token-relay.global.js'), built, 'run "npm run build" in static/client');
});

test('the script-tag build stays below 7.5 kB compressed', async () => {
  const size = gzipSync(await readFile(at('token-relay.global.js')), { level: 9 }).length;
  assert.ok(size < 7500, `${size} bytes`);
});

test('the script-tag build offers what the module exports', async () => {
  const context = vm.createContext({});
  vm.runInContext(await read('token-relay.global.js'), context);
  assert.deepEqual(Object.keys(context.tokenRelay).sort(), Object.keys(module).sort());
});

test('every export is typed', async () => {
  const types = await read('token-relay.d.ts');
  for (const name of Object.keys(module)) assert.match(types, new RegExp(`export (class|function) ${name}\\b`));
});
