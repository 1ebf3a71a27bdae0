"""A platform with accounts of its own, in Django as La Suite Meet is: users with UUIDs, a login by
session and form, CSRF protection, `users/me/`, and an API that takes the relay's tokens.

The argument is JSON: `port`, `public_url`, `token_secret`, and `timeout` of a login in seconds.
`POST /control/` takes `{"me": …}`, what is wrong with `users/me/`; `GET` answers with the headers
of the last request there.
"""

import json
import os
import pathlib
import sys
import threading
import time
from urllib.parse import urlsplit

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import django_service  # noqa: E402
import threaded_wsgi  # noqa: E402

GIVEN = json.loads(sys.argv[1])
PUBLIC = urlsplit(GIVEN["public_url"])
IS_HTTPS = PUBLIC.scheme == "https"
django_service.configure(
    apps=["accounts"],
    first_middleware=["__main__.marked", "django.middleware.security.SecurityMiddleware"],
    return_field="returnTo",
    ALLOWED_HOSTS=[PUBLIC.hostname],
    AUTH_USER_MODEL="accounts.User",
    MIGRATION_MODULES={"accounts": None},
    SESSION_COOKIE_NAME="meet_sessionid",
    SESSION_COOKIE_AGE=GIVEN.get("timeout", 43200),
    # As in the deployments of La Suite Meet.
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    SECURE_SSL_REDIRECT=IS_HTTPS,
    SESSION_COOKIE_SECURE=IS_HTTPS,
    CSRF_COOKIE_SECURE=IS_HTTPS,
    REST_FRAMEWORK={
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
        "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    },
)


def marked(get_response):
    """Says of each answer that it is the platform's."""

    def answer(request):
        response = get_response(request)
        response["X-Answered-By"] = "platform"
        return response

    return answer


import jwt  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.contrib.auth.views import LoginView, LogoutView  # noqa: E402
from django.contrib.sessions.models import Session  # noqa: E402
from django.core.exceptions import ValidationError  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from rest_framework import authentication, exceptions, permissions, views  # noqa: E402
from rest_framework.response import Response  # noqa: E402

User = get_user_model()
state = {"me": "well", "headers": {}}


class SessionAuthentication(authentication.SessionAuthentication):
    def authenticate_header(self, request):
        return "Session"


class Me(views.APIView):
    authentication_classes = [SessionAuthentication]
    permission_classes = [permissions.IsAuthenticated]

    def get(self, request):
        user = request.user
        return Response({"id": str(user.id), "email": user.email, "full_name": user.get_full_name()})


me = Me.as_view()


def faulty_me(request):
    state["headers"] = dict(request.headers)
    match state["me"]:
        case "slow":
            time.sleep(7)
        case "redirect":
            return HttpResponseRedirect("/api/v1.0/authenticate/")
        case "html":
            return HttpResponse("<!doctype html><title>Maintenance</title>")
        case "error":
            return HttpResponse("<!doctype html><title>Error</title>", status=502)
        case "huge":
            return JsonResponse({"id": "x", "rest": "x" * 100_000})
        case "odd":
            return JsonResponse({"id": {"value": 1}})
        case "integer":
            return JsonResponse({"id": 7})
    return me(request)


class Protected(views.APIView):
    """What Django itself says of a request: its body is that of `exchange`."""

    authentication_classes = [SessionAuthentication]
    permission_classes = [permissions.IsAuthenticated]

    def post(self, request):
        if not request.data.get("transit_token"):
            return Response({"detail": "Missing transit_token."}, status=400)
        return Response({"detail": "Invalid or expired transit token."}, status=400)


class TokenAuthentication(authentication.BaseAuthentication):
    def authenticate(self, request):
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            claims = jwt.decode(
                token, GIVEN["token_secret"], algorithms=["HS256"],
                issuer="lasuite-meet", audience="addons",
            )
            user = User.objects.get(id=claims["user_id"])
        except (jwt.InvalidTokenError, User.DoesNotExist) as error:
            raise exceptions.AuthenticationFailed(str(error)) from error
        except ValidationError as error:
            raise exceptions.ValidationError(error.messages) from error
        if not user.is_active:
            raise exceptions.AuthenticationFailed("User account is disabled.")
        return user, claims

    def authenticate_header(self, request):
        return "Bearer"


class Rooms(views.APIView):
    authentication_classes = [TokenAuthentication]
    permission_classes = [permissions.IsAuthenticated]

    def post(self, request):
        if "rooms:create" not in request.auth["scope"].split():
            raise exceptions.PermissionDenied
        return Response({"owner": str(request.user.id)}, status=201)


@csrf_exempt
def control(request):
    if request.method == "POST":
        state.update(json.loads(request.body))
    return JsonResponse(state)


class Login(LoginView):
    redirect_field_name = "returnTo"


urlpatterns = [
    path("api/v1.0/authenticate/", Login.as_view()),
    path("api/v1.0/logout/", LogoutView.as_view()),
    path("api/v1.0/users/me/", faulty_me),
    path("api/v1.0/protected/", Protected.as_view()),
    path("external-api/v1.0/rooms/", Rooms.as_view()),
    path("control/", control),
    path("done/", lambda request: HttpResponse("done")),
]

call_command("migrate", run_syncdb=True, verbosity=0)
for name in ["alice", "ivan"]:
    User.objects.create_user(name, f"{name}@example.com", name, first_name=name.title())


class Commands(threading.Thread):
    """`disable NAME`, `expire` and `id NAME` on standard input; its end is the platform's."""

    def run(self):
        for line in sys.stdin:
            match line.split():
                case ["disable", name]:
                    User.objects.filter(username=name).update(is_active=False)
                case ["expire"]:
                    Session.objects.all().delete()
                case ["id", name]:
                    print(User.objects.get(username=name).id, flush=True)
                    continue
            print("done", flush=True)
        os._exit(0)


server = threaded_wsgi.server(GIVEN["port"], get_wsgi_application())
threading.Thread(target=server.serve_forever, daemon=True).start()
print("serving", flush=True)
Commands().run()
