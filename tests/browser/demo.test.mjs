// The demo and the dialog in a real browser: Debian's Chromium, driven over its debugging protocol.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const BROWSER = '/usr/bin/chromium';
const BINARY = process.env.RELAY_BINARY ?? new URL('../../target/release/token-relay', import.meta.url).pathname;
const SCREENSHOTS = new URL('./screenshots/', import.meta.url).pathname;
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

let browser;
let relay;
let address;

before(async () => {
  assert.ok(existsSync(BROWSER), 'Chromium is missing: apt-get install chromium');
  assert.ok(existsSync(BINARY), `${BINARY} is missing: cargo build --release`);
  mkdirSync(SCREENSHOTS, { recursive: true });
  relay = spawn(BINARY, ['demo', '--no-open', '--listen', '127.0.0.1:0', '--provider-listen', '127.0.0.1:0'], { stdio: ['ignore', 'pipe', 'inherit'] });
  address = await new Promise((resolve, reject) => {
    relay.stdout.on('data', (bytes) => resolve(String(bytes).match(/http:\/\/\S+/)[0]));
    relay.on('exit', () => reject(new Error('the demo ended')));
  });
  browser = await chromium.launch({
    executablePath: BROWSER,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
});

after(async () => {
  await browser?.close();
  relay?.kill();
});

/** A pane in a browser of its own, with what it asked the relay for and what went wrong in it. */
async function openPane(options = {}) {
  const context = await browser.newContext({ viewport: { width: 420, height: 900 }, ...options });
  const page = await context.newPage();
  const requests = [];
  const troubles = [];
  page.on('request', (request) => requests.push(`${request.method()} ${new URL(request.url()).pathname}`));
  page.on('websocket', (socket) => requests.push(`WS ${new URL(socket.url()).pathname}`));
  page.on('pageerror', (error) => troubles.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && troubles.push(message.text()));
  await page.goto(address);
  return { context, page, requests, troubles };
}

async function choose(page, transport) {
  // The radio button is drawn by its label.
  await page.locator(`input[name=transport][value="${transport}"]`).check({ force: true });
}

async function openDialog(page) {
  const popup = page.waitForEvent('popup');
  await page.click('#sign-in');
  return popup;
}

async function logIn(dialog, user, password = user) {
  await dialog.waitForSelector('input[name=username]');
  await dialog.fill('input[name=username]', user);
  await dialog.fill('input[name=password]', password);
  await dialog.press('input[name=password]', 'Enter');
}

const state = (page, wanted) => page.waitForSelector(`#status[data-state="${wanted}"]`, { timeout: 20_000 });

async function violations(page) {
  await page.evaluate(AXE);
  const result = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }));
  return result.violations.map((violation) => `${violation.id}: ${violation.nodes.map((node) => node.html).join(' ')}`);
}

for (const [transport, user, shown, opened] of [
  ['sse', 'alice', 'server-sent events', /^GET .*\/events$/],
  ['websocket', 'bob', 'WebSocket', /^WS .*\/ws$/],
  ['long-poll', 'carol', 'Long poll', /^GET \/addons\/sessions\/[\w-]+$/],
]) {
  test(`a sign-in by ${transport}`, async () => {
    const { context, page, requests, troubles } = await openPane();
    await choose(page, transport);
    const dialog = await openDialog(page);
    await logIn(dialog, user);
    await state(page, 'signed-in');
    assert.match(await page.textContent('#account'), new RegExp(user, 'i'));
    assert.match(await page.textContent('#transport-used'), new RegExp(shown.replace(' ', '.?'), 'i'));
    assert.match(await page.textContent('#latency'), /^\d+$/);
    assert.match(await page.textContent('#claims'), new RegExp(`${user}@example.com`));
    assert.match(await page.textContent('#me'), new RegExp(`"sub": "${user}"`));
    const streams = requests.filter((request) => opened.test(request));
    assert.equal(streams.length, 1, `one stream and no polling: ${requests.join(', ')}`);
    assert.deepEqual(troubles, []);
    await page.screenshot({ path: `${SCREENSHOTS}${transport}.png`, fullPage: true });
    await context.close();
  });
}

