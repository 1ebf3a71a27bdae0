#!/usr/bin/env python3
"""Signs a program in through token-relay, by the module `token_relay` (client/python).

    pip install ./client/python
    python3 sign_in.py https://relay.example [NAME] > token

The access token goes to standard output, text for people to standard error. Exit status: 0 signed in,
1 refused or expired, 2 wrong usage, 3 the relay cannot be reached or sends what no relay sends.
"""

import sys

import token_relay


def prompt(shown):
    print(f"Open this address in a browser:\n\n    {shown.url}\n", file=sys.stderr)
    if shown.user_code:
        print(f"and type the code {shown.user_code} there.", file=sys.stderr, flush=True)


def main(arguments):
    if not 1 <= len(arguments) <= 2:
        print("usage: sign_in.py RELAY [NAME]", file=sys.stderr)
        return 2
    name = arguments[1] if len(arguments) > 1 else "Python"
    try:
        sign_in = token_relay.sign_in(
            arguments[0],
            client_name=name,
            on_prompt=prompt,
            call_soon=lambda call: call(),  # a script has no event loop
            open_browser=False,
        )
        token = sign_in.result()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except token_relay.SignInError as error:
        unreachable = error.error in ("unavailable", "invalid_response")
        print(f"Not signed in: {error}", file=sys.stderr)
        return 3 if unreachable else 1
    except KeyboardInterrupt:
        sign_in.cancel()
        return 1
    print("Signed in.", file=sys.stderr)
    print(token.access_token)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
