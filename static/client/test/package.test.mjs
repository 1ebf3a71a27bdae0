import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

const cwd = new URL('..', import.meta.url).pathname;
let folder;
let tarball;
let files;

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'token-relay-'));
  const packed = execFileSync('npm', ['pack', '--json', '--silent', '--pack-destination', folder], { cwd, encoding: 'utf8' });
  const [{ filename, files: list }] = JSON.parse(packed.slice(packed.indexOf('[')));
  tarball = join(folder, filename);
  files = list.map(({ path }) => path).sort();
});

after(() => rmSync(folder, { recursive: true }));

test('the package holds the client, its types and nothing else', () => {
  assert.deepEqual(files, [
    'LICENSE', 'README.md', 'office.d.ts', 'office.js', 'package.json', 'token-relay.d.ts', 'token-relay.global.d.ts',
    'token-relay.global.js', 'token-relay.js',
  ]);
});

test('publint has nothing to say', () => {
  execFileSync('node_modules/.bin/publint', ['--strict', tarball], { cwd, stdio: 'pipe' });
});

// The package is made of modules alone: bundlers and Node.js 22 load them from `require`, and nothing
// else runs it.
test('the types resolve as the files do', () => {
  execFileSync('node_modules/.bin/attw', [tarball, '--no-emoji', '--ignore-rules', 'cjs-resolves-to-esm'], { cwd, stdio: 'pipe' });
});
