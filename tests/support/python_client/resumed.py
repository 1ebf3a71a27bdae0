"""Begins a sign-in and is killed, or continues the one that an earlier run began."""

import json
import sys
import time

import token_relay

relay, store, mode = sys.argv[1:4]
if mode == "begin":
    def prompt(shown):
        print(json.dumps({"url": shown.url, "user_code": shown.user_code}), flush=True)

    sign_in = token_relay.sign_in(
        relay, client_name="resumed", on_prompt=prompt, store=store, open_browser=False
    )
    while not sign_in.poll():
        time.sleep(0.05)
else:
    sign_in = token_relay.resume(store)
    if sign_in is None:
        print(json.dumps({"nothing": True}))
    else:
        print(json.dumps({"token": sign_in.result(20).access_token}))
