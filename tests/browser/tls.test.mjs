// The relay without a proxy in a real browser: TLS and HTTP/2, many streams over one connection.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const BROWSER = '/usr/bin/chromium';
const BINARY = process.env.RELAY_BINARY ?? new URL('../../target/release/token-relay', import.meta.url).pathname;

let address;
let browser;
let folder;
let log = '';
let relay;

before(async () => {
  assert.ok(existsSync(BROWSER), 'Chromium is missing: apt-get install chromium');
  assert.ok(existsSync(BINARY), `${BINARY} is missing: cargo build --release`);
  folder = mkdtempSync(join(tmpdir(), 'token-relay-'));
  const [chain, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', chain], { stdio: 'ignore' });
  relay = spawn(BINARY, ['demo', '--no-open', '--listen', '127.0.0.1:0', '--provider-listen', '127.0.0.1:0'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TOKEN_RELAY_TLS_CERTIFICATE: chain, TOKEN_RELAY_TLS_KEY: key, TOKEN_RELAY_LOG: 'token_relay=debug' },
  });
  relay.stderr.on('data', (bytes) => { log += bytes; });
  address = await new Promise((resolve, reject) => {
    relay.stdout.on('data', (bytes) => resolve(String(bytes).match(/https:\/\/[^\s]+/)[0]));
    relay.on('exit', () => reject(new Error(`the demo ended: ${log}`)));
  });
  browser = await chromium.launch({
    executablePath: BROWSER,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
});

after(async () => {
  await browser?.close();
  relay?.kill();
  if (folder) rmSync(folder, { recursive: true });
});

/** The demo pane in a browser of its own, which takes the test's certificate. */
async function openPane() {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  const troubles = [];
  page.on('pageerror', (error) => troubles.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && troubles.push(message.text()));
  await page.goto(address);
  assert.equal(await page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol), 'h2');
  return { context, page, troubles };
}

for (const [transport, answered] of [
  ['sse', /method=GET route="\/addons\/sessions\/\{session_id\}\/events" status=200/],
  ['websocket', /method=CONNECT route="\/addons\/sessions\/\{session_id\}\/ws" status=200/],
]) {
  test(`a sign-in by ${transport} over HTTP/2`, async () => {
    const { context, page, troubles } = await openPane();
    await page.locator(`input[name=transport][value="${transport}"]`).check({ force: true });
    const popup = page.waitForEvent('popup');
    await page.click('#sign-in');
    const dialog = await popup;
    await dialog.waitForSelector('input[name=username]');
    await dialog.fill('input[name=username]', 'alice');
    await dialog.fill('input[name=password]', 'alice');
    await dialog.press('input[name=password]', 'Enter');
    await page.waitForSelector('#status[data-state="signed-in"]', { timeout: 20_000 });
    assert.deepEqual(troubles, []);
    assert.match(log, answered);
    await context.close();
  });
}

test('one page holds more streams than a browser has connections of HTTP/1.1', async () => {
  const { context, page } = await openPane();
  const result = await page.evaluate(async () => {
    const create = async () => (await (await fetch('/addons/sessions', { method: 'POST' })).json()).session_id;
    const sessions = await Promise.all(Array.from({ length: 20 }, create));
    const streams = sessions.map((session) => new EventSource(`/addons/sessions/${session}/events`));
    await Promise.all(streams.map((stream) => new Promise((resolve) => { stream.onopen = resolve; })));
    const begun = performance.now();
    const { status } = await fetch('/healthz');
    const took = performance.now() - begun;
    const open = streams.filter((stream) => stream.readyState === EventSource.OPEN).length;
    streams.forEach((stream) => stream.close());
    return { open, status, took };
  });
  assert.deepEqual([result.open, result.status], [20, 200]);
  assert.ok(result.took < 5000, `${result.took} ms`);
  await context.close();
});
