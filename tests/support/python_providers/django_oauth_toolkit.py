"""The PyPI package `django-oauth-toolkit` as an OpenID provider."""

import os
import subprocess
import tempfile

import django
from django.conf import settings

from common import CLIENT_ID, GIVEN, ORIGIN, REDIRECT_URI, SECRET, serve

key = subprocess.run(
    ["openssl", "genrsa", "2048"], check=True, capture_output=True, text=True
).stdout
folder = tempfile.mkdtemp()
settings.configure(
    DEBUG=True,
    SECRET_KEY="tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
        "oauth2_provider",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(folder, "db")}
    },
    TEMPLATES=[{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "loaders": [("django.template.loaders.locmem.Loader", {
                "registration/login.html": """<!doctype html><form method="post" action="">
                    {% csrf_token %}<input type="hidden" name="next" value="{{ next }}">
                    <input name="username"><input name="password" type="password"></form>""",
            })],
        },
    }],
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
django.setup()

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
