"""Signs in for a token that is bound to a key, in two runs, and uses it with proofs (DPoP, RFC 9449)."""

import json
import sys
import time
import urllib.error
import urllib.request

relay, client_id, store, mode = sys.argv[1:5]
if mode == "without_cryptography":
    sys.modules["cryptography"] = None

import token_relay  # noqa: E402


def say(value):
    print(json.dumps(value), flush=True)


def prompt(shown):
    say({"url": shown.url, "user_code": shown.user_code})


def begin(dpop, **options):
    return token_relay.sign_in(
        relay, client_id=client_id or None, on_prompt=prompt, dpop=dpop, open_browser=False, **options
    )


def ask(headers):
    """Status, body and headers of `/addons/me`."""
    request = urllib.request.Request(f"{relay}/addons/me", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}, error.headers


def proven(proof):
    while True:
        status, body, headers = ask(proof.headers())
        if not proof.renewed(status, headers):
            return status, body


if mode == "without_cryptography":
    try:
        begin(True)
    except ValueError as error:
        say({"error": str(error)})
elif mode in ("unbound", "stripped"):
    sign_in = begin(mode == "stripped", call_soon=lambda call: call())
    try:
        sign_in.result(60)
    except token_relay.SignInError as error:
        say({"error": error.error if mode == "stripped" else error.description})
elif mode == "begin":
    sign_in = begin(True, store=store)
    while not sign_in.poll():
        time.sleep(0.05)
else:
    token = token_relay.resume(store).result(30)
    url = f"{relay}/addons/me"
    subjects = [proven(token.prove("GET", f"{url}?a=b#c"))[1]["sub"] for _ in range(2)]
    refreshed = token.refresh().result(30)
    subjects.append(proven(refreshed.prove("GET", url))[1]["sub"])
    bearer = ask({"Authorization": f"Bearer {refreshed.access_token}"})[0]
    other = token_relay.Proof(token_relay._Key.generate(), "GET", url, refreshed.access_token)
    say({
        "types": [token.token_type, refreshed.token_type],
        "subjects": subjects,
        "as_bearer": bearer,
        "other_key": proven(other)[0],
    })
