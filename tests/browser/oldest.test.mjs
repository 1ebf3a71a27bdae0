// The oldest Chrome that the client says it supports: 80, as an npm package has it. The module as it is
// served, the script-tag build and the dialog's pages, up to the token.
import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { brotliDecompressSync } from 'node:zlib';
import { parse } from 'acorn';
import puppeteer from 'puppeteer-core';
import { serveFolder, startDemo, STATIC } from './support.mjs';

const require = createRequire(import.meta.url);
let folder;
let site;
let elsewhere;
let demo;
let browser;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'token-relay-'));
  const executablePath = join(folder, 'chromium');
  writeFileSync(executablePath, brotliDecompressSync(readFileSync(require.resolve('chrome-aws-lambda/bin/chromium.br'))));
  chmodSync(executablePath, 0o755);
  site = await serveFolder(folder);
  // By another name it is another site, whose window needs the opener's proof.
  elsewhere = site.address.replace('127.0.0.1', 'localhost');
  demo = await startDemo({ TOKEN_RELAY_ALLOWED_ORIGINS: `${site.address},${elsewhere}` });
  const page = (script) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>Site</title><button>Sign in</button>${script}
    <script>document.querySelector('button').onclick = () => { window.outcome = window.client.signIn({ baseUrl: '${demo.address}', ...window.options }).catch(({ name, code, message }) => ({ name, code, message })); };</script>`;
  writeFileSync(join(folder, 'module.html'), page(`<script type="module">import * as client from '${demo.address}/addons/static/token-relay.js'; window.client = client;</script>`));
  writeFileSync(join(folder, 'global.html'), page(`<script src="${demo.address}/addons/static/v1/token-relay.global.js"></script><script>window.client = tokenRelay;</script>`));
  browser = await puppeteer.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
});

after(async () => {
  await browser?.close();
  demo?.stop();
  site?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

async function begun(path, options = {}, from = site.address) {
  const page = await browser.newPage();
  const troubles = [];
  page.on('pageerror', (error) => troubles.push(String(error)));
  await page.goto(`${from}/${path}`);
  await page.waitForFunction(() => window.client);
  await page.evaluate((given) => { window.options = given; }, options);
  const popup = new Promise((opened) => { page.once('popup', opened); });
  await page.click('button');
  return { page, troubles, dialog: await popup };
}

test('it is Chrome 80', async () => {
  assert.match(await browser.version(), /Chrome\/80\./);
});

for (const path of ['module.html', 'global.html']) {
  for (const transport of ['sse', 'websocket', 'long-poll']) {
    test(`a sign-in by ${transport} with ${path}`, async () => {
      const { page, troubles, dialog } = await begun(path, { transport });
      await dialog.waitForSelector('input[name=username]');
      await dialog.type('input[name=username]', 'alice');
      await dialog.type('input[name=password]', 'alice');
      await dialog.keyboard.press('Enter');
      const token = await page.evaluate(() => window.outcome);
      assert.ok(token.access_token, JSON.stringify(token));
      assert.equal(token.transport, transport);
      assert.deepEqual(troubles, []);
      await page.close();
    });
  }
}

test('a sign-in from another site, by the proof of the opener', async () => {
  const { page, troubles, dialog } = await begun('module.html', {}, elsewhere);
  await dialog.waitForSelector('input[name=username]');
  await dialog.type('input[name=username]', 'bob');
  await dialog.type('input[name=password]', 'bob');
  await dialog.keyboard.press('Enter');
  const token = await page.evaluate(() => window.outcome);
  assert.ok(token.access_token, JSON.stringify(token));
  assert.deepEqual(troubles, []);
  await page.close();
});

test('a sign-in that the page cancels ends as cancelled', async () => {
  const { page, troubles, dialog } = await begun('module.html');
  await dialog.waitForSelector('input[name=username]');
  const error = await page.evaluate(async (baseUrl) => {
    const controller = new AbortController();
    const waiting = window.client.waitForToken({
      baseUrl, signal: controller.signal, sessionToken: 'none',
      eventsUrl: `${baseUrl}/addons/sessions/none/events`, pollUrl: `${baseUrl}/addons/sessions/none`, websocketUrl: `${baseUrl}/addons/sessions/none/ws`,
    });
    controller.abort();
    return waiting.then(() => 'a token', ({ name, code }) => ({ name, code }));
  }, demo.address);
  assert.deepEqual(error, { name: 'SignInError', code: 'aborted' });
  assert.deepEqual(troubles, []);
  await page.close();
});

test('what is served to browsers is ES2020, which the others of that age understand too', () => {
  for (const file of ['client/token-relay.js', 'client/office.js', 'client/token-relay.global.js', 'pages/dialog.js', 'pages/proof.js']) {
    parse(readFileSync(`${STATIC}${file}`, 'utf8'), { ecmaVersion: 2020, sourceType: file.includes('global') ? 'script' : 'module' });
  }
});
