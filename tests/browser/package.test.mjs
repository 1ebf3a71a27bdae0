// The npm package as it is published, in a site that Vite bundles, in one that webpack bundles from
// `require`, and the relay's own copy by a script tag with an integrity hash: each signs a person in.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { build } from 'vite';
import webpack from 'webpack';
import { launch, logIn, openPage, serveFolder, startDemo, STATIC } from './support.mjs';

let folder;
let site;
let demo;
let browser;
let manifest;

const page = (head) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>Site</title><link rel="icon" href="data:,">${head}`;

/** A project that has the package installed, as `npm install` would unpack it. */
function project(name, files) {
  const root = join(folder, name);
  const modules = join(root, 'node_modules');
  mkdirSync(modules, { recursive: true });
  execFileSync('tar', ['xzf', tarball, '-C', modules]);
  execFileSync('mv', [join(modules, 'package'), join(modules, 'token-relay')]);
  writeFileSync(join(root, 'package.json'), JSON.stringify({ name, private: true }));
  for (const [file, text] of Object.entries(files)) writeFileSync(join(root, file), text);
  return root;
}

let tarball;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'token-relay-'));
  const packed = execFileSync('npm', ['pack', '--json', '--silent', '--pack-destination', folder], { cwd: `${STATIC}client`, encoding: 'utf8' });
  tarball = join(folder, JSON.parse(packed.slice(packed.indexOf('[')))[0].filename);
  assert.ok(existsSync(tarball), tarball);
  site = await serveFolder(folder);
  demo = await startDemo({ TOKEN_RELAY_ALLOWED_ORIGINS: site.address });
  manifest = await (await fetch(`${demo.address}/addons/static/v1/integrity.json`)).json();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  demo?.stop();
  site?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

/** Signs in with `window.client` of the page. */
async function signsIn(path) {
  const { context, page, troubles } = await openPage(browser, `${site.address}/${path}`);
  await page.waitForFunction(() => window.client);
  const popup = page.waitForEvent('popup');
  await page.evaluate((baseUrl) => {
    window.outcome = window.client.signIn({ baseUrl, clientName: 'Test' }).catch(({ name, code }) => ({ name, code }));
  }, demo.address);
  await logIn(await popup, 'alice');
  const token = await page.evaluate(() => window.outcome);
  assert.ok(token.access_token, JSON.stringify(token));
  assert.deepEqual(troubles, []);
  await context.close();
}

test('a site that Vite bundles', async () => {
  const root = project('vite', {
    'index.html': page('<script type="module" src="/main.js"></script>'),
    'main.js': "import { signIn } from 'token-relay';\nimport { officeDialog } from 'token-relay/office';\nwindow.client = { signIn, officeDialog };\n",
  });
  await build({ root, base: './', logLevel: 'error', build: { outDir: 'dist' } });
  await signsIn('vite/dist/index.html');
});

test('a site that webpack bundles from require', async () => {
  const root = project('webpack', {
    'main.cjs': "const { signIn } = require('token-relay');\nconst { officeDialog } = require('token-relay/office');\nwindow.client = { signIn, officeDialog };\n",
    'index.html': page('<script src="dist/main.js"></script>'),
  });
  const run = promisify(webpack);
  const stats = await run({ context: root, mode: 'production', entry: './main.cjs', output: { path: join(root, 'dist'), filename: 'main.js' } });
  assert.ok(!stats.hasErrors() && !stats.hasWarnings(), stats.toString());
  await signsIn('webpack/index.html');
});

const tag = (integrity) => `<script src="${demo.address}/addons/static/v1/token-relay.global.js" integrity="${integrity}" crossorigin="anonymous"></script><script>window.client = globalThis.tokenRelay ?? null; window.ran = true;</script>`;

test('a script tag with the integrity hash that the relay publishes', async () => {
  writeFileSync(join(folder, 'tag.html'), page(tag(manifest['token-relay.global.js'])));
  await signsIn('tag.html');
});

test('a browser refuses a file with another hash', async () => {
  writeFileSync(join(folder, 'other.html'), page(tag(manifest['office.js'])));
  const { context, page: opened } = await openPage(browser, `${site.address}/other.html`);
  await opened.waitForFunction(() => window.ran);
  assert.equal(await opened.evaluate(() => window.client), null);
  await context.close();
});
