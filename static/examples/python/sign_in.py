#!/usr/bin/env python3
"""Signs a program in through token-relay, with the standard library alone.

    python3 sign_in.py https://relay.example [NAME] > token

The access token goes to standard output, text for people to standard error. Exit status: 0 signed in,
1 refused or expired, 2 wrong usage, 3 the relay cannot be reached or sends what no relay sends.
"""

import json
import re
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

HEARTBEAT_TIMEOUT = 50  # s; there is a heartbeat every 15 s


class Failed(Exception):
    """The sign-in ended without a token."""


def printable(text):
    """What a relay sends must not move the cursor of a terminal."""
    return "".join(each for each in str(text) if each.isprintable())[:300]


def grammar(pattern, value, name):
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"the relay sends no valid {name}")
    return value


class Relay:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def request(self, url, method="GET", body=None, token=None, timeout=10):
        headers = {"Content-Type": "application/json"} if body else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(url, data, headers, method=method)
        return urllib.request.urlopen(request, timeout=timeout)

    def own(self, url, name):
        """A URL of the relay itself."""
        parts, ours = urlsplit(grammar(r"[!-~]{1,2048}", url, name)), urlsplit(self.url)
        if (parts.scheme, parts.netloc) != (ours.scheme, ours.netloc):
            raise ValueError(f"{name} is not at {self.url}; use the relay's public URL")
        return url

    def create(self, name):
        with self.request(f"{self.url}/addons/sessions", "POST", {"bind": True, "client_name": name}) as answer:
            session = json.load(answer)
        for member in ("transit_url", "events_url", "poll_url"):
            self.own(session[member], member)
        grammar(r"[\w-]{1,512}", session["session_token"], "session_token")
        if session.get("user_code"):
            grammar(r"[A-Z]{4}-[A-Z]{4}", session["user_code"], "user_code")
        return session

    def wait(self, session):
        """The token, once the person has signed in."""
        ends = time.monotonic() + min(session["expires_in"], 86_400)
        while time.monotonic() < ends:
            try:
                with self.request(session["events_url"], token=session["session_token"], timeout=HEARTBEAT_TIMEOUT) as stream:
                    for event, data in events(stream):
                        if event == "authenticated":
                            return grammar(r"[\w.~+/=-]+", data.get("access_token"), "access_token")
                        if event == "failed":
                            raise Failed(printable(f"{data.get('error')}: {data.get('error_description')}"))
                        if event == "expired":
                            raise Failed("the time to sign in is over")
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    raise Failed("the session is over") from error
            except OSError:
                pass  # cut off: reconnect
            time.sleep(2)
        raise Failed("the time to sign in is over")

    def end(self, session):
        """Acknowledges the token, or cancels the sign-in."""
        try:
            self.request(session["poll_url"], "DELETE", token=session["session_token"]).close()
        except OSError:
            pass  # it ends by itself


def events(stream):
    """Events of a stream (WHATWG HTML 9.2.6), as far as a relay uses them."""
    event, data = "", ""
    while line := stream.readline(256 * 1024):
        name, _, value = line.decode(errors="replace").rstrip("\r\n").partition(":")
        if name == "event":
            event = value.strip()
        elif name == "data":
            data += value
        elif not name and not value and data:
            yield event, json.loads(data)
            event, data = "", ""


def main(arguments):
    if not 1 <= len(arguments) <= 2:
        print("usage: sign_in.py RELAY [NAME]", file=sys.stderr)
        return 2
    relay = Relay(arguments[0])
    try:
        session = relay.create(arguments[1] if len(arguments) > 1 else "Python")
    except (OSError, ValueError, KeyError) as error:
        print(f"no session: {printable(error)}", file=sys.stderr)
        return 3
    print(f"Open this address in a browser:\n\n    {session['transit_url']}\n", file=sys.stderr)
    if session.get("user_code"):
        print(f"and type the code {session['user_code']} there.", file=sys.stderr, flush=True)
    try:
        token = relay.wait(session)
    except Failed as failed:
        print(f"Not signed in: {failed}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(printable(error), file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        relay.end(session)
        return 1
    relay.end(session)
    print("Signed in.", file=sys.stderr)
    print(token)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
