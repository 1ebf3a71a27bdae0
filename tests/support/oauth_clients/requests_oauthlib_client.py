"""The PyPI package requests-oauthlib with oauthlib's DeviceClient: device grant, protected resource,
refresh, introspection, revocation."""

import json
import sys
import time

import requests
from oauthlib.oauth2 import DeviceClient, OAuth2Error
from requests_oauthlib import OAuth2Session

issuer, api, secret = sys.argv[1:]
metadata = requests.get(f"{issuer}/.well-known/oauth-authorization-server", timeout=10).json()
token_endpoint = metadata["token_endpoint"]
client = DeviceClient("cli")
device = requests.post(metadata["device_authorization_endpoint"], data={"client_id": "cli"}, timeout=10).json()
print(json.dumps({name: device[name] for name in ("user_code", "verification_uri")}), flush=True)

session = OAuth2Session(client=client)
while True:
    time.sleep(device["interval"])
    try:
        token = session.fetch_token(
            token_endpoint, device_code=device["device_code"], include_client_id=True
        )
        break
    except OAuth2Error as error:
        assert error.error == "authorization_pending", error

assert session.get(f"{issuer}/addons/me").json()["sub"] == "alice"
refreshed = session.refresh_token(token_endpoint, token["refresh_token"], client_id="cli")
assert refreshed["refresh_token"] != token["refresh_token"]


def is_active():
    answer = requests.post(
        metadata["introspection_endpoint"],
        data={"token": refreshed["access_token"]},
        auth=(api, secret),
        timeout=10,
    )
    return answer.json()["active"]


assert is_active()
url, headers, body = client.prepare_token_revocation_request(
    metadata["revocation_endpoint"], refreshed["refresh_token"], "refresh_token"
)
requests.post(url, data=body, headers=headers, timeout=10).raise_for_status()
assert not is_active()
print(json.dumps({"done": ["device", "me", "refresh", "introspect", "revoke"]}))
