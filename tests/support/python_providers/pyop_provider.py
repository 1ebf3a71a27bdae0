"""An OpenID provider made with the PyPI package `pyop`."""

from flask import Flask, redirect, request
from jwkest.jwk import RSAKey
from Cryptodome.PublicKey import RSA
from pyop.authz_state import AuthorizationState
from pyop.provider import Provider
from pyop.subject_identifier import HashBasedSubjectIdentifierFactory
from pyop.userinfo import Userinfo

from common import CLIENT_ID, FORM, GIVEN, ORIGIN, REDIRECT_URI, SECRET, USER, serve

metadata = {
    "issuer": ORIGIN,
    "authorization_endpoint": f"{ORIGIN}/authorize",
    "token_endpoint": f"{ORIGIN}/token",
    "userinfo_endpoint": f"{ORIGIN}/userinfo",
    "jwks_uri": f"{ORIGIN}/jwks",
    "scopes_supported": ["openid", "profile", "email"],
    "response_types_supported": ["code"],
    "subject_types_supported": ["pairwise"],
    "token_endpoint_auth_methods_supported": [GIVEN.get("method", "client_secret_basic")],
}
clients = {
    CLIENT_ID: {
        "client_secret": SECRET,
        "redirect_uris": [REDIRECT_URI],
        "response_types": ["code"],
        "subject_type": "pairwise",
        "token_endpoint_auth_method": GIVEN.get("method", "client_secret_basic"),
    }
}
key = RSAKey(key=RSA.generate(2048), alg="RS256", use="sig", kid="pyop")
provider = Provider(
    key, metadata, AuthorizationState(HashBasedSubjectIdentifierFactory("salt")), clients,
    Userinfo({"alice": USER}),
)
app = Flask(__name__)


@app.get("/.well-known/openid-configuration")
def configuration():
    return provider.provider_configuration.to_dict()


@app.get("/jwks")
def jwks():
    return provider.jwks


@app.route("/authorize", methods=["GET", "POST"])
def authorize():
    asked = provider.parse_authentication_request(request.query_string.decode(), request.headers)
    if request.method == "GET":
        return FORM
    answer = provider.authorize(asked, "alice")
    return redirect(answer.request(asked["redirect_uri"]), 303)


@app.post("/token")
def token():
    return provider.handle_token_request(request.get_data().decode(), request.headers).to_dict()


@app.get("/userinfo")
def userinfo():
    return provider.handle_userinfo_request(
        request.query_string.decode(), request.headers
    ).to_dict()


serve(app, ORIGIN)
