"""What the Django services of the tests begin with: apps, sessions, CSRF protection, a login form."""

import os
import tempfile

import django
from django.conf import settings

APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
LOGIN = """<!doctype html><form method="post" action="">{{% csrf_token %}}
<input type="hidden" name="{name}" value="{{{{ {name} }}}}">
<input name="username"><input name="password" type="password"></form>"""


def configure(apps, first_middleware=(), return_field="next", **more):
    """Configures Django for the program that runs, which has the URLs; `more` are further settings."""
    settings.configure(
        SECRET_KEY="tests",
        ROOT_URLCONF="__main__",
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        INSTALLED_APPS=[*APPS, *apps],
        MIDDLEWARE=[
            *first_middleware,
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        DATABASES={"default": {
            "ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(tempfile.mkdtemp(), "db"),
        }},
        TEMPLATES=[{
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": [(
                "django.template.loaders.locmem.Loader",
                {"registration/login.html": LOGIN.format(name=return_field)},
            )]},
        }],
        # Fast: these accounts protect nothing.
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        **more,
    )
    django.setup()
