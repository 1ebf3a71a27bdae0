"""The PyPI package `django-oauth-toolkit` as an OpenID provider."""

import subprocess

from common import CLIENT_ID, GIVEN, ORIGIN, REDIRECT_URI, SECRET, serve
import django_service

key = subprocess.run(
    ["openssl", "genrsa", "2048"], check=True, capture_output=True, text=True
).stdout
django_service.configure(
    apps=["oauth2_provider"],
    DEBUG=True,
    ALLOWED_HOSTS=["*"],
    LOGIN_URL="/login/",
    OAUTH2_PROVIDER={
        "OIDC_ENABLED": True,
        "OIDC_RSA_PRIVATE_KEY": key,
        "OIDC_ISS_ENDPOINT": f"{ORIGIN}/o",
        "PKCE_REQUIRED": True,
        "SCOPES": {"openid": "openid", "profile": "profile", "email": "email"},
        "OAUTH2_VALIDATOR_CLASS": f"{__name__}.Validator",
    },
)

from django.contrib.auth.models import User  # noqa: E402
from django.contrib.auth.views import LoginView  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import include, path  # noqa: E402
from oauth2_provider.models import Application  # noqa: E402
from oauth2_provider.oauth2_validators import OAuth2Validator  # noqa: E402


class Validator(OAuth2Validator):
    oidc_claim_scope = None

    def get_additional_claims(self, request):
        user = request.user
        return {"name": user.get_full_name(), "email": user.email}


urlpatterns = [
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("login/", LoginView.as_view()),
]

call_command("migrate", verbosity=0)
User.objects.create_user(
    "alice", "alice@example.com", "alice", first_name="Alice", last_name="Liddell"
)
algorithm = GIVEN.get("algorithm", "RS256")
Application.objects.create(
    client_id=CLIENT_ID,
    client_secret=SECRET,
    hash_client_secret=algorithm == "RS256",
    redirect_uris=REDIRECT_URI,
    client_type=Application.CLIENT_CONFIDENTIAL,
    authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
    skip_authorization=True,
    algorithm=algorithm,
)
serve(get_wsgi_application(), f"{ORIGIN}/o")
