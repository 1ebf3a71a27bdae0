// The page of calls at /docs. Every sample is taken from the page as it is served and run against a relay, in
// the order of sign-ins: curl in a shell; JavaScript in Node.js, and in Chromium where a browser makes the call.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, createHmac } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { freePort, launch, overflow, SCREENSHOTS, startDemo, violations } from './support.mjs';

const SECRET = 'a secret of the tests of 32 characters or more';
const ENVIRONMENT = {
  TOKEN_RELAY_DEMO_AUTO_LOGIN: '1', TOKEN_RELAY_REFRESH_TOKEN_TTL: '1day', TOKEN_RELAY_SESSIONS_PER_MINUTE: '10000',
  TOKEN_RELAY_SECURITY_CONTACT: 'mailto:security@example.org', TOKEN_RELAY_SECURITY_EXPIRES: new Date(Date.now() + 30 * 86_400_000).toISOString().replace(/\.\d+/, ''),
  TOKEN_RELAY_MEET_COMPATIBLE: 'true', TOKEN_RELAY_ADDONS_CSRF_SECRET: SECRET, TOKEN_RELAY_ADDONS_TOKEN_SECRET_KEY: SECRET,
};
// What a demo cannot succeed at: its provider sends no logout tokens, and announces no logout.
const REFUSED = { 'POST /addons/backchannel_logout': 400, 'GET /api/v1.0/logout-callback/': 400 };
const TIMEOUT = 20_000;

let browser;
let relay; // without registered clients
let backends; // with a client whose sessions a backend fulfils

before(async () => {
  const listen = `127.0.0.1:${await freePort()}`;
  relay = await startDemo({ ...ENVIRONMENT, TOKEN_RELAY_MEET_RETURN_TO: `http://${listen}/`, TOKEN_RELAY_INTROSPECTION_CLIENTS: `api:${SECRET}`, TOKEN_RELAY_BRAND_NAME: 'Sign-in of the prefecture' }, listen, ['--allow-production']);
  backends = await startDemo({ TOKEN_RELAY_CLIENTS__ROOMS__FULFILLED_BY: 'portal', TOKEN_RELAY_CLIENTS__PORTAL__SECRET: SECRET });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  relay?.stop();
  backends?.stop();
});

/** The samples on the page, by method and path. */
async function readSamples(address) {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  await page.goto(`${address}/docs`);
  const found = {};
  for (const endpoint of await page.locator('details').all()) {
    const key = await endpoint.locator('summary code').first().textContent();
    const all = async (language) => endpoint.locator(`pre[data-language="${language}"]`).allTextContents();
    const [curl, javascript] = [await all('curl'), await all('JavaScript')];
    assert.ok(curl.length > 0 && curl.length === javascript.length, key);
    found[key] = curl.map((text, index) => ({ curl: text, javascript: javascript[index] }));
  }
  await context.close();
  return found;
}

const camelCase = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());

/** Runs command lines, with the cookies of one browser. */
function inShell(folder) {
  return {
    language: 'curl',
    cookie: (name) => new RegExp(`\\t${name}\\t(.*)`).exec(readFileSync(join(folder, 'cookies.txt'), 'utf8'))?.[1],
    async run(command, variables) {
      const env = { PATH: process.env.PATH, ...Object.fromEntries(Object.entries(variables).map(([name, value]) => [name.toUpperCase(), value])) };
      const child = spawn('sh', ['-c', `exec ${command}`], { cwd: folder, env, stdio: ['ignore', 'pipe', 'ignore'] });
      const timer = setTimeout(() => child.kill(), TIMEOUT);
      let said = '';
      child.stdout.on('data', (bytes) => {
        said += bytes;
        // A WebSocket stays open until its client answers, which curl does not.
        if (/^HTTP\/1.1 101 /.test(said) && said.includes('authenticated')) child.kill();
      });
      await new Promise((ended) => { child.on('close', ended); });
      clearTimeout(timer);
      const [, status] = /^HTTP\/\S+ (\d+)/.exec(said) ?? assert.fail(`no answer to ${command}`);
      const end = said.indexOf('\r\n\r\n');
      return { status: Number(status), location: /\r\nlocation: (.*)\r/i.exec(said.slice(0, end + 2))?.[1], text: said.slice(end + 4) };
    },
  };
}

