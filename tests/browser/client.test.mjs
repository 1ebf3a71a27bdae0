// Both builds of the client in Chromium, on a site of their own, against a real relay: every
// transport, the way down when a network breaks one, cut connections, and every bad end.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { freePort, launch, logIn, openPage, serveFolder, startDemo, STATIC, until } from './support.mjs';

const HERE = new URL('.', import.meta.url).pathname;

let folder;
let site;
let demo;
let brief; // its sessions live ten seconds
let line;
let browser;

/** A line to the relay that can be cut, as networks do: TCP, byte for byte. */
async function startLine() {
  const open = new Set();
  let target;
  const server = net.createServer((near) => {
    const far = net.connect(target, '127.0.0.1');
    const pair = { cut() { near.destroy(); far.destroy(); } };
    open.add(pair);
    for (const [one, other] of [[near, far], [far, near]]) {
      one.pipe(other);
      one.on('error', pair.cut);
      one.on('close', () => { open.delete(pair); other.destroy(); });
    }
  });
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  return {
    address: `http://127.0.0.1:${server.address().port}`,
    leadTo: (port) => { target = port; },
    cut: () => { for (const pair of open) pair.cut(); },
    stop() {
      for (const pair of open) pair.cut();
      server.close();
    },
  };
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'token-relay-'));
  for (const name of ['token-relay.js', 'token-relay.global.js']) cpSync(`${STATIC}client/${name}`, join(folder, name));
  const page = (load) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>Site</title><link rel="icon" href="data:,">${load}`;
  writeFileSync(join(folder, 'module.html'), page('<script type="module">import * as client from "./token-relay.js"; window.client = client;</script>'));
  writeFileSync(join(folder, 'global.html'), page('<script src="token-relay.global.js"></script><script>window.client = tokenRelay;</script>'));
  site = await serveFolder(folder);
  line = await startLine();
  // The demo announces its public URL, which is the line's; so its own port is chosen here.
  const port = await freePort();
  line.leadTo(port);
  demo = await startDemo({
    TOKEN_RELAY_ALLOWED_ORIGINS: site.address, TOKEN_RELAY_PUBLIC_URL: line.address, TOKEN_RELAY_HEARTBEAT: '1s', TOKEN_RELAY_REFRESH_TOKEN_TTL: '1h',
  }, `127.0.0.1:${port}`);
  brief = await startDemo({ TOKEN_RELAY_ALLOWED_ORIGINS: site.address, TOKEN_RELAY_SESSION_TTL: '10s' });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  demo?.stop();
  brief?.stop();
  line?.stop();
  site?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

async function openSite({ build = 'module', ...options } = {}) {
  const opened = await openPage(browser, `${site.address}/${build}.html`, options);
  await opened.page.waitForFunction(() => window.client);
  return opened;
}

/** Starts a sign-in in the page; `outcome` is the token, or the error's code. */
async function signIn(page, options = {}) {
  await page.evaluate(({ baseUrl, ...rest }) => {
    window.progress = [];
    window.relay = baseUrl;
    window.stop = new AbortController();
    window.outcome = window.client.signIn({
      baseUrl, clientName: 'Test', signal: window.stop.signal, onProgress: (step) => window.progress.push(step), ...rest,
    }).catch(({ name, code }) => ({ name, code }));
  }, { baseUrl: line.address, ...options });
}

const steps = (page) => page.evaluate(() => window.progress);
const waiting = (page, transport) => page.waitForFunction(
  (wanted) => window.progress.some(({ step, transport: by }) => step === 'waiting' && by === wanted),
  transport,
  { timeout: 20_000 },
);

const outcome = (page) => page.evaluate(() => window.outcome);

async function signInWithDialog(page, options) {
  const popup = page.waitForEvent('popup');
  await signIn(page, options);
  return popup;
}

async function claimsOf(token) {
  const answer = await fetch(`${line.address}/addons/me`, { headers: { authorization: `Bearer ${token.access_token}` } });
  assert.equal(answer.status, 200);
  return answer.json();
}

for (const build of ['module', 'global']) {
  for (const transport of ['auto', 'sse', 'websocket', 'long-poll']) {
    test(`${build} build, ${transport}`, async () => {
      const { context, page, requests, troubles } = await openSite({ build });
      const dialog = await signInWithDialog(page, { transport });
      await logIn(dialog, 'alice');
      const token = await outcome(page);
      assert.equal(token.transport, transport === 'auto' ? 'sse' : transport);
      assert.equal((await claimsOf(token)).sub, 'alice');
      assert.deepEqual((await steps(page)).map(({ step }) => step).filter((step) => ['fallback', 'reconnecting'].includes(step)), []);
      if (transport !== 'websocket') await until('acknowledged', () => requests.some((request) => request.startsWith('DELETE')));
      assert.deepEqual(troubles, []);
      await context.close();
    });
  }
}

test('a token is refreshed once, however often it is asked for, and again by the next', async () => {
  const { context, page, requests } = await openSite();
  let client;
  page.on('response', async (response) => {
    if (response.url().endsWith('/addons/sessions') && response.request().method() === 'POST') {
      const { session_id: id, session_token: secret } = await response.json();
      client = { client_id: id, client_secret: secret };
    }
  });
  const dialog = await signInWithDialog(page);
  await logIn(dialog, 'alice');
  const tokens = await page.evaluate(async () => {
    const first = await window.outcome;
    const [second, same] = await Promise.all([first.refresh(), first.refresh()]);
    const third = await second.refresh();
    return [first, second, same, third].map(({ access_token, refresh_token }) => ({ access_token, refresh_token }));
  });
  const [first, second, same, third] = tokens;
  assert.deepEqual(same, second);
  assert.equal(new Set([first, second, third].map(({ access_token }) => access_token)).size, 3);
  assert.equal(requests.filter((request) => request === 'POST /addons/token').length, 2);
  assert.equal((await claimsOf(third)).sub, 'alice');
  // Somebody else uses the first one: the grant is over, and the page is told to sign in again.
  const stolen = await fetch(`${line.address}/addons/token`, { method: 'POST', body: new URLSearchParams({ grant_type: 'refresh_token', refresh_token: first.refresh_token, ...client }) });
  assert.equal(stolen.status, 400);
  const refused = await page.evaluate(async () => {
    const token = await window.outcome;
    const last = await (await token.refresh()).refresh();
    return last.refresh().catch(({ name, code }) => ({ name, code }));
  });
  assert.deepEqual(refused, { name: 'SignInError', code: 'invalid_grant' });
  await context.close();
});

const isEvents = (url) => url.pathname.endsWith('/events');
const isSocket = (url) => url.pathname.endsWith('/ws');
/** What a network may do to an event stream. */
const HARM = {
  'refuses it': (route) => route.abort(),
  'answers with a page of its own': (route) => route.fulfill({ contentType: 'text/html', body: '<p>Access denied</p>' }),
  'buffers it': () => {},
  'cuts it short each time': (route) => route.fulfill({ contentType: 'text/event-stream', headers: { 'access-control-allow-origin': '*' }, body: ':\n\n' }),
};

for (const [what, harm] of Object.entries(HARM)) {
  test(`event streams: the network ${what}, a WebSocket brings the token`, async () => {
    const { context, page } = await openSite({ prepare: (made) => made.route(isEvents, harm) });
    const dialog = await signInWithDialog(page, { firstByteTimeout: 1500 });
    await waiting(page, 'websocket');
    await logIn(dialog, 'bob');
    const token = await outcome(page);
    assert.equal(token.transport, 'websocket');
    assert.equal((await claimsOf(token)).sub, 'bob');
    assert.deepEqual((await steps(page)).filter(({ step }) => step === 'fallback').map(({ transport }) => transport), ['websocket']);
    await context.close();
  });
}

test('neither event streams nor WebSockets get through: a long poll brings the token', async () => {
  const { context, page, requests } = await openSite({
    async prepare(made) {
      await made.route(isEvents, (route) => route.abort());
      await made.routeWebSocket(isSocket, (socket) => socket.close({ code: 1011 }));
    },
  });
  const dialog = await signInWithDialog(page, { firstByteTimeout: 1500 });
  await waiting(page, 'long-poll');
  await logIn(dialog, 'carol');
  const token = await outcome(page);
  assert.equal(token.transport, 'long-poll');
  assert.equal((await claimsOf(token)).sub, 'carol');
  const polls = requests.filter((request) => /^GET \/addons\/sessions\/[\w-]+$/.test(request));
  assert.ok(polls.length <= 2, `it hangs instead of asking again and again: ${polls.length}`);
  await context.close();
});

for (const transport of ['sse', 'websocket', 'long-poll']) {
  test(`${transport}: the line is cut twice while it waits, and the token arrives`, async () => {
    const { context, page } = await openSite();
    const dialog = await signInWithDialog(page, { transport, firstByteTimeout: 1000 });
    await dialog.waitForSelector('input[name=username]');
    for (const count of [1, 2]) {
      const happened = (step) => page.evaluate((wanted) => window.progress.filter((told) => told.step === wanted).length, step);
      await until(`waiting, ${count}`, async () => (await happened('waiting')) >= count);
      await until(`cut, ${count}`, async () => {
        line.cut();
        return (await happened('reconnecting')) >= count;
      });
    }
    await logIn(dialog, 'alice');
    const token = await outcome(page);
    assert.equal(token.transport, transport);
    assert.equal((await claimsOf(token)).sub, 'alice');
    await context.close();
  });
}

test('the line is down when the login ends, and the token waits', async () => {
  const { context, page } = await openSite();
  const dialog = await signInWithDialog(page, { transport: 'sse' });
  await waiting(page, 'sse');
  await dialog.waitForSelector('input[name=username]');
  // Only the reader loses its way: what the dialog asks for goes past the line.
  await page.route(isEvents, (route) => route.abort());
  line.cut();
  await page.waitForFunction(() => window.progress.some(({ step }) => step === 'reconnecting'));
  await logIn(dialog, 'bob');
  await dialog.waitForURL(/addons\/success/);
  await page.unroute(isEvents);
  assert.equal((await claimsOf(await outcome(page))).sub, 'bob');
  await context.close();
});

test('an EventSource reads a bound session by its cookie, and is told to stop', async () => {
  const { context, page } = await openPage(browser, `${line.address}/addons/error`, { bypassCSP: true });
  const session = await page.evaluate(async () => {
    const answer = await fetch('/addons/sessions', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"bind":true}' });
    const created = await answer.json();
    window.heard = new Promise((resolve) => {
      const source = new EventSource(created.events_url, { withCredentials: true });
      window.source = source;
      source.addEventListener('authenticated', ({ data, lastEventId }) => resolve({ ...JSON.parse(data), lastEventId }));
    });
    return created;
  });
  const dialog = await context.newPage();
  await dialog.goto(session.transit_url);
  await logIn(dialog, 'carol');
  const heard = await page.evaluate(() => window.heard);
  assert.match(heard.lastEventId, /^[\w-]{22}$/, 'an ID of its own, which acknowledges the token');
  assert.equal((await claimsOf(heard)).sub, 'carol');
  await page.waitForFunction(() => window.source.readyState === EventSource.CLOSED, undefined, { timeout: 15_000 });
  await context.close();
});

for (const transport of ['sse', 'websocket', 'long-poll']) {
  test(`${transport}: denied, cancelled at the provider, link opened twice`, async () => {
    const { context, page } = await openSite();
    let dialog = await signInWithDialog(page, { transport, confirm: true });
    await dialog.click('button[value=deny]');
    assert.deepEqual(await outcome(page), { name: 'SignInError', code: 'access_denied' });

    dialog = await signInWithDialog(page, { transport });
    await dialog.click('button[value=cancel]');
    assert.deepEqual(await outcome(page), { name: 'SignInError', code: 'access_denied' });

    // A link that was used shows somebody else nothing, and ends nothing.
    let link;
    context.on('request', (request) => { if (request.url().includes('transit_token=')) link = request.url(); });
    dialog = await signInWithDialog(page, { transport });
    await dialog.waitForSelector('input[name=username]');
    await waiting(page, transport);
    const thief = await browser.newContext();
    const second = await thief.newPage();
    assert.equal((await second.goto(link)).status(), 409);
    await thief.close();
    await logIn(dialog, 'alice');
    assert.equal((await outcome(page)).transport, transport);
    await context.close();
  });
}

test('by each transport: the time to sign in is over', async () => {
  const { context, page } = await openSite();
  const ends = ['sse', 'websocket', 'long-poll'].map(async (transport) => {
    const session = await (await fetch(`${brief.address}/addons/sessions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"bind":true}' })).json();
    assert.equal(session.expires_in, 10);
    // Without `expiresIn`, so that it is the relay that says so.
    return page.evaluate(([options, created]) => window.client.waitForToken({
      sessionToken: created.session_token, eventsUrl: created.events_url, websocketUrl: created.websocket_url, pollUrl: created.poll_url, ...options,
    }).catch(({ name, code }) => ({ name, code })), [{ transport }, session]);
  });
  assert.deepEqual(await Promise.all(ends), Array(3).fill({ name: 'SignInError', code: 'expired' }));
  await context.close();
});

