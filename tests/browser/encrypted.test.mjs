// Tokens encrypted for the pane, and bound to its key, in Chromium, behind a proxy that records what the relay answers or takes
// the pane's key out of the creation.
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { freePort, launch, logIn, openPage, serveFolder, startDemo, STATIC } from './support.mjs';

let folder;
let site;
let pane; // a name that is not same-site with the relay
let insecure; // a name without WebCrypto
let demo;
let browser;
let proxy;
let answers = ''; // of the relay, as the proxy sees them
let strips = []; // what the proxy takes out: members of creations, and fields of requests
let asked = []; // method and path of each request

/** Passes on every request; records the answers. */
async function startProxy(port) {
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    let body = Buffer.concat(chunks);
    asked.push(`${request.method} ${request.url}`);
    if (request.method === 'POST' && request.url === '/addons/sessions') {
      const creation = JSON.parse(body);
      for (const member of strips) delete creation[member];
      body = Buffer.from(JSON.stringify(creation));
    }
    for (const field of strips) delete request.headers[field];
    const headers = { ...request.headers, ...(body.length && { 'content-length': body.length }) };
    const onward = http.request({ host: '127.0.0.1', port, path: request.url, method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.on('data', (chunk) => { answers += chunk; });
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    onward.end(body);
  });
  // A WebSocket: the bytes as they are; those of the relay are not masked (RFC 6455 §5.1).
  server.on('upgrade', ({ method, url, rawHeaders }, near) => {
    const far = net.connect(port, '127.0.0.1');
    const lines = rawHeaders.flatMap((text, index) => (index % 2 ? [] : [`${text}: ${rawHeaders[index + 1]}`]));
    far.write(`${method} ${url} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
    far.on('data', (chunk) => { answers += chunk; });
    for (const [one, other] of [[near, far], [far, near]]) one.pipe(other).on('error', () => one.destroy());
  });
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  return { address: `http://127.0.0.1:${server.address().port}`, stop: () => { server.closeAllConnections(); server.close(); } };
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'token-relay-encrypted-'));
  cpSync(`${STATIC}client/token-relay.js`, join(folder, 'token-relay.js'));
  writeFileSync(join(folder, 'pane.html'), '<!doctype html><html lang="en"><meta charset="utf-8"><title>Pane</title><link rel="icon" href="data:,"><script type="module">import * as client from "./token-relay.js"; window.client = client;</script>');
  site = await serveFolder(folder);
  pane = site.address.replace('127.0.0.1', 'pane.localhost');
  insecure = site.address.replace('127.0.0.1', 'pane.test');
  const port = await freePort();
  proxy = await startProxy(port);
  demo = await startDemo({
    TOKEN_RELAY_ALLOWED_ORIGINS: `${pane},${insecure}`, TOKEN_RELAY_PROOFS: 'browser opener code', TOKEN_RELAY_PUBLIC_URL: proxy.address, TOKEN_RELAY_REFRESH_TOKEN_TTL: '1day',
  }, `127.0.0.1:${port}`);
  browser = await launch({ args: ['--host-resolver-rules=MAP pane.test 127.0.0.1'] });
});

