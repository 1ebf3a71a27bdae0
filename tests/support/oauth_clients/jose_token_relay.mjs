// token-relay.js with the npm package jose as its relay and its API: opens the tokens that jose encrypts,
// and jose verifies its proofs.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import * as jose from 'jose';
import { json, relay, stream, TOKEN } from '../../../static/client/test/relay-double.mjs';
import { signIn } from '../../../static/client/token-relay.js';

const ends = [];
const t = { after: (end) => ends.push(end) };
const sha256 = (text) => createHash('sha256').update(text).digest();
const { state: _, ...CONTENT } = { ...TOKEN, token_type: 'DPoP' };

const server = await relay(t, {
  events: async (__, response) => {
    const { encryption_key: key } = JSON.parse(server.called('create')[0].body);
    const encrypted = await new jose.CompactEncrypt(new TextEncoder().encode(JSON.stringify(CONTENT)))
      .setProtectedHeader({ alg: 'ECDH-ES', enc: 'A256GCM' })
      .setKeyManagementParameters({ apv: sha256('s1') })
      .encrypt(await jose.importJWK(key, 'ECDH-ES'));
    stream(response, `event: authenticated\nid: 1\ndata: ${JSON.stringify({ state: 'authenticated', encrypted })}\n\n`);
  },
});
const token = await signIn({ openDialog: () => ({}), baseUrl: server.baseUrl, dpop: true });
assert.equal(token.access_token, CONTENT.access_token);

let proven;
const api = createServer(async (request, response) => {
  proven = await jose.jwtVerify(request.headers.dpop, jose.EmbeddedJWK, { typ: 'dpop+jwt', algorithms: ['ES256'], maxTokenAge: '60s' });
  json(response, 200, {});
});
await new Promise((listening) => { api.listen(0, '127.0.0.1', listening); });
ends.push(() => api.close());
const url = `http://127.0.0.1:${api.address().port}/rooms`;
await token.fetch(`${url}?a=b`);
const { htm, htu, ath } = proven.payload;
assert.deepEqual({ htm, htu, ath }, { htm: 'GET', htu: url, ath: sha256(CONTENT.access_token).toString('base64url') });
assert.equal(await jose.calculateJwkThumbprint(proven.protectedHeader.jwk), JSON.parse(server.called('create')[0].body).dpop_jkt);
for (const end of ends) await end();
console.log('opened and verified');
