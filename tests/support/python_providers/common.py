"""What the providers in Python share: their argument, a server, and their end."""

import json
import os
import pathlib
import ssl
import sys
import threading

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import threaded_wsgi  # noqa: E402

GIVEN = json.loads(sys.argv[1])
PORT = GIVEN["port"]
SCHEME = "https" if "certificate" in GIVEN else "http"
ORIGIN = f"{SCHEME}://127.0.0.1:{PORT}"
REDIRECT_URI = GIVEN["redirectUris"][0]
CLIENT_ID = "token-relay"
SECRET = GIVEN["secret"]
USER = {"sub": "alice", "name": "Alice Liddell", "email": "alice@example.com"}

FORM = """<!doctype html><title>Sign in</title><form method="post" action="">
<input name="username"><input name="password" type="password"></form>"""


def serve(application, issuer):
    """Serves until standard input ends."""
    server = threaded_wsgi.server(PORT, application)
    if SCHEME == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(GIVEN["certificate"], GIVEN["key"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"issuer": issuer}), flush=True)
    sys.stdin.read()
    os._exit(0)
