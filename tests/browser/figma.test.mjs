// The plug-in for Figma, checked against Figma's types and run as Figma runs it: its code beside a page in a
// sandboxed frame, which has the origin `null`, reaches the domains of the manifest alone, and can open no
// window. What the code needs of Figma is imitated; the person's browser is another one.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, logIn, startDemo, STATIC, until, violations } from './support.mjs';

const MODULES = new URL('./node_modules/', import.meta.url).pathname;
const RELAY = 'http://127.0.0.1:8080';

/** What stands in for Figma: the parts of its API that the example uses. */
function imitate(html, kept) {
  const frame = document.querySelector('iframe');
  const copy = (value) => structuredClone(value);
  globalThis.__html__ = html;
  globalThis.figma = {
    showUI(page) { frame.srcdoc = page; },
    openExternal(url) { globalThis.opened = url; },
    ui: { onmessage: undefined, postMessage(message) { frame.contentWindow.postMessage({ pluginMessage: copy(message) }, '*'); } },
    clientStorage: {
      getAsync: async (key) => copy(kept[key]),
      setAsync: async (key, value) => { kept[key] = copy(value); },
      deleteAsync: async (key) => { delete kept[key]; },
    },
  };
  globalThis.kept = kept;
  addEventListener('message', ({ source, data }) => source === frame.contentWindow && figma.ui.onmessage?.(data.pluginMessage));
}

let browser;
let relay; // lets pages without an origin in
let strict; // does not
let folder;
let host;

/** The command of the example's package.json. */
const build = () => execFileSync('npm', ['run', 'build'], { cwd: folder, stdio: 'pipe' });

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'token-relay-figma-'));
  cpSync(`${STATIC}examples/figma`, folder, { recursive: true });
  mkdirSync(join(folder, 'node_modules'));
  for (const name of ['@figma', 'typescript', '.bin']) symlinkSync(join(MODULES, name), join(folder, 'node_modules', name));
  build();
  relay = await startDemo({ TOKEN_RELAY_OPAQUE_ORIGINS: 'true' });
  strict = await startDemo();
  host = http.createServer((request, response) => {
    // A frame of `srcdoc` has the policy of its parent.
    const [, address] = request.url.split('?relay=');
    const { networkAccess } = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8').replaceAll(RELAY, address));
    const domains = [...networkAccess.allowedDomains, ...networkAccess.devAllowedDomains].join(' ');
    response.writeHead(200, {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': `default-src 'none'; script-src 'unsafe-inline' ${domains}; style-src 'unsafe-inline'; connect-src ${domains}`,
    }).end('<!doctype html><html lang="en"><title>Host</title><link rel="icon" href="data:,"><iframe sandbox="allow-scripts" title="Plug-in" width="320" height="300"></iframe>');
  });
  await new Promise((listening) => { host.listen(0, '127.0.0.1', listening); });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  relay?.stop();
  strict?.stop();
  host?.close();
  if (folder) rmSync(folder, { recursive: true });
});

test('the code fits the types of Figma, and is built by the command in package.json', () => {
  const { scripts, devDependencies } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const own = JSON.parse(readFileSync(new URL('./package.json', import.meta.url), 'utf8')).devDependencies;
  for (const [name, wanted] of Object.entries(devDependencies)) assert.equal(own[name], wanted, name);
  assert.equal(scripts.build, 'tsc');
  assert.match(readFileSync(join(folder, 'code.js'), 'utf8'), /figma\.showUI/);
  // The types are there: a call that Figma does not have is refused.
  writeFileSync(join(folder, 'code.ts'), readFileSync(join(folder, 'code.ts'), 'utf8').replace('openExternal', 'openWindow'));
  assert.throws(build, ({ stdout }) => /openWindow/.test(String(stdout)));
  cpSync(`${STATIC}examples/figma/code.ts`, join(folder, 'code.ts'));
  build();
});

