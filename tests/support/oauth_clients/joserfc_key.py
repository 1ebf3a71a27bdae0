"""The PyPI package joserfc: prints a public key, then opens each line of standard input, a compact JWE
for that key, and prints its header and its content."""

import json
import sys

from joserfc import jwe
from joserfc.jwk import ECKey

key = ECKey.generate_key("P-256")
print(json.dumps(key.as_dict(private=False)), flush=True)
for line in sys.stdin:
    opened = jwe.decrypt_compact(line.strip(), key, algorithms=["ECDH-ES", "A256GCM"])
    print(json.dumps({"header": opened.protected, "content": json.loads(opened.plaintext)}), flush=True)
