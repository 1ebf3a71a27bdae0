// A certified OpenID provider (npm `oidc-provider`) for the integration tests.
//
// Prints one JSON line with its issuer when it serves. Tests steer it through `/test/…`:
// `redirect-uri` registers where the relay listens, `client` changes its registration,
// `rotate-keys` replaces the signing key, `pause` lets the token endpoint wait, `groups` says how
// many groups of which length alice is in, `claims-in-id-token` puts all claims there, `seen` lists
// what the endpoints were asked. With an argument, a JSON object with `configuration`,
// `port`, `redirectUris`, `secret` and `jwks`, it is one of the providers of `configurations.mjs`.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { interactionPolicy, Provider } from 'oidc-provider';
import { configurations, defaults } from './configurations.mjs';

const groupsOf = (count, length) =>
  Array.from({ length: count }, (_, number) => `group-number-${number}`.padEnd(length, '-'));
const USERS = {
  alice: {
    name: 'Alice Liddell', email: 'alice@example.com', given_name: 'Alice', usual_name: 'Liddell',
    uid: 'alice', siret: '13002526500013', groups: groupsOf(200, 16),
  },
  bob: { name: 'Bob Cratchit', email: 'bob@example.com' },
};

const given = process.argv[2] ? JSON.parse(process.argv[2]) : null;
const configured = given && configurations[given.configuration];

let registration = {};
const seen = [];
let redirectUris = given?.redirectUris ?? ['http://127.0.0.1:1/callback'];
let keys = [newKey(...(configured?.key ?? []))];
let tokenDelay = 0;
let conformIdTokenClaims = true;
let provider;
let issuer;

function newKey(type = 'rsa', options = { modulusLength: 2048 }, alg = 'RS256') {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg };
}

function clients() {
  const common = {
    redirect_uris: redirectUris,
    response_types: ['code'],
    grant_types: ['authorization_code'],
  };
  if (!configured) {
    return [{
      client_id: 'token-relay',
      client_secret: 'a secret of the tests alone',
      token_endpoint_auth_method: 'client_secret_basic',
      ...common,
      ...registration,
    }, {
      client_id: 'token-relay-public',
      token_endpoint_auth_method: 'none',
      ...common,
    }];
  }
  return [{
    client_id: 'token-relay',
    client_secret: given.secret,
    post_logout_redirect_uris: given.postLogoutRedirectUris ?? [],
    ...common,
    ...(configured.ownKeys ? { jwks: given.jwks } : {}),
    ...configured.client,
  }];
}

// With the prompt that a person chooses an account by.
function policy() {
  const prompts = interactionPolicy.base();
  prompts.add(new interactionPolicy.Prompt({ name: 'select_account', requestable: true }), 0);
  return prompts;
}

function makeProvider() {
  provider = new Provider(issuer, {
    clients: clients(),
    jwks: { keys },
    cookies: { keys: ['tests'] },
    pkce: { required: () => true },
    conformIdTokenClaims,
    // Its own client refuses loopback, where the relay of a test listens.
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
    ...defaults,
    claims: { ...defaults.claims, profile: ['name', 'groups'] },
    enabledJWA: {
      idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'ES384', 'ES512', 'EdDSA', 'HS256'],
      userinfoSigningAlgValues: ['RS256', 'ES256', 'HS256'],
    },
    ...configured?.provider,
    features: {
      devInteractions: { enabled: false },
      backchannelLogout: { enabled: true },
      ...configured?.provider?.features,
    },
    interactions: { policy: policy(), url: (_context, interaction) => `/interaction/${interaction.uid}` },
    async findAccount(_context, id) {
      return { accountId: id, claims: async () => ({ sub: id, email_verified: true, ...USERS[id] }) };
    },
    async loadExistingGrant(context) {
      const grant = new context.oidc.provider.Grant({
        clientId: context.oidc.client.clientId,
        accountId: context.oidc.session.accountId,
      });
      grant.addOIDCScope('openid profile email given_name usual_name uid siret');
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
  const { pathname, searchParams } = new URL(request.url, issuer);
  try {
    const unlisted = [...searchParams.keys()].find((name) => !configured?.only?.includes(name));
    const short = ['state', 'nonce'].find((name) => (searchParams.get(name) ?? '').length < 32);
    if (configured?.only && pathname === '/auth' && (unlisted || short)) {
      response.statusCode = 400;
      return response.end(`Y000400: Bad Request Exception (${unlisted ?? short})`);
    }
    if (pathname === '/test/redirect-uri') {
      redirectUris = [await readBody(request)];
      makeProvider();
      return response.end();
    }
    if (pathname === '/test/client') {
      registration = JSON.parse(await readBody(request));
      makeProvider();
      return response.end();
    }
    if (pathname === '/test/groups') {
      USERS.alice.groups = groupsOf(...JSON.parse(await readBody(request)));
      return response.end();
    }
    if (pathname === '/test/claims-in-id-token') {
      conformIdTokenClaims = false;
      makeProvider();
      return response.end();
    }
    if (pathname === '/test/seen') {
      return response.end(JSON.stringify(seen));
    }
    if (pathname === '/auth' || pathname === '/token') {
      seen.push({ pathname, ...Object.fromEntries(searchParams) });
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
    const result = { login: { accountId: user }, select_account: {}, consent: {} };
    await provider.interactionFinished(request, response, result);
  } catch (error) {
    response.statusCode = 500;
    response.end(String(error));
  }
});

server.listen(given?.port ?? 0, '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  makeProvider();
  console.log(JSON.stringify({ issuer }));
});
// The test that started it holds its standard input open; when that ends, so does it.
process.stdin.resume().on('end', () => process.exit(0));
