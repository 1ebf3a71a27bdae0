"""The PyPI package joserfc at the other end: each line of standard input is a command, answered by a
line. `encrypt` makes a compact JWE, `verify` checks a DPoP proof by the key that it names, `prove` makes
one."""

import json
import sys

from joserfc import jwe, jws, jwt
from joserfc.jwk import ECKey

own = ECKey.generate_key("P-256")


def encrypt(argument):
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "apv": argument["apv"]}
    content = json.dumps(argument["content"]).encode()
    key = ECKey.import_key(argument["key"])
    return jwe.encrypt_compact(header, content, key, algorithms=["ECDH-ES", "A256GCM"])


def verify(proof):
    header = jws.extract_compact(proof.encode()).headers()
    assert header["typ"] == "dpop+jwt", header
    key = ECKey.import_key(header["jwk"])
    assert not key.is_private
    claims = jwt.decode(proof, key, algorithms=["ES256"]).claims
    return {"claims": claims, "thumbprint": key.thumbprint()}


def prove(claims):
    header = {"alg": "ES256", "typ": "dpop+jwt", "jwk": own.as_dict(private=False)}
    return jwt.encode(header, claims, own, algorithms=["ES256"])


print(json.dumps(own.thumbprint()), flush=True)
for line in sys.stdin:
    [(name, argument)] = json.loads(line).items()
    print(json.dumps({"encrypt": encrypt, "verify": verify, "prove": prove}[name](argument)), flush=True)