/** The plug-in in its host. */
async function run(address, kept = {}) {
  const context = await browser.newContext({ bypassCSP: false });
  const page = await context.newPage();
  const requests = [];
  page.on('request', (request) => requests.push(request));
  await page.goto(`http://127.0.0.1:${host.address().port}/?relay=${address}`);
  await page.evaluate(`(${imitate})(${JSON.stringify(readFileSync(join(folder, 'ui.html'), 'utf8').replaceAll(RELAY, address))}, ${JSON.stringify(kept)})`);
  await page.evaluate(readFileSync(join(folder, 'code.js'), 'utf8'));
  const plugin = page.frames()[1] ?? await page.waitForEvent('frameattached');
  await plugin.waitForSelector('#sign-in');
  return { context, page, plugin, requests, status: () => plugin.textContent('#status') };
}

test('signs in by the code, gets the token by push, keeps it and forgets it', async () => {
  const { context, page, plugin, requests, status } = await run(relay.address);
  assert.equal(await plugin.evaluate(() => globalThis.origin), 'null');
  assert.equal(await plugin.evaluate(() => globalThis.opener), null);
  await plugin.click('#sign-in');
  await until('the browser is opened', () => page.evaluate(() => globalThis.opened));
  const code = await plugin.textContent('#code');
  assert.match(code, /^[A-Z]{4}-[A-Z]{4}$/);

  const theirs = await browser.newContext();
  const dialog = await theirs.newPage();
  await dialog.goto(await page.evaluate(() => globalThis.opened));
  await dialog.waitForSelector('#user-code:visible');
  assert.match(await dialog.textContent('main'), /Figma example/);
  assert.doesNotMatch(await dialog.textContent('main'), /null/);
  await dialog.fill('#user-code', code);
  await dialog.press('#user-code', 'Enter');
  await logIn(dialog, 'alice');
  await dialog.click('button[value=continue]:enabled');
  await until('the plug-in has the token', async () => /Signed in as Alice Liddell, alice@example.com\./.test(await status()));
  await theirs.close();

  const paths = requests.map((request) => `${request.method()} ${new URL(request.url(), 'about:').pathname}`);
  assert.equal(paths.filter((path) => /^GET .*\/events$/.test(path)).length, 1, paths.join());
  assert.ok(!paths.some((path) => /^GET \/addons\/sessions\/[\w-]+$/.test(path)), 'no polling');
  const creation = requests.find((request) => request.method() === 'POST');
  assert.equal((await creation.allHeaders()).origin, 'null');
  const answered = await (await creation.response()).allHeaders();
  assert.equal(answered['access-control-allow-origin'], 'null');
  assert.equal(answered['access-control-allow-credentials'], undefined);
  assert.deepEqual(await context.cookies(), [], 'no cookie');

  const kept = await page.evaluate(() => globalThis.kept);
  assert.ok(kept['token-relay'].access_token);
  const again = await run(relay.address, kept);
  await until('an earlier token is used', async () => /Alice Liddell/.test(await again.status()));
  await again.plugin.click('#sign-out');
  await until('the token is forgotten', () => again.page.evaluate(() => !globalThis.kept['token-relay']));
  await again.context.close();
  await context.close();
});

test('where the operator does not allow it, the plug-in says what would', async () => {
  const { context, page, plugin, status } = await run(strict.address);
  await plugin.click('#sign-in');
  await until('the refusal is explained', async () => /Not signed in: /.test(await status()));
  assert.match(await status(), /no origin of its own \(null\).*OPAQUE_ORIGINS/);
  assert.equal(await page.evaluate(() => globalThis.opened), undefined);
  await context.close();
});

test('the page of the plug-in is accessible', async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.setContent(readFileSync(join(folder, 'ui.html'), 'utf8').replaceAll(RELAY, relay.address));
  assert.deepEqual(await violations(page), []);
  await context.close();
});
