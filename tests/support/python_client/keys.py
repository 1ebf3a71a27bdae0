"""The keys of the client for Python: each line of standard input is a command, answered by a line."""

import json
import sys

import token_relay

key = token_relay._Key.generate()


def opened(argument):
    try:
        return key.opened(argument[0], {"encrypted": argument[1]})
    except Exception:  # as the client: of many kinds
        return "refused"


def prove(argument):
    headers = token_relay.Proof(key, *argument).headers()
    assert headers["Authorization"] == f"DPoP {argument[2]}", headers
    return {**headers, "thumbprint": key.thumbprint()}


commands = {"key": lambda _: key.public(), "open": opened, "prove": prove}
for line in sys.stdin:
    [(name, argument)] = json.loads(line).items()
    print(json.dumps(commands[name](argument)), flush=True)