/** Runs JavaScript in Node.js, or in `page` where it needs a browser. */
function inJavaScript(context, page) {
  return {
    language: 'javascript',
    cookie: async (name) => (await context.cookies()).find((cookie) => cookie.name === name)?.value,
    async run(source, variables, { method, path, isProgram }) {
      const values = Object.fromEntries(Object.entries(variables).map(([name, value]) => [camelCase(name), value]));
      if (isProgram && !source.includes('WebSocket')) {
        const said = [];
        const AsyncFunction = (async () => {}).constructor;
        const body = new AsyncFunction('console', ...Object.keys(values), `${source}\nreturn response;`);
        const response = await body({ log: (...values) => said.push(...values) }, ...Object.values(values));
        const last = said.at(-1);
        return { status: response.status, text: typeof last === 'object' ? JSON.stringify(last) : said.slice(typeof said[0] === 'number' ? 1 : 0).join('') };
      }
      const ours = new RegExp(`^${path.replace(/\{\w+\}/g, '[\\w-]+')}$`);
      const isOurs = (response) => response.request().method() === method && ours.test(new URL(response.url()).pathname);
      const socket = source.includes('WebSocket');
      const [opened, answered] = [
        source.startsWith('window.open') && context.waitForEvent('page', { timeout: TIMEOUT }),
        !socket && context.waitForEvent('response', { predicate: isOurs, timeout: TIMEOUT }),
      ];
      const closed = socket ? 'await new Promise((closed) => { socket.onclose = closed; });' : '';
      const said = await page.evaluate(`(async ({ ${Object.keys(values).join(', ')} }) => {
        const said = [];
        const console = { log: (...values) => said.push(...values) };
        ${source}
        ${closed}
        return said;
      })(${JSON.stringify(values)})`);
      if (socket) return { status: 101, text: JSON.stringify(said.at(-1)) };
      const response = await answered;
      const answer = { status: response.status(), location: response.headers().location };
      if (!opened) return { ...answer, text: typeof said.at(-1) === 'object' ? JSON.stringify(said.at(-1)) : said.join('') };
      const dialog = await opened;
      await dialog.waitForLoadState();
      const text = await dialog.content();
      await dialog.close();
      return { ...answer, text };
    },
  };
}

const hidden = (html) => Object.fromEntries(['dialog', 'csrf', 'challenge'].map((name) => [name, new RegExp(`(?:name="${name}" value|data-${name})="([^"]+)"`).exec(html)?.[1]]));

