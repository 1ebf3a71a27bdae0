import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { promisify } from 'node:util';
import vm from 'node:vm';
import { gzipSync } from 'node:zlib';
import * as module from '../token-relay.js';

const at = (name) => new URL(`../${name}`, import.meta.url);

test('the builds are current', async () => {
  await promisify(execFile)(process.execPath, [at('build.mjs').pathname, '--check']);
});

for (const name of ['token-relay.js', 'token-relay.global.js']) {
  test(`${name} stays below 5 kB compressed`, async () => {
    const size = gzipSync(await readFile(at(name)), { level: 9 }).length;
    assert.ok(size < 5000, `${size} bytes`);
  });
}

test('the script-tag build offers what the module exports', async () => {
  const context = vm.createContext({});
  vm.runInContext(await readFile(at('token-relay.global.js'), 'utf8'), context);
  assert.deepEqual(Object.keys(context.tokenRelay).sort(), Object.keys(module).sort());
});

test('every export is typed', async () => {
  const types = await readFile(at('token-relay.d.ts'), 'utf8');
  for (const name of Object.keys(module)) assert.match(types, new RegExp(`export (class|function) ${name}\\b`));
});
