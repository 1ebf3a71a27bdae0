"""An API behind forward authentication: answers with the headers as WSGI (PEP 3333) sees them."""

import json
from wsgiref.simple_server import WSGIRequestHandler, make_server


class Handler(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def api(environ, start_response):
    seen = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]


server = make_server("127.0.0.1", 0, api, handler_class=Handler)
print(f"127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
