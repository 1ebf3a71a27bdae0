// A certified OpenID provider (npm `oidc-provider`) within the process of a test, which remembers who
// is logged in to it as providers do: a browser that comes again is sent back without a question, unless
// `prompt=select_account` or `login` asks for one. `headers` are sent with each answer to a browser.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { interactionPolicy, Provider } from 'oidc-provider';

export const CLIENT = { id: 'token-relay', secret: 'a secret of the tests alone' };
const SCOPE = 'openid profile email';

const page = (uid, account) => `<!doctype html><html lang="en"><meta charset="utf-8"><title>Login</title>
<form method="post" action="/interaction/${uid}">
${account ? `<p>You are logged in as ${account}.</p><input type="hidden" name="username" value="${account}">`
    : '<label>User <input name="username"></label><label>Password <input name="password" type="password"></label>'}
<button id="${account ? 'choose' : 'log-in'}">Continue</button>
</form>`;

export async function startProvider(redirectUris, headers = {}) {
  let provider;
  const server = createServer(async (request, response) => {
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    const uid = new URL(request.url, 'http://provider').pathname.match(/^\/interaction\/([\w-]+)$/)?.[1];
    if (!uid) return provider.callback()(request, response);
    const { prompt, session } = await provider.interactionDetails(request, response);
    if (request.method === 'GET') {
      return response.setHeader('content-type', 'text/html; charset=utf-8').end(page(uid, prompt.name === 'select_account' && session?.accountId));
    }
    const parts = [];
    for await (const part of request) parts.push(part);
    const accountId = new URLSearchParams(Buffer.concat(parts).toString()).get('username');
    return provider.interactionFinished(request, response, { login: { accountId }, select_account: {} });
  });
  await new Promise((listening) => { server.listen(0, '127.0.0.1', listening); });
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const policy = interactionPolicy.base();
  policy.add(new interactionPolicy.Prompt({ name: 'select_account', requestable: true }), 0);
  provider = new Provider(issuer, {
    clients: [{
      client_id: CLIENT.id, client_secret: CLIENT.secret, redirect_uris: redirectUris, response_types: ['code'],
      grant_types: ['authorization_code'], id_token_signed_response_alg: 'ES256',
    }],
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'ES256' }] },
    cookies: { long: { signed: false }, short: { signed: false } },
    pkce: { required: () => true },
    scopes: ['openid', 'profile', 'email'],
    claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] },
    conformIdTokenClaims: false,
    features: { devInteractions: { enabled: false } },
    interactions: { policy, url: (_context, { uid }) => `/interaction/${uid}` },
    findAccount: (_context, id) => ({
      accountId: id, claims: () => ({ sub: id, name: `${id[0].toUpperCase()}${id.slice(1)} Example`, email: `${id}@example.com`, email_verified: true }),
    }),
    async loadExistingGrant({ oidc }) {
      const grant = new oidc.provider.Grant({ clientId: oidc.client.clientId, accountId: oidc.session.accountId });
      grant.addOIDCScope(SCOPE);
      await grant.save();
      return grant;
    },
  });
  return {
    issuer,
    headers,
    /** The cookie of a browser that has logged in, as Playwright writes it. Each session of the provider is one browser's alone. */
    async loggedIn(accountId) {
      const session = new provider.Session({ accountId, loginTs: Math.floor(Date.now() / 1000) });
      await session.save(3600);
      return { name: '_session', value: session.id, domain: '127.0.0.1', path: '/', expires: -1, httpOnly: true, secure: false, sameSite: 'Lax' };
    },
    stop() {
      server.closeAllConnections();
      server.close();
    },
  };
}
