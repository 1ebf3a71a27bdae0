#!/usr/bin/env python3
"""A login of your own in front of an add-in, with the standard library alone. The add-in opens
http://127.0.0.1:9000/?transit_token=… and waits at the relay's stream; this server used to answer
its `GET /status` once a second until the person was in.

    RELAY=https://relay.example CLIENT_ID=portal CLIENT_SECRET=… python3 login.py [PORT]
"""

import base64, html, json, os, sys, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ACCOUNTS = {"alice": "wonderland"}
FORM = """<!doctype html><title>Sign in</title><h1>Give the add-in access?</h1><form method="post">
<input name="transit_token" type="hidden" value="{}"><input name="username"><input name="password"
type="password"><button>Give access</button></form>"""


def fulfil(transit_token, subject):
    """Hands the add-in its token; True when it has arrived."""
    basic = base64.b64encode(f"{os.environ['CLIENT_ID']}:{os.environ['CLIENT_SECRET']}".encode())
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {basic.decode()}"}
    body = json.dumps({"transit_token": transit_token, "subject": subject}).encode()
    request = urllib.request.Request(f"{os.environ['RELAY']}/addons/fulfil", body,
                                     headers | {"Prefer": "wait=5"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["delivered"]


class Login(BaseHTTPRequestHandler):
    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        self.answer(200, FORM.format(html.escape(query.get("transit_token", [""])[0])))

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        form = {name: value[0] for name, value in parse_qs(self.rfile.read(length).decode()).items()}
        if ACCOUNTS.get(form.get("username")) != form.get("password"):
            return self.answer(403, "Wrong name or password.")
        arrived = fulfil(form.get("transit_token", ""), form["username"])
        self.answer(200, "The add-in has its token." if arrived else "Go back to the add-in.")

    def answer(self, status, page):
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(page.encode())


port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
ThreadingHTTPServer(("127.0.0.1", port), Login).serve_forever()
