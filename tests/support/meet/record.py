#!/usr/bin/env python3
"""Records what a Django service answers to the requests of `cases.json`, with the standard library.

    record.py BASE_URL USER PASSWORD [SOURCE…] > answers.json

The service is La Suite Meet's, over plain HTTP, with ADDONS_TRANSIT_TOKEN_TTL=2, ADDONS_SESSION_TTL=6
and a login form at /login/. SOURCE is text for the file, NAME=VALUE each. Differences that are on
purpose are taken over from the `answers.json` that is there.
"""

import http.client
import json
import pathlib
import sys
import time
from html.parser import HTMLParser
from urllib.parse import urlencode, urlsplit

HERE = pathlib.Path(__file__).parent
BASE, USER, PASSWORD = sys.argv[1:4]
HOST = urlsplit(BASE).netloc


def call(method, path, headers=None, body=None):
    connection = http.client.HTTPConnection(HOST, timeout=10)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def cookies(answer):
    found = {}
    for value in answer.headers.get_all("Set-Cookie") or []:
        name, _, value = value.split(";")[0].partition("=")
        found[name] = value
    return found


class Fields(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "input" and attributes.get("type") == "hidden":
            self.found[attributes["name"]] = attributes.get("value", "")


def log_in():
    """The cookies of a person who is logged in, and the masked CSRF token of a form."""
    answer, page = call("GET", "/login/")
    jar = cookies(answer)
    for _ in range(2):
        token = Fields(page).found["csrfmiddlewaretoken"]
        form = urlencode({"csrfmiddlewaretoken": token, "username": USER, "password": PASSWORD})
        headers = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in jar.items()),
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": BASE,
        }
        if "sessionid" not in " ".join(jar):
            answer, _ = call("POST", "/login/", headers, form)
            assert answer.status == 302, answer.status
            jar |= cookies(answer)
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in jar.items())
        _, page = call("GET", "/login/", headers)
    return jar, Fields(page).found["csrfmiddlewaretoken"]


def described(answer, text):
    """What counts of an answer."""
    wanted = ["Content-Type", "Allow", "WWW-Authenticate"]
    headers = {name: answer.headers[name] for name in wanted if answer.headers[name]}
    if answer.status != 405:
        # It is in every answer; that is of no use to anybody.
        headers.pop("Allow", None)
    set_cookies = []
    for value in answer.headers.get_all("Set-Cookie") or []:
        pair, *attributes = [part.strip() for part in value.split(";")]
        name, _, value = pair.partition("=")
        kept = sorted(each for each in attributes if not each.lower().startswith("expires="))
        set_cookies.append({"name": name, "empty": value in ["", '""'], "attributes": kept})
    try:
        body = json.loads(text)
    except ValueError:
        body = None if not text else "not JSON"
    if isinstance(body, dict):
        for name in ["transit_token", "csrf_token", "access_token"]:
            if name in body:
                body[name] = "…"
    return {"status": answer.status, "headers": headers, "cookies": set_cookies, "body": body}


def run(case, jar, masked):
    """The answers to the steps of a case."""
    begun = []
    for _ in range(2):
        answer, text = call("POST", "/api/v1.0/addons/sessions/init/")
        begun.append((cookies(answer)["addonsSid"], json.loads(text)))
    (session, own), (_, other) = begun
    known = {
        "$session": session,
        "$csrf": own["csrf_token"],
        "$csrf upper": own["csrf_token"].upper(),
        "$other_csrf": other["csrf_token"],
        "$transit": own["transit_token"],
        "$cookie": jar["csrftoken"],
        "$masked": masked,
        "$own": BASE,
    }
    fill = lambda value: known.get(value, value) if isinstance(value, str) else value
    answers = []
    for step in case["steps"]:
        time.sleep(step.get("wait", 0))
        headers, sent = {}, {}
        if "session" in step:
            sent["addonsSid"] = fill(step["session"])
        if login := step.get("login"):
            sent |= jar
            if login == "guessed":
                sent |= {name: "guessed" for name in jar if name != "csrftoken"}
            if login == "no csrftoken":
                del sent["csrftoken"]
        if sent:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in sent.items())
        for member, name in [("csrf", "X-CSRFToken"), ("django_csrf", "X-CSRFToken"), ("origin", "Origin")]:
            if member in step:
                headers[name] = fill(step[member])
        body = step.get("raw")
        if "content_type" in step:
            headers["Content-Type"] = step["content_type"]
        if "json" in step:
            value = step["json"]
            if isinstance(value, dict):
                value = {name: fill(each) for name, each in value.items()}
            body, headers["Content-Type"] = json.dumps(value), "application/json"
        path = f"/api/v1.0/addons/sessions/{step['call']}/"
        answers.append(described(*call(step.get("method", "POST"), path, headers, body)))
    return answers


def main():
    before = HERE / "answers.json"
    differences = json.loads(before.read_text())["differences"] if before.exists() else []
    jar, masked = log_in()
    cases = json.loads((HERE / "cases.json").read_text())["cases"]
    answers = {case["name"]: run(case, jar, masked) for case in cases}
    source = dict(each.split("=", 1) for each in sys.argv[4:])
    document = {"source": source, "differences": differences, "answers": answers}
    json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
    print()


main()
