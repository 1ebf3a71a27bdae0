// The demo and the dialog in a real browser: Debian's Chromium, driven over its debugging protocol.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { freePort, launch, logIn, openPage, overflow, SCREENSHOTS, startDemo, STATIC, until, violations } from './support.mjs';

let browser;
let demo;
let address;

before(async () => {
  demo = await startDemo();
  ({ address } = demo);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  demo?.stop();
});

const openPane = (options) => openPage(browser, address, options);

async function choose(page, transport) {
  // The radio button is drawn by its label.
  await page.locator(`input[name=transport][value="${transport}"]`).check({ force: true });
}

async function openDialog(page) {
  const popup = page.waitForEvent('popup');
  await page.click('#sign-in');
  return popup;
}

const state = (page, wanted) => page.waitForSelector(`#status[data-state="${wanted}"]`, { timeout: 20_000 });

for (const [transport, user, shown, opened] of [
  ['sse', 'alice', 'server-sent events', /^GET .*\/events$/],
  ['websocket', 'bob', 'WebSocket', /^WS .*\/ws$/],
  ['long-poll', 'carol', 'Long poll', /^GET \/addons\/sessions\/[\w-]+\?wait/],
]) {
  test(`a sign-in by ${transport}`, async () => {
    const { context, page, requests, troubles } = await openPane();
    // What goes over the network, to compare with what the pane counts.
    const sent = { push: 0, poll: 0 };
    page.on('websocket', () => { sent.push += 1; });
    page.on('request', (request) => {
      const { pathname, search } = new URL(request.url());
      if (request.method() !== 'GET' || !pathname.startsWith('/addons/sessions/')) return;
      requests.push(`GET ${pathname}${search}`);
      sent[pathname.endsWith('/events') || search ? 'push' : 'poll'] += 1;
    });
    await choose(page, transport);
    const dialog = await openDialog(page);
    await dialog.fill('input[name=username]', user);
    await dialog.fill('input[name=password]', user);
    // Right after a poll, so that the next is a second away.
    const poll = (request) => /^\/addons\/sessions\/[\w-]+$/.test(new URL(request.url()).pathname) && !new URL(request.url()).search;
    await page.waitForRequest(poll);
    await dialog.press('input[name=password]', 'Enter');
    await state(page, 'signed-in');
    const told = async (way, what) => page.textContent(`#compare [data-way=${way}] .${what}`);
    await until('the poll has the token as well', async () => /ms/.test(await told('poll', 'late')));
    for (const way of ['push', 'poll']) assert.equal(Number(await told(way, 'requests')), sent[way], way);
    assert.ok(sent.poll >= 2, `${sent.poll} polls`);
    const [push, polled] = [parseInt(await told('push', 'late'), 10), parseInt(await told('poll', 'late'), 10)];
    assert.equal(push, Number(await page.textContent('#latency')));
    assert.ok(push < polled, `push is ${push} ms late, polling ${polled} ms`);
    assert.equal(await page.locator('#compare [data-way=poll] .asked').count(), sent.poll);
    // Both have had the token when it is acknowledged; then it is gone.
    if (transport !== 'websocket') await until('the token is acknowledged', () => requests.some((request) => request.startsWith('DELETE')));
    assert.match(await page.textContent('#account'), new RegExp(user, 'i'));
    assert.match(await page.textContent('#transport-used'), new RegExp(shown.replace(' ', '.?'), 'i'));
    assert.match(await page.textContent('#latency'), /^\d+$/);
    assert.match(await page.textContent('#claims'), new RegExp(`${user}@example.com`));
    assert.match(await page.textContent('#me'), new RegExp(`"sub": "${user}"`));
    const streams = new Set(requests.filter((request) => opened.test(request)));
    assert.equal(streams.size, 1, `one stream: ${requests.join(', ')}`);
    assert.deepEqual(troubles, []);
    await page.screenshot({ path: `${SCREENSHOTS}${transport}.png`, fullPage: true });
    await context.close();
  });
}

