// The npm package `oauth2-mock-server`, with answers as real providers were found to give them.
//
// Its argument is a JSON object with `port` and `deformation`; it prints one JSON line with its
// issuer when it serves.
import { OAuth2Server } from 'oauth2-mock-server';

const { port, deformation } = JSON.parse(process.argv[2]);
const server = new OAuth2Server();
await server.issuer.keys.generate('RS256');
const { service } = server;

const claims = {
  plain: {},
  'claims of other types': {
    updated_at: '2025-12-23T10:59:07.841Z', email_verified: 'true', address: 'one line', acr: 1,
  },
  'times as text': { exp: String(Math.floor(Date.now() / 1000) + 300), auth_time: '1700000000.5' },
  'further audiences': { aud: ['token-relay', '329836626744180738'], azp: 'token-relay' },
  'foreign audiences': { aud: ['token-relay', 'another'] },
  'numeric subject': { sub: 4711 },
  'clock ahead': { iat: Math.floor(Date.now() / 1000) + 90 },
  'null claims': { email: null, name: null, azp: null, at_hash: null },
}[deformation] ?? {};

// Without a login form: whoever asks is alice.
service.on('beforeTokenSigning', (token) => {
  Object.assign(token.payload, { sub: 'alice' }, claims);
});
service.on('beforeUserinfo', (response) => {
  response.body = { sub: 'alice', name: 'Alice Liddell', email: 'alice@example.com' };
  if (deformation === 'no name') delete response.body.name;
});
service.on('beforeResponse', (response) => {
  if (deformation === 'fields of other types') {
    Object.assign(response.body, { scope: ['openid'], expires_in: '3599', refresh_token: null });
  }
  if (deformation === 'token endpoint of HTML') {
    response.body = '<html>blocked</html>';
    response.statusCode = 403;
  }
  if (deformation === 'error with status 200') {
    response.body = { error: 'bad_verification_code', error_description: 'The code is incorrect.' };
  }
});
await server.start(port, '127.0.0.1');
// The issuer names itself by a host name unless told.
server.issuer.url = `http://127.0.0.1:${server.address().port}`;
console.log(JSON.stringify({ issuer: server.issuer.url }));
process.stdin.resume().on('end', () => process.exit(0));
