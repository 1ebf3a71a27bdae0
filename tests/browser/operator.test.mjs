// The operator's page in Chromium while 2 000 streams wait and people sign in: its numbers are those of
// /metrics, it is live, accessible in light and dark, and loads nothing from elsewhere.
// `SCREENSHOTS=1` writes the pictures of docs/.
import assert from 'node:assert/strict';
import http from 'node:http';
import { after, before, describe, test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { freePort, launch, overflow, startDemo, until, violations } from './support.mjs';

const TOKEN = 'b3BlcmF0b3JzIHRva2VuIG9mIHRoZSBicm93c2VyIHRlc3Q=';
/** Waiting readers by client and transport; 2 000 together. */
const WAITING = [['crm', 'LongPoll', 20], ['crm', 'Sse', 480], ['crm', 'WebSocket', 300], ['outlook', 'Sse', 1200]];
/** The labels of metrics for what the page says. */
const TRANSPORTS = { SSE: 'Sse', WebSocket: 'WebSocket', 'Long poll': 'LongPoll' };
const OUTCOMES = { Succeeded: 'Succeeded', Denied: 'Denied', 'Too late': 'TooLate', 'Provider failed': 'ProviderFailed', 'Store failed': 'StoreFailed' };
/** Sign-ins, one every 150 ms. */
const SIGN_INS = 24;
const HOSTILE = `<img src="https://elsewhere.example/x" onerror="document.title='run'"><script>document.title='run'</script>\u202egnp.exe`;

let browser;
let demo;
let page;
let metricsUrl;
let operator;
const troubles = [];
const requests = [];
const agent = new http.Agent({ keepAlive: true, maxSockets: 16 });
const held = [];

/** Sends a request and resolves with its answer, or with the socket of an upgrade. */
function call(method, url, { headers = {}, body, use = agent } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, agent: use, headers });
    request.setTimeout(30_000, () => request.destroy(new Error(`${method} ${url} is not answered`)));
    request.on('response', resolve);
    request.on('upgrade', (response, socket) => resolve(socket));
    request.on('error', reject);
    request.end(body);
  });
}

async function text(response) {
  const parts = [];
  for await (const part of response) parts.push(part);
  return Buffer.concat(parts).toString();
}

async function create(client) {
  const body = JSON.stringify({ bind: true, client_id: client });
  const response = await call('POST', `${demo.address}/addons/sessions`, { body, headers: { 'content-type': 'application/json' } });
  assert.equal(response.statusCode, 201);
  return JSON.parse(await text(response));
}

/** Waits for a session on a connection of its own. */
async function wait(session, transport) {
  const headers = { authorization: `Bearer ${session.session_token}` };
  if (transport === 'LongPoll') {
    // Answered when the poll or the relay ends, which nobody waits for.
    const request = http.request(`${session.poll_url}?wait=60`, { agent: false, headers });
    request.on('error', () => {});
    held.push(request.end());
    return undefined;
  }
  if (transport === 'WebSocket') {
    const upgrade = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==', 'sec-websocket-protocol': 'token-relay.v1' };
    const socket = await call('GET', session.websocket_url.replace(/^ws/, 'http'), { headers: { ...headers, ...upgrade }, use: false });
    held.push(socket.on('error', () => {}).resume());
    return socket;
  }
  const response = await call('GET', session.events_url, { headers, use: false });
  assert.equal(response.statusCode, 200);
  held.push(response.on('error', () => {}));
  return response;
}

/** A browser without a window: cookies, forms and redirects. */
class Person {
  #cookies = new Map();