test('aborted: the session is over at the relay, and the dialog closes', async () => {
  const { context, page } = await openSite();
  const dialog = await signInWithDialog(page);
  await waiting(page, 'sse');
  await dialog.waitForSelector('input[name=username]');
  const deleted = page.waitForResponse((response) => response.request().method() === 'DELETE');
  await page.evaluate(() => window.stop.abort());
  assert.deepEqual(await outcome(page), { name: 'SignInError', code: 'aborted' });
  assert.equal((await deleted).status(), 204);
  if (!dialog.isClosed()) await dialog.waitForEvent('close');
  await context.close();
});

test('a site that is not allowed gets nothing, and its author learns why', async (t) => {
  const other = await serveFolder(folder);
  t.after(other.stop);
  const { context, page } = await openPage(browser, `${other.address}/module.html`);
  await page.waitForFunction(() => window.client);
  await signIn(page);
  assert.deepEqual(await outcome(page), { name: 'SignInError', code: 'origin_not_allowed' });
  const message = await page.evaluate(() => window.client.signIn({ baseUrl: window.relay, openDialog() {} }).catch((error) => error.message));
  assert.ok(message.includes(other.address) && message.includes('ALLOWED_ORIGINS'), message);
  await context.close();
});

test('the packed package has its types, and a consumer compiles', () => {
  const project = mkdtempSync(join(tmpdir(), 'token-relay-types-'));
  try {
    const packed = JSON.parse(execFileSync('npm', ['pack', '--json', '--pack-destination', project], { cwd: `${STATIC}client`, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }))[0];
    const files = packed.files.map(({ path }) => path).sort();
    assert.deepEqual(files, ['LICENSE', 'README.md', 'office.d.ts', 'office.js', 'package.json', 'token-relay.d.ts', 'token-relay.global.d.ts', 'token-relay.global.js', 'token-relay.js']);
    const home = join(project, 'node_modules', 'token-relay');
    mkdirSync(home, { recursive: true });
    execFileSync('tar', ['-xzf', join(project, packed.filename), '--strip-components=1', '-C', home]);
    for (const name of ['consumer.ts', 'wrong.ts', 'global.ts']) cpSync(join(HERE, 'types', name), join(project, name));
    const check = (names, ...options) => {
      try {
        execFileSync(process.execPath, [join(HERE, 'node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--exactOptionalPropertyTypes', '--target', 'es2022', '--lib', 'es2022,dom',
          ...options, ...names], { cwd: project, encoding: 'utf8', stdio: 'pipe' });
        return '';
      } catch (error) {
        return error.stdout || String(error);
      }
    };
    assert.equal(check(['consumer.ts'], '--module', 'nodenext'), '');
    assert.equal(check(['consumer.ts', 'global.ts'], '--module', 'esnext', '--moduleResolution', 'bundler'), '');
    // Each line of it must be refused, or the types would allow anything.
    const wrong = readFileSync(join(project, 'wrong.ts'), 'utf8').split('\n');
    const refused = new Set([...check(['wrong.ts'], '--module', 'nodenext').matchAll(/^wrong\.ts\((\d+),/gm)].map(([, number]) => Number(number)));
    const expected = wrong.map((text, index) => (text.includes('// refused') ? index + 1 : 0)).filter(Boolean);
    assert.deepEqual([...refused].sort((left, right) => left - right), expected);
  } finally {
    rmSync(project, { recursive: true });
  }
});
