// Tokens encrypted for the page, made here by OpenSSL (node:crypto) as RFC 7516 and RFC 7518 §4.6 say.
import assert from 'node:assert/strict';
import { createCipheriv, createHash, createPublicKey, diffieHellman, generateKeyPairSync, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { SignInError, signIn } from '../token-relay.js';
import { json, relay, stream, TOKEN } from './relay-double.mjs';

const openDialog = () => ({});
const failsWith = (code) => (error) => error instanceof SignInError && (assert.equal(error.code, code), true);
const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest();
const number = (value) => Buffer.from([0, 0, value >> 8, value & 255]);

function encrypt(jwk, content, { sessionId = 's1', header: more = {} } = {}) {
  const own = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const agreed = diffieHellman({ privateKey: own.privateKey, publicKey: createPublicKey({ key: jwk, format: 'jwk' }) });
  const apv = sha256(sessionId);
  const key = sha256(number(1), agreed, number(7), 'A256GCM', number(0), number(32), apv, number(256));
  const header = { alg: 'ECDH-ES', enc: 'A256GCM', apv: apv.toString('base64url'), epk: own.publicKey.export({ format: 'jwk' }), ...more };
  const head = Buffer.from(JSON.stringify(header)).toString('base64url');
  const iv = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(Buffer.from(head));
  const text = Buffer.concat([cipher.update(JSON.stringify(content)), cipher.final()]);
  return [head, '', iv.toString('base64url'), text.toString('base64url'), cipher.getAuthTag().toString('base64url')].join('.');
}

const { state: _, ...CONTENT } = TOKEN;

/** A relay whose stream sends what `make` gives for the page's key. */
async function sending(t, make, more = {}) {
  const server = await relay(t, {
    events: (_, response) => {
      const { encryption_key: jwk } = JSON.parse(server.called('create').at(-1).body);
      stream(response, `event: authenticated\nid: 1\ndata: ${JSON.stringify({ state: 'authenticated', ...make(jwk) })}\n\n`);
    },
    ...more,
  });
  return server;
}

test('a token that is encrypted for the page arrives, refreshed ones too', async (t) => {
  const decoded = { ...CONTENT, refresh_token: 'r1', authenticated_at: 7 };
  const server = await sending(t, (jwk) => ({ encrypted: encrypt(jwk, decoded) }), {
    // The token endpoint of the double.
    poll: (_, response) => {
      const { encryption_key: jwk } = JSON.parse(server.called('create')[0].body);
      json(response, 200, { encrypted: encrypt(jwk, { ...decoded, access_token: 'd.e.f', refresh_token: 'r2' }) });
    },
  });
  const token = await signIn({ openDialog, baseUrl: server.baseUrl });
  const { refresh, transport, ...members } = token;
  assert.deepEqual({ members, transport }, { members: decoded, transport: 'sse' });
  const { encryption_key: jwk } = JSON.parse(server.called('create')[0].body);
  assert.deepEqual(Object.keys(jwk), ['kty', 'crv', 'x', 'y']);
  assert.equal((await token.refresh()).access_token, 'd.e.f');
});

test('a relay or a proxy that sends anything else than a token for the key is refused', async (t) => {
  const other = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ format: 'jwk' });
  const flipped = (jwk) => {
    const parts = encrypt(jwk, CONTENT).split('.');
    parts[3] = (parts[3][0] === 'A' ? 'B' : 'A') + parts[3].slice(1);
    return parts.join('.');
  };
  for (const [what, make] of [
    ['in the clear', () => CONTENT],
    ['in the clear beside', (jwk) => ({ ...CONTENT, encrypted: encrypt(other, CONTENT) })],
    ['for another key', () => ({ encrypted: encrypt(other, CONTENT) })],
    ['of another session', (jwk) => ({ encrypted: encrypt(jwk, CONTENT, { sessionId: 's2' }) })],
    ['changed', (jwk) => ({ encrypted: flipped(jwk) })],
    ['compressed', (jwk) => ({ encrypted: encrypt(jwk, CONTENT, { header: { zip: 'DEF' } }) })],
    ['by another algorithm', (jwk) => ({ encrypted: encrypt(jwk, CONTENT, { header: { alg: 'dir' } }) })],
    ['no JWE', () => ({ encrypted: 'a.b.c' })],
    ['no text', () => ({ encrypted: 7 })],
  ]) {
    const server = await sending(t, make);
    await assert.rejects(signIn({ openDialog, baseUrl: server.baseUrl }), failsWith('not_encrypted'), what);
    await server.until('end');
  }
});

test('a refreshed token in the clear is refused', async (t) => {
  const server = await sending(t, (jwk) => ({ encrypted: encrypt(jwk, { ...CONTENT, refresh_token: 'r1' }) }), {
    poll: (_, response) => json(response, 200, { ...CONTENT, refresh_token: 'r2' }),
  });
  const token = await signIn({ openDialog, baseUrl: server.baseUrl });
  await assert.rejects(token.refresh(), failsWith('not_encrypted'));
});

test('an earlier relay that a deploy has not replaced yet is asked again', async (t) => {
  const server = await sending(t, (jwk) => ({ encrypted: encrypt(jwk, CONTENT) }), {
    create: (_, response, count) => {
      if (count === 1) return json(response, 400, { title: 'Bad request', status: 400 });
      const root = `${server.baseUrl}/addons/sessions/s1`;
      return json(response, 201, { session_id: 's1', session_token: 't', expires_in: 60, transit_url: server.baseUrl, events_url: `${root}/events`, websocket_url: `${root}/ws`.replace('http', 'ws'), poll_url: root });
    },
  });
  assert.equal((await signIn({ openDialog, baseUrl: server.baseUrl })).access_token, CONTENT.access_token);
  assert.equal(server.called('create').length, 2);
});

test('without WebCrypto, or by wish, there is no key', async (t) => {
  const server = await relay(t, { events: (_, response) => stream(response, `event: authenticated\nid: 1\ndata: ${JSON.stringify(TOKEN)}\n\n`) });
  await signIn({ openDialog, baseUrl: server.baseUrl, encrypt: false });
  const { subtle } = crypto;
  Object.defineProperty(crypto, 'subtle', { value: undefined, configurable: true });
  t.after(() => Object.defineProperty(crypto, 'subtle', { value: subtle, configurable: true }));
  await signIn({ openDialog, baseUrl: server.baseUrl });
  for (const { body } of server.called('create')) assert.equal(JSON.parse(body).encryption_key, undefined);
  await assert.rejects(signIn({ openDialog, baseUrl: server.baseUrl, encrypt: true }), failsWith('invalid_request'));
});