/** What the provider sends back, as parameters of the callback, after a login that `page` leads to. */
async function atProvider(page) {
  let [, url] = /id="onward" href="([^"]+)"/.exec(page) ?? [undefined, page];
  url = url.replace(/&(amp|#38);/g, '&');
  const answer = await fetch(url, { redirect: 'manual' });
  return Object.fromEntries(new URL(answer.headers.get('location')).searchParams);
}

function proof({ session_id, session_token }, challenge) {
  const sha256 = (text) => createHash('sha256').update(text).digest();
  return createHmac('sha256', sha256(`token-relay proof key v1${session_token}`))
    .update('token-relay proof v1').update(sha256(session_id)).update(Buffer.from(challenge, 'base64url')).digest('base64url');
}

/** Makes every call of the page once or more, as sign-ins need them. */
async function walk({ address }, runner) {
  const samples = await readSamples(address);
  const { paths } = await (await fetch(`${address}/openapi.json`)).json();
  const rest = new Set(Object.entries(samples).flatMap(([key, all]) => all.map((_, index) => `${key} ${index}`)));
  const call = async (key, variables = {}, index = 0) => {
    const [method, path] = key.split(' ');
    const operation = paths[path][method.toLowerCase()];
    const sample = samples[key][index][runner.language];
    const wanted = new Set(Array.from(sample.matchAll(/\$([A-Z_]+)\b/g), ([, name]) => name.toLowerCase()));
    for (const name of wanted) assert.ok(variables[name], `${key} has ${name}`);
    const isProgram = !['Dialog', 'Meet-compatible'].includes(operation.tags[0]);
    const answer = await runner.run(sample, variables, { method, path, isProgram });
    const what = `${key} answers ${answer.status} ${answer.text.slice(0, 300)}`;
    assert.ok(Object.hasOwn(operation.responses, answer.status), `${what}, which is not documented`);
    if (REFUSED[key]) assert.equal(answer.status, REFUSED[key], what);
    else assert.ok(answer.status < 400, what);
    rest.delete(`${key} ${index}`);
    return answer;
  };
  const created = async (client_id) => JSON.parse((await call('POST /addons/sessions', { client_id })).text);
  // The opener proves itself, the person compares codes, and takes the sign-in back.
  const first = { ...await created('addons'), origin: address };
  let fields = hidden((await call('GET /addons/transit/', first)).text);
  await call('POST /addons/transit/proof', { ...fields, ...first, proof: proof(first, fields.challenge) });
  const confirmed = await fetch(`${address}/addons/sessions`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ bind: true, confirm: true, client_id: 'addons' }),
  });
  const second = { ...await confirmed.json(), origin: address };
  fields = hidden((await call('GET /addons/transit/', second)).text);
  await call('POST /addons/transit/proof', { ...fields, ...second, proof: proof(second, fields.challenge) });
  fields = hidden((await call('GET /addons/transit/', second)).text);
  let page = await call('POST /addons/transit/confirm', fields);
  await call('GET /callback', await atProvider(page.text));
  await call('GET /addons/redirect', fields);
  fields = { ...fields, ...hidden((await call('GET /addons/success', fields)).text) };
  await call('POST /addons/success', fields);

  // The person types the code; the token is read each way, used, and exchanged for the next.
  const third = { ...await created('addons'), client_id: 'addons' };
  fields = hidden((await call('GET /addons/transit/', third)).text);
  page = await call('POST /addons/transit/code', { ...fields, ...third });
  const back = await atProvider(page.text);
  await call('POST /callback', back);
  await call('GET /callback', back);
  fields = { ...fields, ...hidden((await call('GET /addons/redirect', fields)).text) };
  await call('POST /addons/account', fields);
  assert.match((await call('GET /addons/sessions/{session_id}/events', third)).text, /event: authenticated/);
  const token = JSON.parse((await call('GET /addons/sessions/{session_id}', third)).text);
  assert.ok(token.access_token, 'the poll has it too');
  assert.match((await call('GET /addons/sessions/{session_id}/ws', third)).text, /authenticated/);
  const next = JSON.parse((await call('POST /addons/token', { ...third, ...token }, 1)).text);
  const caller = { ...next, client_id: 'api', client_secret: SECRET };
  assert.match((await call('GET /addons/me', next)).text, /alice/);
  await call('GET /addons/verify', next);
  assert.match((await call('POST /addons/introspect', caller)).text, /"active":\s*true/);
  await call('POST /addons/revoke', caller);
  assert.match((await call('POST /addons/introspect', caller)).text, /"active":\s*false/);
  const ended = await created('addons');
  await call('DELETE /addons/sessions/{session_id}', ended);
  await call('POST /addons/backchannel_logout', { logout_token: 'none' });

  // A device.
  const device = { ...JSON.parse((await call('POST /addons/device_authorization', { client_id: 'addons' })).text), client_id: 'addons' };
  fields = hidden((await call('GET /addons/device')).text);
  page = await call('POST /addons/device', { ...fields, ...device });
  page = await call('GET /callback', await atProvider(page.text));
  fields = { dialog: page.location && new URL(page.location, address).searchParams.get('dialog') };
  fields = { ...fields, ...hidden((await call('GET /addons/redirect', fields)).text) };
  await call('POST /addons/account', fields);
  assert.ok(JSON.parse((await call('POST /addons/token', device, 0)).text).access_token);

  // The surface of La Suite Meet.
  const exchanged = async () => {
    const meet = JSON.parse((await call('POST /api/v1.0/addons/sessions/init/')).text);
    await call('POST /api/v1.0/addons/sessions/exchange/', { ...meet, csrf_token: await runner.cookie('csrftoken') });
    return meet;
  };
  let meet = JSON.parse((await call('POST /api/v1.0/addons/sessions/init/')).text);
  assert.equal((await call('POST /api/v1.0/addons/sessions/poll/', meet)).status, 202);
  const returned = { return_to: `${address}/` };
  page = await call('GET /api/v1.0/authenticate/', returned);
  const logged = await atProvider(page.location);
  await call('POST /api/v1.0/callback/', logged);
  await call('GET /api/v1.0/callback/', logged);
  meet = await exchanged();
  assert.match((await call('GET /api/v1.0/addons/sessions/ws/', meet)).text, /authenticated/);
  meet = await exchanged();
  assert.match((await call('GET /api/v1.0/addons/sessions/events/', meet)).text, /event: authenticated/);
  assert.ok(JSON.parse((await call('POST /api/v1.0/addons/sessions/poll/', meet)).text).access_token);
  await call('GET /api/v1.0/logout/', returned);
  await call('GET /api/v1.0/logout-callback/', { state: 'none' });

  // What needs nothing.
  for (const key of [...rest].filter((each) => each.startsWith('GET '))) await call(key.replace(/ 0$/, ''));
  return rest;
}

