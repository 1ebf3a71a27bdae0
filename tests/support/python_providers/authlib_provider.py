"""An OpenID provider made with the PyPI package `Authlib`."""

import time

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import UserInfo
from authlib.oidc.core.grants import OpenIDCode as BaseOpenIDCode
from flask import Flask, request
from joserfc.jwk import RSAKey

from common import CLIENT_ID, FORM, ORIGIN, REDIRECT_URI, SECRET, USER, serve

key = RSAKey.generate_key(2048, parameters={"kid": "authlib", "use": "sig", "alg": "RS256"})
codes, tokens = {}, {}


class Client(ClientMixin):
    def get_client_id(self):
        return CLIENT_ID

    def get_default_redirect_uri(self):
        return REDIRECT_URI

    def get_allowed_scope(self, scope):
        return scope

    def check_redirect_uri(self, redirect_uri):
        return redirect_uri == REDIRECT_URI

    def check_client_secret(self, client_secret):
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method, endpoint):
        return method in ("client_secret_basic", "client_secret_post")

    def check_response_type(self, response_type):
        return response_type == "code"

    def check_grant_type(self, grant_type):
        return grant_type == "authorization_code"


class Code:
    def __init__(self, code, asked):
        self.code, self.auth_time = code, int(time.time())
        data = asked.payload.data
        self.redirect_uri, self.scope = data.get("redirect_uri"), data.get("scope")
        self.nonce, self.code_challenge = data.get("nonce"), data.get("code_challenge")
        self.code_challenge_method = data.get("code_challenge_method")

    def get_redirect_uri(self):
        return self.redirect_uri

    def get_scope(self):
        return self.scope

    def get_nonce(self):
        return self.nonce

    def get_auth_time(self):
        return self.auth_time

    def get_acr(self):
        return None

    def get_amr(self):
        return None


class CodeGrant(grants.AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]

    def save_authorization_code(self, code, asked):
        codes[code] = Code(code, asked)

    def query_authorization_code(self, code, client):
        return codes.get(code)

    def delete_authorization_code(self, code):
        codes.pop(code.code)

    def authenticate_user(self, code):
        return "alice"


class OpenIDCode(BaseOpenIDCode):
    def exists_nonce(self, nonce, asked):
        return False

    def get_jwt_config(self, grant, *_):
        return {"key": key.as_dict(private=True), "alg": "RS256", "iss": ORIGIN, "exp": 300}

    def get_client_algorithm(self, client):
        return "RS256"

    def generate_user_info(self, user, scope):
        return UserInfo(sub=user)


app = Flask(__name__)
server = AuthorizationServer(
    app, query_client=lambda client_id: Client() if client_id == CLIENT_ID else None,
    save_token=lambda token, asked: tokens.update({token["access_token"]: "alice"}),
)
server.register_grant(CodeGrant, [OpenIDCode(require_nonce=True), CodeChallenge(required=True)])


@app.get("/.well-known/openid-configuration")
def metadata():
    return {
        "issuer": ORIGIN,
        "authorization_endpoint": f"{ORIGIN}/authorize",
        "token_endpoint": f"{ORIGIN}/token",
        "userinfo_endpoint": f"{ORIGIN}/userinfo",
        "jwks_uri": f"{ORIGIN}/jwks",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }


@app.get("/jwks")
def jwks():
    return {"keys": [key.as_dict(private=False)]}


@app.route("/authorize", methods=["GET", "POST"])
def authorize():
    if request.method == "GET":
        return FORM
    fits = request.form["username"] == request.form["password"] == "alice"
    grant = server.get_consent_grant(end_user="alice")
    return server.create_authorization_response(grant_user="alice" if fits else None, grant=grant)


@app.post("/token")
def token():
    return server.create_token_response()


@app.get("/userinfo")
def userinfo():
    known = request.headers.get("Authorization", "").removeprefix("Bearer ") in tokens
    return USER if known else ({"error": "invalid_token"}, 401)


serve(app, ORIGIN)
