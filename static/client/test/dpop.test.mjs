// Tokens that are bound to the page's key (DPoP, RFC 9449); proofs are verified by node:crypto.
import assert from 'node:assert/strict';
import { createHash, createPublicKey, verify } from 'node:crypto';
import { createServer } from 'node:http';
import { test } from 'node:test';
import { SignInError, signIn } from '../token-relay.js';
import { json, relay, stream, TOKEN } from './relay-double.mjs';

const openDialog = () => ({});
const failsWith = (code) => (error) => error instanceof SignInError && (assert.equal(error.code, code), true);
const sha256 = (text) => createHash('sha256').update(text).digest('base64url');
const BOUND = { ...TOKEN, token_type: 'DPoP' };
const event = (token) => `event: authenticated\nid: 1\ndata: ${JSON.stringify(token)}\n\n`;

/** The claims of a proof whose signature is right; its key as a thumbprint. */
function opened(proof) {
  const [head, body, signature] = proof.split('.');
  const { typ, alg, jwk } = JSON.parse(Buffer.from(head, 'base64url'));
  assert.deepEqual({ typ, alg }, { typ: 'dpop+jwt', alg: 'ES256' });
  assert.deepEqual(Object.keys(jwk).sort(), ['crv', 'kty', 'x', 'y']);
  const key = { key: createPublicKey({ key: jwk, format: 'jwk' }), dsaEncoding: 'ieee-p1363' };
  assert.ok(verify('sha256', Buffer.from(`${head}.${body}`), key, Buffer.from(signature, 'base64url')));
  const thumbprint = sha256(JSON.stringify({ crv: jwk.crv, kty: jwk.kty, x: jwk.x, y: jwk.y }));
  return { ...JSON.parse(Buffer.from(body, 'base64url')), thumbprint };
}

/** An API that demands `nonce` in proofs. */
async function api(t, nonce) {
  const seen = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const { authorization, dpop } = request.headers;
    seen.push({ authorization, ...opened(dpop), method: request.method, body: Buffer.concat(chunks).toString() });
    if (seen.at(-1).nonce === nonce.now) return json(response, 200, { seen: seen.length });
    return json(response, 401, {}, { 'DPoP-Nonce': nonce.now, 'WWW-Authenticate': 'DPoP error="use_dpop_nonce"' });
  });
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  t.after(() => server.close());
  return { url: `http://127.0.0.1:${server.address().port}/files/1`, seen };
}

test('the token is used with proofs, whose nonce is renewed once', async (t) => {
  const server = await relay(t, { events: (_, response) => stream(response, event(BOUND)) });
  const token = await signIn({ openDialog, baseUrl: server.baseUrl, dpop: true, encrypt: false });
  const { dpop_jkt: thumbprint } = JSON.parse(server.called('create')[0].body);
  const nonce = { now: 'first' };
  const { url, seen } = await api(t, nonce);
  const answer = await token.fetch(`${url}?a=b#c`, { method: 'POST', body: 'text' });
  assert.equal(answer.status, 200);
  assert.deepEqual(seen.map((proof) => proof.nonce), [undefined, 'first']);
  assert.notEqual(seen[0].jti, seen[1].jti);
  for (const proof of seen) {
    assert.deepEqual({ htm: proof.htm, htu: proof.htu, ath: proof.ath, body: proof.body }, { htm: 'POST', htu: url, ath: sha256(TOKEN.access_token), body: 'text' });
    assert.equal(proof.authorization, `DPoP ${TOKEN.access_token}`);
    assert.equal(proof.thumbprint, thumbprint);
    assert.ok(Math.abs(proof.iat - Date.now() / 1000) < 60);
  }
  // It is remembered, and asked for again when it is over.
  await token.fetch(new Request(url));
  nonce.now = 'second';
  await token.fetch(new URL(url));
  assert.deepEqual(seen.slice(2).map((proof) => proof.nonce), ['first', 'first', 'second']);
  // A server that is never content is asked twice, not for ever.
  let asked = 0;
  const never = createServer((_, response) => json(response, 401, {}, { 'DPoP-Nonce': `n${asked += 1}` }));
  await new Promise((listening) => { never.listen(0, '127.0.0.1', listening); });
  t.after(() => never.close());
  assert.equal((await token.fetch(`http://127.0.0.1:${never.address().port}/`)).status, 401);
  assert.equal(asked, 2);
});

test('requests at once each have the nonce in the end, where one is good for all', async (t) => {
  const server = await relay(t, { events: (_, response) => stream(response, event(BOUND)) });
  const token = await signIn({ openDialog, baseUrl: server.baseUrl, dpop: true, encrypt: false });
  const { url } = await api(t, { now: 'for all' });
  // Each begins while the answers to the others come in.
  const begin = async (index) => {
    for (let turn = 0; turn < index; turn += 1) await new Promise(setImmediate);
    return (await token.fetch(url)).status;
  };
  const statuses = await Promise.all(Array.from({ length: 60 }, (_, index) => begin(index)));
  assert.deepEqual(new Set(statuses), new Set([200]));
});

test('a refresh is proved too, and its token is bound', async (t) => {
  const proofs = [];
  const answers = [
    (response) => json(response, 400, { error: 'use_dpop_nonce' }, { 'DPoP-Nonce': 'n1' }),
    (response) => json(response, 200, { ...BOUND, access_token: 'd.e.f', refresh_token: 'r2' }),
    (response) => json(response, 200, { ...TOKEN, access_token: 'g.h.i', refresh_token: 'r3' }),
  ];
  const server = await relay(t, {
    events: (_, response) => stream(response, event({ ...BOUND, refresh_token: 'r1' })),
    poll: (request, response) => {
      proofs.push(opened(request.headers.dpop));
      answers.shift()(response);
    },
  });
  const token = await signIn({ openDialog, baseUrl: server.baseUrl, dpop: true, encrypt: false });
  const next = await token.refresh();
  assert.equal(next.access_token, 'd.e.f');
  assert.deepEqual(proofs.map(({ htm, htu, nonce, ath }) => ({ htm, htu, nonce, ath })), [undefined, 'n1'].map((nonce) => ({
    htm: 'POST', htu: `${server.baseUrl}/addons/token`, nonce, ath: undefined,
  })));
  assert.equal(typeof next.fetch, 'function');
  await assert.rejects(next.refresh(), failsWith('not_bound'));
});

test('a proxy that strips the thumbprint gives the page an error and no token', async (t) => {
  const server = await relay(t, { events: (_, response) => stream(response, event(TOKEN)) });
  await assert.rejects(signIn({ openDialog, baseUrl: server.baseUrl, dpop: true, encrypt: false }), failsWith('not_bound'));
});

test('keys of a session that is not bound are refused, not left out', async () => {
  for (const wish of [{ dpop: true }, { encrypt: true }]) {
    await assert.rejects(signIn({ openDialog, baseUrl: 'http://127.0.0.1:1', bind: false, ...wish }), TypeError);
  }
});

test('without the wish there is no thumbprint and no fetch', async (t) => {
  const server = await relay(t, { events: (_, response) => stream(response, event(TOKEN)) });
  const token = await signIn({ openDialog, baseUrl: server.baseUrl, encrypt: false });
  assert.equal(token.fetch, undefined);
  assert.equal(JSON.parse(server.called('create')[0].body).dpop_jkt, undefined);
});