describe('every sample runs, and answers as it is documented', () => {
  const rest = ['POST /addons/fulfil 0'];

  test('curl', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'token-relay-docs-'));
    try {
      assert.deepEqual([...await walk(relay, inShell(folder))], rest);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('JavaScript', async () => {
    const context = await browser.newContext({ bypassCSP: true });
    const page = await context.newPage();
    await page.goto(`${relay.address}/docs`);
    assert.deepEqual([...await walk(relay, inJavaScript(context, page))], rest);
    await context.close();
  });

  for (const runner of [inShell(tmpdir()), inJavaScript()]) {
    test(`a backend fulfils a session, ${runner.language}`, async () => {
      const { [`POST /addons/sessions`]: [create], [`POST /addons/fulfil`]: [fulfil] } = await readSamples(backends.address);
      const session = JSON.parse((await runner.run(create[runner.language], { client_id: 'rooms' }, { isProgram: true })).text);
      const answer = await runner.run(fulfil[runner.language], { ...session, client_id: 'portal', client_secret: SECRET }, { isProgram: true });
      assert.equal(answer.status, 200, answer.text);
      assert.equal(JSON.parse(answer.text).state, 'authenticated');
    });
  }
});

describe('the page', () => {
  const open = async (options) => {
    const context = await browser.newContext({ bypassCSP: true, ...options });
    const page = await context.newPage();
    await page.goto(`${relay.address}/docs`);
    await page.evaluate(() => document.querySelectorAll('details').forEach((details) => { details.open = true; }));
    return { context, page };
  };

  test('has the brand, and no Markdown', async () => {
    const { context, page } = await open({ javaScriptEnabled: false });
    assert.equal(await page.title(), 'Endpoints - Sign-in of the prefecture');
    assert.match(await page.locator('header .brand').innerText(), /Sign-in of the prefecture/);
    const texts = await page.locator('h1, h2, h3, p, summary, th, td, dt, dd').allInnerTexts();
    assert.ok(texts.length > 300, `${texts.length}`);
    for (const text of texts) assert.doesNotMatch(text, /`|\*\*|\]\(|\]\[|^#/, text);
    // What is said of a member is not what the code says of its type.
    assert.match(texts.join('\n'), /Reads a bound session\. Given once\./);
    assert.doesNotMatch(texts.join('\n'), /wiped from memory/);
    const links = await page.locator('main a').evaluateAll((all) => all.map((link) => link.getAttribute('href')));
    assert.ok(links.length > 50);
    for (const link of new Set(links)) assert.equal(await page.locator(`[id="${link.slice(1)}"]`).count(), 1, link);
    await context.close();
  });

  for (const colorScheme of ['light', 'dark']) {
    test(`passes axe, ${colorScheme}, and needs no sideways scrolling on a phone`, async () => {
      const { context, page } = await open({ colorScheme, viewport: { width: 1280, height: 800 } });
      assert.deepEqual(await violations(page), []);
      for (const width of [320, 478, 1280]) {
        await page.setViewportSize({ width, height: 800 });
        assert.equal(await overflow(page), 0, `${width}`);
        // No word is broken into letters.
        const narrow = await page.locator('th:visible').evaluateAll((all) => all.filter((cell) => {
          const text = document.createRange();
          text.selectNodeContents(cell);
          return !cell.querySelector('code') && !cell.textContent.trim().includes(' ') && text.getBoundingClientRect().height > 30;
        }).map((cell) => cell.textContent));
        assert.deepEqual(narrow, [], `${width}`);
        await page.screenshot({ path: `${SCREENSHOTS}docs-${width}-${colorScheme}.png` });
      }
      await context.close();
    });
  }
});
