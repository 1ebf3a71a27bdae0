// The npm package jose at the other end: each line of standard input is a command, answered by a line.
// `encrypt` makes a compact JWE, `verify` checks a DPoP proof by the key that it names, `prove` makes one.
import { createInterface } from 'node:readline';
import * as jose from 'jose';

const { privateKey, publicKey } = await jose.generateKeyPair('ES256');
const jwk = await jose.exportJWK(publicKey);

const commands = {
  async encrypt({ key, apv, content }) {
    return new jose.CompactEncrypt(new TextEncoder().encode(JSON.stringify(content)))
      .setProtectedHeader({ alg: 'ECDH-ES', enc: 'A256GCM' })
      .setKeyManagementParameters({ apv: jose.base64url.decode(apv) })
      .encrypt(await jose.importJWK(key, 'ECDH-ES'));
  },
  async verify(proof) {
    const { payload, protectedHeader } = await jose.jwtVerify(proof, jose.EmbeddedJWK, { typ: 'dpop+jwt', algorithms: ['ES256'], maxTokenAge: '60s' });
    return { claims: payload, thumbprint: await jose.calculateJwkThumbprint(protectedHeader.jwk) };
  },
  async prove(claims) {
    return new jose.SignJWT(claims).setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk }).sign(privateKey);
  },
};

console.log(JSON.stringify(await jose.calculateJwkThumbprint(jwk)));
for await (const line of createInterface({ input: process.stdin })) {
  const [[name, argument]] = Object.entries(JSON.parse(line));
  console.log(JSON.stringify(await commands[name](argument)));
}
