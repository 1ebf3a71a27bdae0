// The npm package openid-client: device grant, protected resource, refresh, introspection, revocation.
import assert from 'node:assert/strict';
import * as client from 'openid-client';

const [issuer, api, secret] = process.argv.slice(2);
const options = { algorithm: 'oauth2' };
const cli = await client.discovery(new URL(issuer), 'cli', undefined, client.None(), options);
const backend = await client.discovery(new URL(issuer), api, secret, client.ClientSecretBasic(secret), options);

const device = await client.initiateDeviceAuthorization(cli, { scope: 'maps:read' });
console.log(JSON.stringify({ user_code: device.user_code, verification_uri: device.verification_uri }));
const tokens = await client.pollDeviceAuthorizationGrant(cli, device);
assert.equal(tokens.scope, 'maps:read');

const me = await client.fetchProtectedResource(cli, tokens.access_token, new URL(`${issuer}/addons/me`), 'GET');
assert.equal((await me.json()).sub, 'alice');
const refreshed = await client.refreshTokenGrant(cli, tokens.refresh_token);
assert.notEqual(refreshed.refresh_token, tokens.refresh_token);
const found = await client.tokenIntrospection(backend, refreshed.access_token);
assert.equal(found.active, true);
assert.equal(found.client_id, 'cli');
await client.tokenRevocation(cli, refreshed.refresh_token);
assert.equal((await client.tokenIntrospection(backend, refreshed.access_token)).active, false);
await assert.rejects(client.refreshTokenGrant(cli, refreshed.refresh_token), { error: 'invalid_grant' });
console.log(JSON.stringify({ done: ['device', 'me', 'refresh', 'introspect', 'revoke'] }));