test('the platform of the demo keeps its login, and its API takes the token', async () => {
  const listen = `127.0.0.1:${await freePort()}`;
  const beside = await startDemo({}, '127.0.0.1:0', ['--platform', '--platform-listen', listen]);
  try {
    const { context, page, requests, troubles } = await openPage(browser, `http://${listen}/`);
    await page.click('a');
    const popup = page.waitForEvent('popup');
    await page.click('#sign-in');
    const dialog = await popup;
    await logIn(dialog, 'dora');
    await page.getByText(/rooms\/ → 201 Dora Spenlow \([0-9a-f-]{36}\), the token came by sse/).waitFor();
    assert.ok(!requests.some((request) => /poll/.test(request)), requests.join());
    assert.deepEqual(troubles, []);
    // The hook sees these sign-ins as well; both end for an account that is suspended.
    await page.goto(`http://${listen}/`);
    assert.match(await page.textContent('main'), /dora on this platform; tokens: 1/);
    assert.deepEqual(await violations(page), []);
    await page.click('button[value=true]');
    await page.goto(`http://${listen}/addin/pane`);
    const second = page.waitForEvent('popup');
    await page.click('#sign-in');
    const refused = await second;
    await logIn(refused, 'dora');
    await refused.locator('#status:has-text("Authentication credentials were not provided")').waitFor();
    // Nobody clicks a button that does nothing yet.
    await page.route('**/addin.js', (route) => route.abort());
    await page.goto(`http://${listen}/addin/pane`);
    assert.equal(await page.isVisible('#sign-in'), false);
    await context.close();
  } finally {
    beside.stop();
  }
});

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
  await dialog.screenshot({ path: `${SCREENSHOTS}legacy-fr.png` });
  await dialog.click('button[value=continue]');
  await logIn(dialog, 'bob');
  await dialog.waitForURL(/addons\/redirect/);
  await dialog.screenshot({ path: `${SCREENSHOTS}account-fr.png` });
  await dialog.click('button[value=continue]');
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
  assert.equal(await page.isVisible('#cancel'), false, 'nothing to cancel');
  dialog = await openDialog(page);
  await page.click('#cancel');
  await state(page, 'cancelled');
  assert.equal(await page.isVisible('#cancel'), false);
  assert.equal(await page.evaluate(() => document.activeElement.id), 'sign-in', 'the focus is not lost with the button');
  await context.close();
});

