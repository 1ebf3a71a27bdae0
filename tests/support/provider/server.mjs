// A certified OpenID provider (npm `oidc-provider`) for the integration tests.
//
// Prints one JSON line with its issuer when it serves. Tests steer it through `/test/…`:
// `redirect-uri` registers where the relay listens, `rotate-keys` replaces the signing key,
// `pause` lets the token endpoint wait.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const USERS = {
  alice: { name: 'Alice Liddell', email: 'alice@example.com' },
  bob: { name: 'Bob Cratchit', email: 'bob@example.com' },
};

let redirectUris = ['http://127.0.0.1:1/callback'];
let keys = [newKey()];
let tokenDelay = 0;
let provider;
let issuer;

function newKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
}

function makeProvider() {
  provider = new Provider(issuer, {
    clients: [{
      client_id: 'token-relay',
      client_secret: 'a secret of the tests alone',
      redirect_uris: redirectUris,
      response_types: ['code'],
      grant_types: ['authorization_code'],
      token_endpoint_auth_method: 'client_secret_basic',
    }, {
      client_id: 'token-relay-public',
      redirect_uris: redirectUris,
      response_types: ['code'],
      grant_types: ['authorization_code'],
      token_endpoint_auth_method: 'none',
    }],
    jwks: { keys },
    cookies: { keys: ['tests'] },
    pkce: { required: () => true },
    claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (_context, interaction) => `/interaction/${interaction.uid}` },
    async findAccount(_context, id) {
      return { accountId: id, claims: async () => ({ sub: id, email_verified: true, ...USERS[id] }) };
    },
    async loadExistingGrant(context) {
      const grant = new context.oidc.provider.Grant({
        clientId: context.oidc.client.clientId,
        accountId: context.oidc.session.accountId,
      });
      grant.addOIDCScope('openid profile email');
      await grant.save();
      return grant;
    },
  });
}

const form = (uid, wrong) => `<!doctype html><title>Sign in</title>
<form method="post" action="/interaction/${uid}">
${wrong ? '<p role="alert">Wrong user name or password.</p>' : ''}
<label>User <input name="username"></label>
<label>Password <input name="password" type="password"></label>
<button name="action" value="sign-in">Sign in</button>
<button name="action" value="cancel">Cancel</button>
</form>`;

async function readBody(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
}

const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, issuer);
  try {
    if (pathname === '/test/redirect-uri') {
      redirectUris = [await readBody(request)];
      makeProvider();
      return response.end();
    }
    if (pathname === '/test/rotate-keys') {
      keys = [newKey()];
      makeProvider();
      return response.end();
    }
    if (pathname === '/test/pause') {
      tokenDelay = Number(await readBody(request));
      return response.end();
    }
    const uid = pathname.match(/^\/interaction\/([\w-]+)$/)?.[1];
    if (!uid) {
      if (pathname === '/token' && tokenDelay) await new Promise((done) => { setTimeout(done, tokenDelay); });
      return provider.callback()(request, response);
    }
    response.setHeader('content-type', 'text/html; charset=utf-8');
    if (request.method === 'GET') return response.end(form(uid, false));
    const fields = new URLSearchParams(await readBody(request));
    if (fields.get('action') === 'cancel') {
      const result = { error: 'access_denied', error_description: 'The person cancelled.' };
      return await provider.interactionFinished(request, response, result);
    }
    const user = fields.get('username');
    if (!USERS[user] || fields.get('password') !== user) {
      response.statusCode = 401;
      return response.end(form(uid, true));
    }
    await provider.interactionFinished(request, response, { login: { accountId: user } });
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error));
  }
});

server.listen(0, '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  makeProvider();
  console.log(JSON.stringify({ issuer }));
});
// The test that started it holds its standard input open; when that ends, so does it.
process.stdin.resume().on('end', () => process.exit(0));
