// The npm package jose: prints a public key, then opens each line of standard input, a compact JWE for
// that key, and prints its header and its content.
import { createInterface } from 'node:readline';
import * as jose from 'jose';

const { publicKey, privateKey } = await jose.generateKeyPair('ECDH-ES', { crv: 'P-256' });
console.log(JSON.stringify(await jose.exportJWK(publicKey)));
for await (const encrypted of createInterface({ input: process.stdin })) {
  const { plaintext, protectedHeader } = await jose.compactDecrypt(encrypted, privateKey, {
    keyManagementAlgorithms: ['ECDH-ES'], contentEncryptionAlgorithms: ['A256GCM'],
  });
  console.log(JSON.stringify({ header: protectedHeader, content: JSON.parse(new TextDecoder().decode(plaintext)) }));
}