after(async () => {
  await browser?.close();
  demo?.stop();
  proxy?.stop();
  site?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

/** A pane in which a sign-in has begun, and its dialog. */
async function begin(address, options = {}) {
  answers = '';
  const { context, page } = await openPage(browser, `${address}/pane.html`, { bypassCSP: true });
  await page.waitForFunction(() => window.client);
  const popup = page.waitForEvent('popup');
  await page.evaluate(({ baseUrl, ...rest }) => {
    const onProgress = ({ userCode }) => { window.code ||= userCode; };
    window.outcome = window.client.signIn({ baseUrl, onProgress, ...rest }).then((token) => { window.token = token; return token.access_token; }, ({ code }) => code);
  }, { baseUrl: proxy.address, ...options });
  return { context, page, dialog: await popup };
}

const subject = async (token) => (await (await fetch(`${demo.address}/addons/me`, { headers: { authorization: `Bearer ${token}` } })).json()).sub;

/** What the pane's origin has stored of sign-ins. */
const stored = (page) => page.evaluate(() => new Promise((resolve, reject) => {
  const opening = indexedDB.open('token-relay');
  opening.onerror = () => reject(opening.error);
  opening.onsuccess = () => {
    const asked = opening.result.transaction('sessions').objectStore('sessions').getAll();
    asked.onsuccess = () => {
      opening.result.close();
      resolve(asked.result.map(({ decryptionKey: key }) => (key ? { type: key.type, extractable: key.extractable, usages: key.usages } : undefined)));
    };
  };
}));

for (const transport of ['sse', 'websocket', 'long-poll']) {
  test(`${transport}: a pane that is reloaded in the middle opens its token, which nobody on the way can`, async () => {
    const { context, page, dialog } = await begin(pane, { transport });
    await dialog.waitForSelector('input[name=username]');
    assert.deepEqual(await stored(page), [{ type: 'private', extractable: false, usages: ['deriveBits'] }]);
    await page.reload();
    await page.waitForFunction(() => window.client);
    await page.evaluate(({ baseUrl, transport }) => {
      window.outcome = window.client.resumeSignIn({ baseUrl, transport }).then((token) => { window.token = token; return token.access_token; }, ({ code }) => code);
    }, { baseUrl: proxy.address, transport });
    await logIn(dialog, 'alice');
    const token = await page.evaluate(() => window.outcome);
    assert.equal(await subject(token), 'alice');
    await page.waitForFunction(() => new Promise((resolve) => {
      const opening = indexedDB.open('token-relay');
      opening.onsuccess = () => {
        const asked = opening.result.transaction('sessions').objectStore('sessions').count();
        asked.onsuccess = () => { opening.result.close(); resolve(asked.result === 0); };
      };
    }));
    const refreshed = await page.evaluate(async () => (await window.token.refresh()).access_token);
    assert.notEqual(refreshed, token);
    assert.equal(await subject(refreshed), 'alice');
    assert.match(answers, /"encrypted"/);
    for (const secret of [token, refreshed, 'access_token']) assert.ok(!answers.includes(secret));
    await context.close();
  });
}

test('a token bound to the key of a pane that was reloaded is used with proofs, across origins', async () => {
  const { context, page, dialog } = await begin(pane, { dpop: true });
  await dialog.waitForSelector('input[name=username]');
  await page.reload();
  await page.waitForFunction(() => window.client);
  await page.evaluate((baseUrl) => {
    window.outcome = window.client.resumeSignIn({ baseUrl }).then((token) => { window.token = token; return token.token_type; }, ({ code }) => code);
  }, proxy.address);
  await logIn(dialog, 'bob');
  assert.equal(await page.evaluate(() => window.outcome), 'DPoP');
  const ask = () => page.evaluate(async (url) => {
    const bearer = await fetch(url, { headers: { Authorization: `Bearer ${window.token.access_token}` } });
    const proven = await window.token.fetch(url);
    return { bearer: bearer.status, sub: (await proven.json()).sub };
  }, `${proxy.address}/addons/me`);
  assert.deepEqual(await ask(), { bearer: 401, sub: 'bob' });
  await page.evaluate(async () => { window.token = await window.token.refresh(); });
  assert.deepEqual(await ask(), { bearer: 401, sub: 'bob' });
  await context.close();
});

for (const [what, member, options, code] of [
  ['key', 'encryption_key', {}, 'not_encrypted'],
  ['thumbprint', 'dpop_jkt', { dpop: true }, 'not_bound'],
]) {
  test(`a proxy that strips the ${what} gives the pane an error and no token`, async () => {
    strips = [member];
    try {
      const { context, page, dialog } = await begin(pane, options);
      await logIn(dialog, 'alice');
      assert.equal(await page.evaluate(() => window.outcome), code);
      assert.match(answers, member === 'encryption_key' ? /"access_token"/ : /"encrypted"/);
      await context.close();
    } finally {
      strips = [];
    }
  });
}

test('a proxy that strips the proof leaves the token useless, and is asked no more than twice', async () => {
  const { context, page, dialog } = await begin(pane, { dpop: true });
  await logIn(dialog, 'alice');
  assert.match(await page.evaluate(() => window.outcome), /^eyJ/);
  const ask = () => page.evaluate(async (url) => (await window.token.fetch(url)).status, `${proxy.address}/addons/me`);
  strips = ['dpop'];
  asked = [];
  try {
    assert.equal(await ask(), 401);
    assert.equal(asked.filter((request) => request === 'GET /addons/me').length, 2, 'once more with the nonce that it names');
  } finally {
    strips = [];
  }
  assert.equal(await ask(), 200, 'the token works where proofs arrive');
  await context.close();
});

test('a page without WebCrypto sends no key and has its token', async () => {
  const { context, page, dialog } = await begin(insecure);
  assert.equal(await page.evaluate(() => isSecureContext), false);
  // No proof without WebCrypto either: the person types the code, where the operator allows that.
  await dialog.waitForSelector('#user-code:visible');
  await dialog.fill('#user-code', await page.evaluate(() => window.code));
  await dialog.press('#user-code', 'Enter');
  await logIn(dialog, 'carol');
  await dialog.click('main form button');
  assert.equal(await subject(await page.evaluate(() => window.outcome)), 'carol');
  await context.close();
  assert.doesNotMatch(answers, /"encrypted"/);
});
