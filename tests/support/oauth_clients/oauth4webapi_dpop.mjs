// The npm package oauth4webapi with DPoP (RFC 9449): device grant, protected resource, refresh, and what
// must be refused. Nonces are learnt from the answers, as the package does.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import * as oauth from 'oauth4webapi';

const [issuer, api, secret] = process.argv.slice(2);

const as = await oauth
  .discoveryRequest(new URL(issuer), { algorithm: 'oauth2' })
  .then((response) => oauth.processDiscoveryResponse(new URL(issuer), response));
assert.ok(as.dpop_signing_alg_values_supported.includes('ES256'));
const resource = new URL(`${issuer}/addons/me`);
const found = await oauth.resourceDiscoveryRequest(resource).then((response) => oauth.processResourceDiscoveryResponse(resource, response));
assert.deepEqual(found.dpop_signing_alg_values_supported, as.dpop_signing_alg_values_supported);

const cli = { client_id: 'cli' };
const none = oauth.None();
const pair = await oauth.generateKeyPair('ES256');
const DPoP = oauth.DPoP(cli, pair);
let nonces = 0;

/** Once more with the nonce, where the first answer demands one. */
async function withNonce(act) {
  try {
    return await act();
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error;
    nonces += 1;
    return act();
  }
}

const device = await oauth
  .deviceAuthorizationRequest(as, cli, none, new URLSearchParams())
  .then((response) => oauth.processDeviceAuthorizationResponse(as, cli, response));
console.log(JSON.stringify({ user_code: device.user_code, verification_uri: device.verification_uri }));

let { interval } = device;
let tokens;
while (!tokens) {
  await sleep(interval * 1000);
  try {
    tokens = await withNonce(async () => {
      const response = await oauth.deviceCodeGrantRequest(as, cli, none, device.device_code, { DPoP });
      return oauth.processDeviceCodeResponse(as, cli, response);
    });
  } catch (error) {
    if (error.error === 'slow_down') interval += 5;
    else if (error.error !== 'authorization_pending') throw error;
  }
}
assert.equal(tokens.token_type, 'dpop');

const me = (token, options) => withNonce(() => oauth.protectedResourceRequest(token, 'GET', resource, undefined, undefined, options));
const claims = await me(tokens.access_token, { DPoP }).then((response) => response.json());
assert.equal(claims.cnf.jkt, await DPoP.calculateThumbprint());
// As a bearer token, and by another key, it is of no use.
await assert.rejects(me(tokens.access_token), (error) => error.cause.some(({ scheme }) => scheme === 'dpop'));
const other = oauth.DPoP(cli, await oauth.generateKeyPair('ES256'));
await assert.rejects(me(tokens.access_token, { DPoP: other }), (error) => error.cause[0].parameters.error === 'invalid_dpop_proof');

// As a resource server of others validates it (RFC 9068, RFC 9449 §7.1).
let seen;
await oauth.protectedResourceRequest(tokens.access_token, 'GET', resource, undefined, undefined, {
  DPoP,
  [oauth.customFetch]: (url, init) => { seen = new Request(url, init); return fetch(url, init); },
});
assert.equal((await oauth.validateJwtAccessToken(as, seen, 'https://maps.example', { requireDPoP: true })).sub, 'alice');

const refresh = (token, options) => withNonce(async () => {
  const response = await oauth.refreshTokenGrantRequest(as, cli, none, token, options);
  return oauth.processRefreshTokenResponse(as, cli, response);
});
// The refresh token of a public client is bound too, and not used up by who has no key.
await assert.rejects(refresh(tokens.refresh_token), { error: 'invalid_dpop_proof' });
await assert.rejects(refresh(tokens.refresh_token, { DPoP: other }), { error: 'invalid_dpop_proof' });
const refreshed = await refresh(tokens.refresh_token, { DPoP });
assert.equal(refreshed.token_type, 'dpop');
assert.equal((await me(refreshed.access_token, { DPoP }).then((response) => response.json())).cnf.jkt, claims.cnf.jkt);

const introspected = await oauth
  .introspectionRequest(as, { client_id: api }, oauth.ClientSecretBasic(secret), refreshed.access_token)
  .then((response) => oauth.processIntrospectionResponse(as, { client_id: api }, response));
assert.equal(introspected.token_type, 'DPoP');
assert.equal(introspected.cnf.jkt, claims.cnf.jkt);
assert.ok(nonces > 0, 'no nonce was demanded');
console.log(JSON.stringify({ done: ['metadata', 'nonce', 'device', 'me', 'RFC 9068', 'refresh', 'introspect'] }));