  async open(url, fields) {
    const { host, origin } = new URL(url);
    const headers = { cookie: [...this.#cookies].filter(([key]) => key.startsWith(`${host} `)).map(([key, value]) => `${key.split(' ')[1]}=${value}`).join('; ') };
    if (fields) Object.assign(headers, { origin, 'content-type': 'application/x-www-form-urlencoded' });
    const response = await call(fields ? 'POST' : 'GET', url, { headers, body: fields && String(new URLSearchParams(fields)) });
    const page = await text(response);
    for (const cookie of response.headers['set-cookie'] ?? []) {
      const [, name, value] = cookie.match(/^([^=]+)=([^;]*)/);
      this.#cookies.set(`${host} ${name}`, value);
    }
    const next = response.headers.location ?? page.match(/http-equiv="refresh" content="[^"]*url=([^"]+)"/)?.[1];
    return next ? this.open(new URL(next.replaceAll('&amp;', '&').replaceAll('&#38;', '&'), url).href) : { url, page };
  }

  submit({ url, page }, fields) {
    const hidden = [...page.matchAll(/<input type="hidden" name="([^"]+)" value="([^"]*)"/g)].map(([, name, value]) => [name, value]);
    const action = page.match(/<form[^>]* action="([^"]*)"/)[1].replaceAll('&amp;', '&').replaceAll('&#38;', '&');
    return this.open(new URL(action, url).href, { ...Object.fromEntries(hidden), ...fields });
  }
}

/** A whole sign-in; resolves with the token that the waiting stream is sent. */
async function signIn(client, name) {
  const session = await create(client);
  const stream = await wait(session, 'Sse');
  const person = new Person();
  const login = await person.submit(await person.open(session.transit_url), { user_code: session.user_code });
  const question = await person.submit(login, { username: name, password: name });
  const last = await person.submit(question, { decision: 'continue' });
  assert.match(last.url, /\/addons\/success/);
  let events = '';
  for await (const part of stream) {
    events += part;
    if (/event: authenticated[^]*\n\n/.test(events)) break;
  }
  return JSON.parse(events.match(/event: authenticated[^]*?data: (.*)\n/)[1]).access_token;
}

/** The sum of a metric by two of its labels. */
async function metrics() {
  const sums = new Map();
  for (const line of (await text(await call('GET', metricsUrl))).split('\n')) {
    const [, name, labels, value] = line.match(/^token_relay_(\w+)(?:\{(.*)\})? (\S+)$/) ?? [];
    if (name) sums.set(`${name}${labels ? `{${labels.split(',').sort().join(',')}}` : ''}`, Number(value));
  }
  const of = (name, ...wanted) => [...sums].filter(([key]) => key.startsWith(`${name}{`) && wanted.every((label) => key.includes(label))).reduce((sum, [, value]) => sum + value, 0);
  return { sums, of };
}

const rows = (id) => page.locator(`#${id} tbody tr`).evaluateAll((lines) => lines.map((line) => [...line.cells].map((cell) => cell.textContent)));
const updated = async () => Number(await page.getAttribute('#updated', 'data-seconds'));

/** Waits for a state that was made a second or more after this call. */
async function newer() {
  const begun = Date.now() / 1000;
  await until('a newer state is shown', async () => await updated() > begun);
}

before(async () => {
  const port = await freePort();
  metricsUrl = `http://127.0.0.1:${port}/metrics`;
  operator = `http://127.0.0.1:${port}/operator/`;
  demo = await startDemo({
    TOKEN_RELAY_METRICS_LISTEN: `127.0.0.1:${port}`,
    TOKEN_RELAY_OPERATOR_TOKEN: TOKEN,
    TOKEN_RELAY_LOG: 'error',
    TOKEN_RELAY_CLIENTS__OUTLOOK__NAME: 'Outlook add-in',
    TOKEN_RELAY_CLIENTS__CRM__NAME: 'Customers',
  });
  const waiting = WAITING.flatMap(([client, transport, count]) => Array.from({ length: count }, () => [client, transport]));
  assert.equal(waiting.length, 2000);
  await Promise.all(Array.from({ length: 16 }, async () => {
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      const stream = await wait(await create(next[0]), next[1]);
      stream?.resume();
    }
  }));
  browser = await launch();
  const context = await browser.newContext({ viewport: { width: 1120, height: 1000 }, httpCredentials: { username: 'operator', password: TOKEN } });
  page = await context.newPage();
  page.on('pageerror', (error) => troubles.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && troubles.push(message.text()));
  page.on('request', (request) => requests.push(request.url()));
  await page.goto(operator, { waitUntil: 'commit', timeout: 20_000 });
  await page.waitForSelector('#state tbody tr', { timeout: 20_000 });
}, { timeout: 120_000 });

after(async () => {
  held.forEach((stream) => stream.destroy());
  agent.destroy();
  await browser?.close();
  demo?.stop();
});

describe('the operator\'s page, with 2 000 streams', () => {
  test('shows what /metrics has, live, while people sign in', { timeout: 60_000 }, async () => {
    const signIns = [];
    const pace = setInterval(() => {
      signIns.push(signIn(signIns.length % 3 ? 'outlook' : 'crm', ['alice', 'bob', 'carol'][signIns.length % 3]));
      if (signIns.length === SIGN_INS) clearInterval(pace);
    }, 150);
    // Between two readings of /metrics the page has a number between theirs.
    let seen = 0;
    await until('all have signed in', async () => {
      const earlier = (await metrics()).of('logins_total', 'outcome="Succeeded"');
      await newer();
      const shown = Number((await rows('logins')).find(([outcome]) => outcome === 'Succeeded')[2]);
      const later = (await metrics()).of('logins_total', 'outcome="Succeeded"');
      assert.ok(earlier <= shown && shown <= later, `${earlier} <= ${shown} <= ${later}`);
      seen += shown > 0 && shown < SIGN_INS;
      return shown === SIGN_INS;
    }, 50_000);
    assert.ok(seen > 0, 'the page was live while people signed in');
    assert.equal((await Promise.all(signIns)).filter(Boolean).length, SIGN_INS);

    // At rest all of it is the same.
    for (let attempt = 0, shown, expected; attempt < 8 && !(shown && isDeepStrictEqual(shown, expected)); attempt += 1) {
      await newer();
      const { of, sums } = await metrics();
      const total = sums.get('delivery_seconds_count');
      const logins = (await rows('logins')).map(([outcome, , count]) => [outcome, Number(count)]);
      shown = {
        streams: (await rows('streams')).map(([client, transport, count]) => [client, TRANSPORTS[transport], Number(count)]),
        logins,
        bars: (await rows('chart')).map(([, count]) => Number(count)),
        summary: (await page.textContent('#delivery-summary')).split(':')[0],
      };
      const cumulative = [...sums].filter(([key]) => key.startsWith('delivery_seconds_bucket'));
      expected = {
        streams: WAITING.map(([client, transport]) => [client, transport, of('streams_open', `client="${client}"`, `transport="${transport}"`)]),
        logins: logins.map(([outcome]) => [outcome, of('logins_total', `outcome="${OUTCOMES[outcome]}"`)]),
        bars: cumulative.map(([, count], index) => count - (cumulative[index - 1]?.[1] ?? 0)),
        summary: `${total} delivered`,
      };
      if (attempt === 7) assert.deepEqual(shown, expected);
    }
    assert.deepEqual((await rows('streams')).map(([client, transport, count]) => [client, TRANSPORTS[transport], Number(count)]), WAITING);
    assert.equal(await page.textContent('#streams-summary'), '2000 on this instance.');
    const hour = (await rows('logins')).find(([outcome]) => outcome === 'Succeeded');
    assert.deepEqual(hour, ['Succeeded', String(SIGN_INS), String(SIGN_INS)]);
    assert.deepEqual((await rows('logins')).map(([outcome]) => outcome).sort(), Object.keys(OUTCOMES).sort());
  });

  test('names the reference that a person was shown, with its cause', async () => {
    const shown = await new Person().open(`${demo.address}/addons/transit/?transit_token=${'x'.repeat(43)}`);
    const reference = shown.page.match(/<p class="reference">[^]*?<code[^>]*>([^<]+)</)[1];
    await until('the failure is listed', async () => (await rows('failures')).some(([, listed]) => listed === reference));
    const [, , name, cause] = (await rows('failures')).find(([, listed]) => listed === reference);
    assert.ok(name.length > 0 && cause.length > 0, `${name}: ${cause}`);
  });

  test('is accessible in light and dark, and fits a phone', async () => {
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      assert.deepEqual(await violations(page), []);
      if (process.env.SCREENSHOTS) {
        await page.screenshot({ fullPage: true, path: new URL(`../../docs/operator-${colorScheme}.png`, import.meta.url).pathname });
      }
    }
    await page.setViewportSize({ width: 320, height: 640 });
    assert.ok(await overflow(page) <= 0);
    if (process.env.SCREENSHOTS) await page.screenshot({ fullPage: true, path: new URL('./screenshots/operator-phone.png', import.meta.url).pathname });
    await page.setViewportSize({ width: 1120, height: 1000 });
    await page.emulateMedia({ colorScheme: 'light' });
  });

  test('ends the tokens of a person, once the operator has said yes', async () => {
    const [alices, bobs] = await Promise.all([signIn('outlook', 'alice'), signIn('crm', 'bob')]);
    const verify = async (token) => {
      const response = await call('GET', `${demo.address}/addons/verify`, { headers: { authorization: `Bearer ${token}` } });
      response.resume();
      return response.statusCode;
    };
    assert.deepEqual([await verify(alices), await verify(bobs)], [200, 200]);
    const answer = (accept) => page.once('dialog', (dialog) => (accept ? dialog.accept() : dialog.dismiss()));
    answer(false);
    await page.fill('#sub', 'alice');
    await page.press('#sub', 'Enter');
    assert.equal(await page.textContent('#result'), '');
    assert.equal(await verify(alices), 200);
    answer(true);
    await page.press('#sub', 'Enter');
    await page.waitForFunction(() => document.querySelector('#result').textContent.includes('alice'));
    assert.deepEqual([await verify(alices), await verify(bobs)], [401, 200]);
    await until('who was revoked is listed', async () => (await rows('ended'))[0].slice(1).join() === 'alice,operator');
  });

  test('shows hostile names as text', async () => {
    // What a provider says of a sign-in, and what an operator may paste.
    const session = await create('crm');
    const person = new Person();
    const login = await person.submit(await person.open(session.transit_url), { user_code: session.user_code });
    const { origin: iss, searchParams } = new URL(login.url);
    const answer = new URLSearchParams({ state: searchParams.get('state'), iss, error: 'server_error', error_description: HOSTILE.repeat(20) });
    await person.open(`${demo.address}/callback?${answer}`);
    page.once('dialog', (dialog) => dialog.accept());
    await page.fill('#sub', `${HOSTILE}${'W'.repeat(2000)}`);
    await page.press('#sub', 'Enter');
    await until('the name is listed', async () => (await rows('ended'))[0][1]?.startsWith('<img '));
    await until('the failure is listed', async () => (await rows('failures')).some(([, , , cause]) => cause.includes('<img ')));
    assert.equal(await page.locator('main img, main script, main b').count(), 0);
    assert.notEqual(await page.title(), 'run');
    assert.doesNotMatch(await page.textContent('main'), /\u202e/);
    assert.ok(await overflow(page) <= 0);
    assert.deepEqual(await violations(page), []);
  });

  test('loads nothing from elsewhere and has no errors', () => {
    assert.deepEqual(requests.filter((url) => !url.startsWith(operator)), []);
    assert.deepEqual(troubles, []);
  });
});
