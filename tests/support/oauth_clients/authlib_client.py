"""The PyPI package Authlib: device grant, protected resource, refresh, introspection, revocation."""

import json
import sys
import time

import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session

issuer, api, secret = sys.argv[1:]
metadata = requests.get(f"{issuer}/.well-known/oauth-authorization-server", timeout=10).json()
token_endpoint = metadata["token_endpoint"]
cli = OAuth2Session("cli", token_endpoint_auth_method="none")
device = cli.post(
    metadata["device_authorization_endpoint"], data={"client_id": "cli"}, withhold_token=True
).json()
print(json.dumps({name: device[name] for name in ("user_code", "verification_uri")}), flush=True)

while True:
    time.sleep(device["interval"])
    try:
        token = cli.fetch_token(
            token_endpoint,
            grant_type="urn:ietf:params:oauth:grant-type:device_code",
            device_code=device["device_code"],
        )
        break
    except OAuthError as error:
        assert error.error == "authorization_pending", error

assert cli.get(f"{issuer}/addons/me").json()["sub"] == "alice"
refreshed = cli.refresh_token(token_endpoint, token["refresh_token"])
assert refreshed["refresh_token"] != token["refresh_token"]
backend = OAuth2Session(api, secret)


def is_active():
    answer = backend.introspect_token(
        metadata["introspection_endpoint"], token=refreshed["access_token"], token_type_hint="access_token"
    )
    return answer.json()["active"]


assert is_active()
cli.revoke_token(metadata["revocation_endpoint"], token=refreshed["refresh_token"])
assert not is_active()
print(json.dumps({"done": ["device", "me", "refresh", "introspect", "revoke"]}))
