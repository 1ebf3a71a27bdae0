// Who may have the token, seen from the pane: the client module and the relay's dialog in Chromium, with the
// pane on the relay's own site, on a foreign one, in a frame, cut off from its window, and of version 0.1.
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, logIn, openPage, serveFolder, startDemo, STATIC, until } from './support.mjs';

const HERE = new URL('.', import.meta.url).pathname;

let folder;
let site;
let foreign; // the same site by a name that is not same-site with the relay
let isolated; // its pages are cut off from the windows that they open
let demo;
let browser;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'token-relay-proofs-'));
  cpSync(`${STATIC}client/token-relay.js`, join(folder, 'token-relay.js'));
  cpSync(join(HERE, 'fixtures/token-relay-0.1.js'), join(folder, 'token-relay-0.1.js'));
  const page = (body) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>Pane</title><link rel="icon" href="data:,">${body}`;
  writeFileSync(join(folder, 'pane.html'), page('<script type="module">import * as client from "./token-relay.js"; window.client = client;</script>'));
  writeFileSync(join(folder, 'old.html'), page('<script type="module">import * as client from "./token-relay-0.1.js"; window.client = client;</script>'));
  site = await serveFolder(folder);
  foreign = site.address.replace('127.0.0.1', 'pane.localhost');
  writeFileSync(join(folder, 'host.html'), page(`<iframe src="${foreign}/pane.html" style="width:400px;height:400px"></iframe>`));
  isolated = await serveFolder(folder, { 'cross-origin-opener-policy': 'same-origin' });
  const origins = [foreign, site.address, isolated.address.replace('127.0.0.1', 'pane.localhost')];
  demo = await startDemo({ TOKEN_RELAY_ALLOWED_ORIGINS: origins.join(','), TOKEN_RELAY_PROOFS: 'browser opener code' });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  demo?.stop();
  site?.stop();
  isolated?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

/** Opens a pane; `frame` is where its script runs. */
async function openPane(address, options) {
  const opened = await openPage(browser, address, { bypassCSP: true, ...options });
  opened.sent = [];
  opened.context.on('request', (request) => opened.sent.push(`${request.method()} ${new URL(request.url()).pathname}`));
  return opened;
}

async function signIn(page, frame, options = {}) {
  const popup = page.waitForEvent('popup');
  await frame.evaluate(({ baseUrl, ...rest }) => {
    window.progress = [];
    window.outcome = window.client.signIn({ baseUrl, clientName: 'Pane', onProgress: (step) => window.progress.push(step), ...rest })
      .then(({ access_token: token }) => token, ({ code }) => code);
  }, { baseUrl: demo.address, ...options });
  return popup;
}

const steps = (frame) => frame.evaluate(() => window.progress.map(({ step }) => step));
const ready = (frame) => frame.waitForFunction(() => window.client);

async function subject(frame) {
  const answer = await fetch(`${demo.address}/addons/me`, { headers: { authorization: `Bearer ${await frame.evaluate(() => window.outcome)}` } });
  return (await answer.json()).sub;
}

test('on a site of the relay the window goes straight to the login', async () => {
  const { context, page, sent } = await openPane(`${site.address}/pane.html`);
  await ready(page);
  const dialog = await signIn(page, page);
  await logIn(dialog, 'alice');
  assert.equal(await subject(page), 'alice');
  assert.deepEqual(sent.filter((request) => /transit/.test(request)), ['GET /addons/transit/'], 'one page of the relay, and no form');
  await context.close();
});

for (const [what, open] of [
  ['on a foreign site', async () => {
    const opened = await openPane(`${foreign}/pane.html`);
    return { ...opened, frame: opened.page };
  }],
  ['in a frame of a foreign site', async () => {
    const opened = await openPane(`${site.address}/host.html`);
    return { ...opened, frame: opened.page.frames().find((each) => each.url().startsWith(foreign)) };
  }],
]) {
  test(`${what} the pane gives the proof and nobody clicks`, async () => {
    const { context, page, frame, sent } = await open();
    await ready(frame);
    const dialog = await signIn(page, frame);
    await dialog.waitForSelector('input[name=username]');
    assert.ok((await steps(frame)).includes('proved'));
    assert.deepEqual(sent.filter((request) => request.startsWith('POST') && /transit/.test(request)), ['POST /addons/transit/proof']);
    await logIn(dialog, 'bob');
    assert.equal(await subject(frame), 'bob');
    assert.ok(!(await steps(frame)).includes('code') && !(await steps(frame)).includes('dialog-closed'), 'nothing that unsettles the person');
    await context.close();
  });
}

test('a page that is cut off from its window shows the code, and the person types it', async () => {
  const { context, page } = await openPane(`${isolated.address.replace('127.0.0.1', 'pane.localhost')}/pane.html`);
  await ready(page);
  const opened = context.waitForEvent('page');
  await page.evaluate((baseUrl) => {
    window.progress = [];
    window.outcome = window.client.signIn({ baseUrl, onProgress: (step) => window.progress.push(step) }).then(({ access_token: token }) => token, ({ code }) => code);
  }, demo.address);
  const dialog = await opened;
  await page.waitForFunction(() => window.progress.some(({ step }) => step === 'code'));
  const code = await page.evaluate(() => window.progress.find(({ step }) => step === 'code').userCode);
  await dialog.fill('#user-code', code.toLowerCase().replace('-', ''));
  await dialog.press('#user-code', 'Enter');
  await logIn(dialog, 'carol');
  await until('the account page, or the token', async () => (await dialog.$('main form button')) || (await steps(page)).includes('delivered'));
  const agree = await dialog.$('main form button');
  if (agree) await agree.click();
  assert.equal(await subject(page), 'carol');
  await context.close();
});

test('the module of version 0.1, still cached, signs in through the code page', async () => {
  const { context, page } = await openPane(`${site.address}/old.html`);
  await ready(page);
  const dialog = await signIn(page, page);
  const { userCode } = await page.waitForFunction(() => window.progress.find(({ step }) => step === 'created')).then((handle) => handle.jsonValue());
  await dialog.waitForSelector('#user-code:visible');
  await dialog.fill('#user-code', userCode);
  await dialog.press('#user-code', 'Enter');
  await logIn(dialog, 'alice');
  await dialog.click('main form button');
  assert.equal(await subject(page), 'alice');
  await context.close();
});

test('a window of a stranger with the session of a stranger gets no proof from the pane', async () => {
  const { context, page } = await openPane(`${foreign}/pane.html`);
  await ready(page);
  const dialog = await signIn(page, page);
  await dialog.waitForSelector('input[name=username]');
  const messages = await page.evaluate(async (relay) => {
    // What a page in another window would see: messages that the pane sends to it.
    const seen = [];
    const frame = document.createElement('iframe');
    document.body.append(frame);
    frame.contentWindow.addEventListener('message', ({ data }) => seen.push(data));
    window.dispatchEvent(new MessageEvent('message', {
      source: frame.contentWindow, origin: relay, data: { type: 'token-relay:ready', challenge: 'A'.repeat(43) },
    }));
    await new Promise((resolve) => { setTimeout(resolve, 300); });
    return seen;
  }, demo.address);
  assert.deepEqual(messages, []);
  await context.close();
});
