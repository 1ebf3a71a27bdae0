#!/usr/bin/env python3
"""A login of your own, without a poll loop: the add-in waits at the relay's stream and opens /?transit_token=… here.
RELAY=https://relay.example CLIENT_ID=portal CLIENT_SECRET=… python3 login.py [PORT]"""
import base64, html, hmac, http.server, json, os, sys, urllib.error, urllib.parse, urllib.request

PASSWORDS = {"alice": "wonderland"}
FORM = """<!doctype html><title>Sign in</title><h1>Give the add-in access?</h1><form method="post">
<input name="transit_token" type="hidden" value="{}"><input name="username"><input name="password" type="password">
<button>Give access</button></form>"""

def fulfil(transit_token, subject):
    credentials = base64.b64encode("{CLIENT_ID}:{CLIENT_SECRET}".format_map(os.environ).encode()).decode()
    headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json", "Prefer": "wait=5"}
    body = json.dumps({"transit_token": transit_token, "subject": subject}).encode()
    request = urllib.request.Request(os.environ["RELAY"] + "/addons/fulfil", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["delivered"]

class Login(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        self.answer(200, FORM.format(html.escape(query.get("transit_token", ""))))

    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        user, password = form.get("username"), form.get("password", "")
        if user not in PASSWORDS or not hmac.compare_digest(PASSWORDS[user].encode(), password.encode()):
            return self.answer(403, "Wrong name or password.")
        try:
            delivered = fulfil(form.get("transit_token", ""), user)
            self.answer(200, "The add-in has its token." if delivered else "Go back to the add-in.")
        except urllib.error.HTTPError as error:  # 404, 409, 410: that session does not wait any more
            self.answer(error.code, "Begin again in the add-in.")

    def answer(self, status, page):
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(page.encode())

http.server.ThreadingHTTPServer(("127.0.0.1", int((sys.argv + ["9000"])[1])), Login).serve_forever()
