"""The PyPI package `canaille` as an OpenID provider."""

import datetime
import subprocess

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend

from common import CLIENT_ID, GIVEN, ORIGIN, PORT, REDIRECT_URI, SECRET, serve

key = subprocess.run(
    ["openssl", "genrsa", "2048"], check=True, capture_output=True, text=True
).stdout
app = create_app({
    "SECRET_KEY": "tests",
    "SERVER_NAME": f"127.0.0.1:{PORT}",
    "PREFERRED_URL_SCHEME": "http",
    "CANAILLE": {
        "DATABASE": "memory", "SMTP": None, "JAVASCRIPT": False, "HTMX": False,
        "CAPTCHA_ENABLED": False,
        "LOGGING": {"version": 1, "root": {"level": "CRITICAL"}},
    },
    "CANAILLE_OIDC": {"ACTIVE_JWKS": [key]},
})
with app.app_context(), Backend.instance.session():
    Backend.instance.save(models.User(
        user_name="alice", password="alice", formatted_name="Alice Liddell",
        given_name="Alice", family_name="Liddell", emails=["alice@example.com"],
    ))
    client = models.Client(
        client_id=CLIENT_ID, client_secret=SECRET, client_name="Relay", client_uri=ORIGIN,
        client_id_issued_at=datetime.datetime.now(datetime.timezone.utc),
        redirect_uris=[REDIRECT_URI], grant_types=["authorization_code"],
        response_types=["code"], scope=["openid", "profile", "email"],
        token_endpoint_auth_method=GIVEN.get("method", "client_secret_basic"),
    )
    Backend.instance.save(client)
    client.audience = [client]
    Backend.instance.save(client)
serve(app.wsgi_app, ORIGIN)