test('the dialog works without JavaScript and in French', async () => {
  const { context, page } = await openPane();
  await page.check('#confirm');
  const popup = context.waitForEvent('page');
  await page.click('#sign-in');
  const first = await popup;
  await first.waitForURL(/transit/);
  const code = await page.textContent('#user-code');
  assert.match(code, /^[A-Z]{4}-[A-Z]{4}$/);
  assert.match(await first.textContent('body'), new RegExp(code));
  await first.screenshot({ path: `${SCREENSHOTS}confirm.png` });
  await first.click('button[value=continue]');
  await logIn(first, 'alice');
  await state(page, 'signed-in');
  await context.close();

  const french = await browser.newContext({ javaScriptEnabled: false, locale: 'fr-FR' });
  const created = await french.request.post(`${address}/addons/sessions`);
  const session = await created.json();
  const dialog = await french.newPage();
  await dialog.goto(session.transit_url);
  await logIn(dialog, 'bob');
  await dialog.waitForURL(/addons\/success/);
  assert.equal(await dialog.getAttribute('html', 'lang'), 'fr');
  assert.match(await dialog.textContent('body'), /Bob Cratchit/);
  await dialog.screenshot({ path: `${SCREENSHOTS}success-fr.png` });
  await french.close();
});

test('"this is not me", a cancelled login and a wrong password show so', async () => {
  const { context, page } = await openPane();
  await page.check('#confirm');
  let dialog = await openDialog(page);
  await dialog.click('button[value=deny]');
  await state(page, 'failed');
  await page.uncheck('#confirm');
  dialog = await openDialog(page);
  await logIn(dialog, 'alice', 'wrong');
  await dialog.waitForSelector('[role=alert]');
  await dialog.click('button[value=cancel]');
  await state(page, 'failed');
  await page.screenshot({ path: `${SCREENSHOTS}failed.png`, fullPage: true });
  dialog = await openDialog(page);
  await page.click('#cancel');
  await state(page, 'cancelled');
  await context.close();
});

test('pane and dialog pages are accessible in light and dark', async () => {
  for (const colorScheme of ['light', 'dark']) {
    const { context, page } = await openPane({ colorScheme });
    assert.deepEqual(await violations(page), [], `pane, ${colorScheme}`);
    await page.check('#confirm');
    const dialog = await openDialog(page);
    await dialog.waitForSelector('button[value=continue]');
    const plain = await browser.newContext({ colorScheme, bypassCSP: true });
    const session = await (await plain.request.post(`${address}/addons/sessions`, { data: { bind: true, confirm: true, client_name: 'Test' } })).json();
    const pages = await plain.newPage();
    await pages.goto(session.transit_url);
    assert.deepEqual(await violations(pages), [], `confirm, ${colorScheme}`);
    await pages.click('button[value=continue]');
    await pages.waitForSelector('input[name=username]');
    assert.deepEqual(await violations(pages), [], `login, ${colorScheme}`);
    await pages.goto(`${address}/addons/error?error=expired&reference=BCDF-GHJK`);
    assert.deepEqual(await violations(pages), [], `error, ${colorScheme}`);
    await pages.screenshot({ path: `${SCREENSHOTS}error-${colorScheme}.png` });
    await pages.goto(`${address}/addons/success`);
    assert.deepEqual(await violations(pages), [], `success, ${colorScheme}`);
    await page.screenshot({ path: `${SCREENSHOTS}pane-${colorScheme}.png`, fullPage: true });
    await plain.close();
    await context.close();
  }
});

test('the pane and the dialog need no sideways scrolling in a narrow task pane', async () => {
  const { context, page } = await openPane({ viewport: { width: 320, height: 640 } });
  const overflow = (where) => where.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(await overflow(page), 0, 'pane before the sign-in');
  const dialog = await openDialog(page);
  await dialog.waitForSelector('input[name=username]');
  await dialog.setViewportSize({ width: 320, height: 640 });
  assert.equal(await overflow(dialog), 0, 'login form');
  await logIn(dialog, 'alice');
  await state(page, 'signed-in');
  assert.equal(await overflow(page), 0, 'pane with the claims');
  await page.screenshot({ path: `${SCREENSHOTS}narrow.png`, fullPage: true });
  await page.goto(`${address}/addons/error?error=expired&reference=BCDF-GHJK`);
  assert.equal(await overflow(page), 0, 'error page');
  await context.close();
});
