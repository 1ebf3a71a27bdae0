// The npm package oauth4webapi: metadata of server and resource, device grant, an access token as a
// resource server validates it (RFC 9068), refresh, introspection, revocation.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import * as oauth from 'oauth4webapi';

const [issuer, api, secret] = process.argv.slice(2);

const resource = new URL(`${issuer}/addons/me`);
const found = await oauth.resourceDiscoveryRequest(resource);
const { authorization_servers: [server] } = await oauth.processResourceDiscoveryResponse(resource, found);
assert.equal(server, issuer);
const as = await oauth
  .discoveryRequest(new URL(server), { algorithm: 'oauth2' })
  .then((response) => oauth.processDiscoveryResponse(new URL(server), response));

const cli = { client_id: 'cli' };
const none = oauth.None();
const device = await oauth
  .deviceAuthorizationRequest(as, cli, none, new URLSearchParams())
  .then((response) => oauth.processDeviceAuthorizationResponse(as, cli, response));
console.log(JSON.stringify({ user_code: device.user_code, verification_uri: device.verification_uri }));

async function poll() {
  let { interval } = device;
  for (;;) {
    await sleep(interval * 1000);
    const response = await oauth.deviceCodeGrantRequest(as, cli, none, device.device_code);
    try {
      return await oauth.processDeviceCodeResponse(as, cli, response);
    } catch (error) {
      if (error.error === 'slow_down') interval += 5;
      else if (error.error !== 'authorization_pending') throw error;
    }
  }
}
const tokens = await poll();

const request = new Request(resource, { headers: { authorization: `Bearer ${tokens.access_token}` } });
const claims = await oauth.validateJwtAccessToken(as, request, 'https://maps.example');
assert.equal(claims.client_id, 'cli');
const me = await oauth.protectedResourceRequest(tokens.access_token, 'GET', resource);
assert.equal((await me.json()).jti, claims.jti);

const refresh = async (token) => oauth.refreshTokenGrantRequest(as, cli, none, token);
const refreshed = await oauth.processRefreshTokenResponse(as, cli, await refresh(tokens.refresh_token));

const backend = { client_id: api };
const basic = oauth.ClientSecretBasic(secret);
const introspect = async (token) => oauth
  .introspectionRequest(as, backend, basic, token)
  .then((response) => oauth.processIntrospectionResponse(as, backend, response));
assert.equal((await introspect(refreshed.access_token)).active, true);
await oauth.processRevocationResponse(await oauth.revocationRequest(as, cli, none, refreshed.access_token));
assert.equal((await introspect(refreshed.access_token)).active, false);
// The first refresh token again: it is used up, and takes the grant along.
await assert.rejects(async () => oauth.processRefreshTokenResponse(as, cli, await refresh(tokens.refresh_token)), { error: 'invalid_grant' });
await assert.rejects(async () => oauth.processRefreshTokenResponse(as, cli, await refresh(refreshed.refresh_token)), { error: 'invalid_grant' });
console.log(JSON.stringify({ done: ['resource metadata', 'device', 'RFC 9068', 'me', 'refresh', 'introspect', 'revoke'] }));