test('nothing that is there moves when a sign-in begins, is answered, and ends', async () => {
  for (const viewport of [{ width: 320, height: 640 }, { width: 420, height: 900 }, { width: 1280, height: 800 }]) {
    const { context, page } = await openPane({ viewport });
    const places = () => page.evaluate(() => ['#users', '#sign-in', '#status', '#steps', '#compare', '#result'].map((id) => {
      const { x, y } = document.querySelector(id).getBoundingClientRect();
      return [id, Math.round(x), Math.round(y + scrollY)];
    }));
    const idle = await places();
    const dialog = await openDialog(page);
    await state(page, 'waiting');
    assert.deepEqual(await places(), idle, `waiting, ${viewport.width}`);
    await logIn(dialog, 'alice');
    await state(page, 'signed-in');
    assert.deepEqual(await places(), idle, `signed in, ${viewport.width}`);
    await context.close();
  }
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
    await pages.setViewportSize({ width: 478, height: 460 });
    const look = async (name) => {
      assert.deepEqual(await violations(pages), [], `${name}, ${colorScheme}`);
      assert.equal(await overflow(pages), 0, `${name} is not too wide`);
      for (const button of await pages.locator('main button:visible').all()) {
        const { y, height } = await button.boundingBox();
        assert.ok(y + height <= 460, `${name}: "${await button.textContent()}" needs no scrolling`);
      }
      await pages.screenshot({ path: `${SCREENSHOTS}${name}-${colorScheme}.png` });
    };
    await pages.goto(session.transit_url);
    await pages.waitForSelector('#user-code:visible');
    await look('code');
    await pages.fill('#user-code', session.user_code);
    await pages.press('#user-code', 'Enter');
    await pages.waitForSelector('input[name=username]');
    assert.deepEqual(await violations(pages), [], `login, ${colorScheme}`);
    await logIn(pages, 'alice');
    await pages.waitForSelector('#question');
    await pages.waitForSelector('button[value=continue]:enabled');
    await look('account');
    await pages.click('button[value=continue]');
    await pages.waitForURL(/addons\/success/);
    await look('success');
    const compared = await pages.evaluate(async () => {
      const body = JSON.stringify({ bind: true, confirm: true, client_name: 'Test' });
      return (await fetch('/addons/sessions', { method: 'POST', headers: { 'content-type': 'application/json' }, body })).json();
    });
    await pages.goto(compared.transit_url);
    assert.match(await pages.textContent('body'), new RegExp(compared.user_code));
    await look('confirm');
    const legacy = await (await plain.request.post(`${address}/addons/sessions`)).json();
    await pages.goto(legacy.transit_url);
    await pages.waitForSelector('button[value=continue]:enabled');
    await look('legacy');
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

/** What differs from run to run gets a value of its own, so that the picture is always the same. */
function freeze() {
  const claims = {
    aud: 'https://relay.example', iss: 'https://relay.example', jti: 'vO3kq0Yw2mT6n8Qe1sLzXA',
    exp: 1795518013, iat: 1795514413, nbf: 1795514413, auth_time: 1795514413,
  };
  for (const row of document.getElementById('claims').tBodies[0].rows) {
    const value = claims[row.cells[0].textContent];
    if (value === undefined) continue;
    row.cells[1].replaceChildren(String(value));
    if (typeof value !== 'number') continue;
    const time = document.createElement('small');
    time.textContent = new Date(value * 1000).toISOString().replace('T', ' ').slice(0, 19);
    row.cells[1].append(' ', time);
  }
  const me = document.getElementById('me');
  const [status, ...body] = me.textContent.split('\n');
  me.textContent = `${status}\n${JSON.stringify({ ...JSON.parse(body.join('\n')), ...claims }, undefined, 2)}`;
  document.activeElement?.blur();
}

// The picture in the README shows the pane as it is. `UPDATE_SCREENSHOT=1` takes it again; without,
// the pane is compared by its text, structure and style sheet, since pixels depend on the fonts.
test('the picture in the README shows this pane', async () => {
  const picture = `${STATIC}demo/screenshot.png`;
  const record = `${STATIC}demo/screenshot.json`;
  const { context, page } = await openPane({ viewport: { width: 960, height: 800 }, deviceScaleFactor: 1.5, colorScheme: 'light', locale: 'en-US', reducedMotion: 'reduce' });
  const dialog = await openDialog(page);
  // For the picture, the person takes their time.
  if (process.env.UPDATE_SCREENSHOT) await page.waitForFunction(() => document.querySelectorAll('[data-way=poll] .asked').length >= 9);
  await logIn(dialog, 'alice');
  await state(page, 'signed-in');
  await page.waitForSelector('[data-way=poll] .arrived', { state: 'attached' });
  await page.evaluate(freeze);
  // The latency in the picture is the one that was measured; the record leaves it out, what the comparison
  // counted, and the hidden code of this very sign-in.
  const body = await page.evaluate(() => {
    const copy = document.body.cloneNode(true);
    copy.querySelector('#latency').textContent = '';
    for (const cell of copy.querySelectorAll('#compare td')) cell.replaceChildren();
    copy.querySelector('#user-code').textContent = '';
    return copy.outerHTML;
  });
  const sha256 = (...parts) => createHash('sha256').update(parts.join('\0')).digest('hex');
  const pane = sha256(body, readFileSync(`${STATIC}demo/demo.css`, 'utf8'));
  if (process.env.UPDATE_SCREENSHOT) {
    await page.screenshot({ path: picture });
    writeFileSync(record, `${JSON.stringify({ pane, picture: sha256(readFileSync(picture, 'base64')) }, undefined, 2)}\n`);
  }
  const known = JSON.parse(readFileSync(record, 'utf8'));
  const png = readFileSync(picture);
  assert.deepEqual([png.readUInt32BE(16), png.readUInt32BE(20)], [1440, 1200], 'its size');
  assert.equal(sha256(png.toString('base64')), known.picture, 'picture and record were made together');
  assert.equal(pane, known.pane, 'the pane has changed: take the picture again with UPDATE_SCREENSHOT=1 npm --prefix tests/browser test');
  assert.match(readFileSync(new URL('../../README.md', import.meta.url), 'utf8'), /<img src="static\/demo\/screenshot.png"/);
  await context.close();
});
