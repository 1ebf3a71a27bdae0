"""Signs a program in through token-relay, without blocking its thread.

One module on the standard library, Python 3.9 or later: `sign_in` begins a sign-in and returns at
once, `resume` continues one that an earlier run began. What waits for the network runs on a daemon
thread; callbacks run on the host's thread. Where the package `cryptography` is there, tokens are
encrypted for a key of the sign-in, and any other token is refused; with `dpop=True` they are bound to a
key as well (RFC 9449), and `Token.prove` makes the headers of the requests that use them.
"""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import json
import os
import queue
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Iterator, Optional, Protocol, Union

try:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:
    _HAS_CRYPTOGRAPHY = False
else:
    _HAS_CRYPTOGRAPHY = True

__all__ = ["Prompt", "Proof", "SignIn", "SignInError", "Token", "resume", "sign_in"]
__version__ = "0.2.0"

CallSoon = Callable[[Callable[[], None]], Any]
StorePath = Union[str, "os.PathLike[str]"]

_REQUEST_TIMEOUT = 15.0  # s
_STREAM_TIMEOUT = 50.0  # s without a byte; there is a heartbeat every 15 s
_FIRST_BYTE_TIMEOUT = 10.0  # s; a stream begins at once, unless a proxy holds it back
_POLL_WAIT = 25  # s
_END_TIMEOUT = 5.0  # s
_PAUSES = (0.5, 1.0, 2.0, 4.0)  # s between attempts while the relay cannot be reached
_MAX_EVENT = 256 * 1024  # bytes
_MAX_ANSWER = 1024 * 1024  # bytes
_MAX_LIFETIME = 86_400.0  # s

# The same class from Python 3.10 on.
_TIMEOUTS = (TimeoutError, socket.timeout)

_SECRET = re.compile(r"[\w-]{1,512}", re.ASCII)
_USER_CODE = re.compile(r"[A-Z]{4}-[A-Z]{4}")
_TOKEN = re.compile(r"[\w.~+/=-]{1,65536}", re.ASCII)
_URL = re.compile(r"[!-~]{1,2048}")
_PORTS = {"http": 80, "https": 443}
_NONCE = re.compile(r"[!#-\[\]-~]{1,2048}")


class SignInError(Exception):
    """The sign-in ended without a token.

    `error` is the relay's code (`access_denied`, `server_error`, …) or one of `expired`, `cancelled`,
    `superseded`, `unavailable` (the relay cannot be reached), `not_encrypted` (the token is not
    encrypted for this program), `not_bound` (it is not bound to the program's key, as `dpop` asked) and
    `invalid_response` (what answers is no relay). `description` is for people and holds no control
    characters.
    """

    def __init__(self, error: str, description: str) -> None:
        self.error = _printable(error)
        self.description = _printable(description)
        super().__init__(f"{self.error}: {self.description}")


@dataclass(frozen=True)
class Prompt:
    """What the person needs: the address to open, and the code to type there if it asks for one."""

    url: str
    user_code: Optional[str]


@dataclass(frozen=True)
class Token:
    """An access token (RFC 6749 §5.1)."""

    access_token: str = field(repr=False)
    token_type: str
    scope: str
    expires_at: float
    """Unix time in seconds."""
    refresh_token: Optional[str] = field(default=None, repr=False)
    _session: Optional["_Session"] = field(default=None, repr=False, compare=False)

    def refresh(self) -> "concurrent.futures.Future[Token]":
        """The future of the next token, whose refresh token replaces this one's. Use each once."""
        session, refresh_token = self._session, self.refresh_token
        if session is None or refresh_token is None:
            raise ValueError("the relay issued no refresh token")
        future: "concurrent.futures.Future[Token]" = concurrent.futures.Future()
        _start(lambda: _complete(future, lambda: session.refreshed(refresh_token)))
        return future

    def prove(self, method: str, url: str) -> "Proof":
        """What a request with this token needs where the sign-in asked for `dpop` (RFC 9449)."""
        key = None if self._session is None else self._session.proof_key
        if key is None or self.token_type.lower() != "dpop":
            raise ValueError("the token is bound to no key: it is used as a bearer token")
        return Proof(key, method, url, self.access_token)


class _Fields(Protocol):
    """Header fields, as any HTTP library gives them."""

    def items(self) -> Iterable[tuple[str, Any]]: ...


class Proof:
    """The headers of one request with a token that is bound to a key.

    A server that wants a nonce in proofs names it in its first answer (RFC 9449 §8, §9): where `renewed`
    says so, the request is sent once more with new headers.
    """

    def __init__(self, key: "_Key", method: str, url: str, access_token: Optional[str]) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
            raise ValueError("proofs are for http and https")
        scheme = parts.scheme.lower()
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        port = "" if parts.port in (None, _PORTS[scheme]) else f":{parts.port}"
        self._key, self._method, self._access_token = key, method, access_token
        self._origin = f"{scheme}://{host}{port}"
        self._url = self._origin + (parts.path or "/")
        self._nonce: Optional[str] = None
        self._is_renewed = False

    def headers(self) -> dict[str, str]:
        """`Authorization` and `DPoP`. A server accepts them once: each attempt takes new ones."""
        self._nonce = self._key.nonces.get(self._origin)
        claims: dict[str, Any] = {
            "jti": _encoded(os.urandom(16)),
            "htm": self._method,
            "htu": self._url,
            "iat": int(time.time()),
        }
        if self._nonce is not None:
            claims["nonce"] = self._nonce
        headers = {}
        if self._access_token is not None:
            claims["ath"] = _encoded(hashlib.sha256(self._access_token.encode()).digest())
            headers["Authorization"] = f"DPoP {self._access_token}"
        headers["DPoP"] = self._key.signed(claims)
        return headers

    def renewed(self, status: int, headers: "_Fields") -> bool:
        """Takes the nonce of an answer for the next proofs. True where the request is to be sent again:
        once at most, however often a server names another nonce."""
        named = (value for name, value in headers.items() if name.lower() == "dpop-nonce")
        nonce = next(named, None)
        if nonce is None or not _NONCE.fullmatch(str(nonce)):
            return False
        self._key.nonces[self._origin] = nonce = str(nonce)
        again = status in (400, 401) and not self._is_renewed and nonce != self._nonce
        self._is_renewed = self._is_renewed or again
        return again


class SignIn:
    """A sign-in that waits. `future` has its `Token`, or `SignInError`."""

    def __init__(
        self,
        relay: "_Relay",
        *,
        on_prompt: Optional[Callable[[Prompt], Any]],
        on_done: Optional[Callable[["SignIn"], Any]],
        call_soon: Optional[CallSoon],
        store: Optional[StorePath],
        open_browser: bool,
    ) -> None:
        self.future: "concurrent.futures.Future[Token]" = concurrent.futures.Future()
        self.prompt: Optional[Prompt] = None
        self._relay = relay
        self._on_prompt, self._on_done = on_prompt, on_done
        self._call_soon, self._store, self._open_browser = call_soon, store, open_browser
        self._calls: "queue.SimpleQueue[Callable[[], None]]" = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._session: Optional[_Session] = None
        if on_done is not None:
            done = on_done
            self.future.add_done_callback(lambda _: self._host(lambda: done(self)))

    def done(self) -> bool:
        """Whether it has ended."""
        return self.future.done()

    def result(self, timeout: Optional[float] = None) -> Token:
        """The token. Waits, at most `timeout` seconds: for scripts, and for `on_done`."""
        return self.future.result(timeout)

    def poll(self) -> bool:
        """Runs the callbacks that are due, on this thread, and says whether the sign-in has ended."""
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return self.done() and self._calls.empty()
            call()

    def cancel(self) -> None:
        """Ends the sign-in, at the relay too. Returns at once."""
        self._cancelled.set()
        session = self._session
        if session is not None and not self.done():
            # Also where the program ends right after.
            _start(session.end, daemon=False)

    def _host(self, call: Callable[[], None]) -> None:
        if self._call_soon is None:
            self._calls.put(call)
        else:
            self._call_soon(call)

    def _run(self, begin: Callable[[], "_Session"]) -> None:
        def wait() -> Token:
            session = self._session = begin()
            prompt = self.prompt = Prompt(session.transit_url, session.user_code)
            if self._store is not None:
                session.write(self._store)
            if self._on_prompt is not None:
                on_prompt = self._on_prompt
                self._host(lambda: _ignore(on_prompt(prompt)))
            if self._open_browser:
                webbrowser.open(prompt.url)
            try:
                token = session.wait(self._cancelled)
            except SignInError:
                self._forget()
                raise
            # Also where the program ends as soon as it has the token.
            _start(lambda: self._finish(session), daemon=False)
            return token

        _complete(self.future, wait)

    def _finish(self, session: "_Session") -> None:
        """Once the program has the token, the relay need not keep it."""
        concurrent.futures.wait([self.future])
        session.end()
        self._forget()

    def _forget(self) -> None:
        if self._store is not None:
            try:
                os.unlink(self._store)
            except OSError:
                pass


def sign_in(
    relay: str,
    *,
    client_id: Optional[str] = None,
    client_name: Optional[str] = None,
    scope: Optional[str] = None,
    on_prompt: Optional[Callable[[Prompt], Any]] = None,
    on_done: Optional[Callable[[SignIn], Any]] = None,
    call_soon: Optional[CallSoon] = None,
    store: Optional[StorePath] = None,
    open_browser: bool = True,
    ssl_context: Optional[ssl.SSLContext] = None,
    dpop: bool = False,
) -> SignIn:
    """Begins a sign-in at the relay with this URL, and returns at once.

    `client_id` names the registered client; `client_name` is what the program calls itself.
    `on_prompt` gets what to show to the person, `on_done` the ended sign-in. Both are called by
    `call_soon`, which hands a function to the host's thread, or else by `SignIn.poll`. `store` is a
    file for `resume`. With `dpop` the tokens are bound to a key of the sign-in (RFC 9449), are used with
    `Token.prove`, and one that anybody could use is refused. Raises `ValueError` for a URL that is no
    relay's, and for `dpop` without the package `cryptography`.
    """
    if dpop and not _HAS_CRYPTOGRAPHY:
        raise ValueError("dpop needs the package cryptography: pip install token-relay[encryption]")
    there = _Relay(relay, ssl_context)
    body: dict[str, Any] = {
        "bind": True,
        "client_id": client_id,
        "client_name": client_name,
        "scope": scope,
    }
    key = _Key.generate() if _HAS_CRYPTOGRAPHY else None
    if key is not None:
        body["encryption_key"] = key.public()
    proof_key = _Key.generate() if dpop else None
    if proof_key is not None:
        body["dpop_jkt"] = proof_key.thumbprint()
    body = {name: value for name, value in body.items() if value is not None}
    pending = SignIn(
        there,
        on_prompt=on_prompt,
        on_done=on_done,
        call_soon=call_soon,
        store=store,
        open_browser=open_browser,
    )
    _start(lambda: pending._run(lambda: there.create(body, key, proof_key)))
    return pending


def resume(
    store: StorePath,
    *,
    on_done: Optional[Callable[[SignIn], Any]] = None,
    call_soon: Optional[CallSoon] = None,
    ssl_context: Optional[ssl.SSLContext] = None,
) -> Optional[SignIn]:
    """Continues the sign-in that an earlier run left in `store`; `None` where nothing waits there."""
    try:
        with open(store, encoding="utf-8") as file:
            state = json.load(file)
        relay = _Relay(state["relay"], ssl_context)
        saved = [state.get(name) for name in ("decryption_key", "proof_key")]
        if any(saved) and not _HAS_CRYPTOGRAPHY:
            return None
        key, proof_key = (None if text is None else _Key.saved(text) for text in saved)
        session = _Session(relay, state, float(state["expires_at"]) - time.time(), key, proof_key)
    except (OSError, ValueError, KeyError, TypeError, SignInError):
        return None
    pending = SignIn(
        relay, on_prompt=None, on_done=on_done, call_soon=call_soon, store=store, open_browser=False
    )
    if session.is_over():
        pending._forget()
        return None
    _start(lambda: pending._run(lambda: session))
    return pending


class _Relay:
    """Requests to one relay: no redirects, nothing in clear except to this machine itself."""

    def __init__(self, url: str, ssl_context: Optional[ssl.SSLContext]) -> None:
        parts = urllib.parse.urlsplit(url)
        loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("the relay's URL is an https URL")
        if parts.scheme == "http" and not loopback:
            raise ValueError("the relay's URL is https, unless it is on this machine")
        self.url = url.rstrip("/")
        self.origin = (parts.scheme, parts.netloc.lower())
        self._opener = urllib.request.build_opener(
            _NoRedirects(), urllib.request.HTTPSHandler(context=ssl_context)
        )

    def own(self, url: object, name: str) -> str:
        """A URL of the relay itself."""
        text = _match(_URL, url, name)
        parts = urllib.parse.urlsplit(text)
        if (parts.scheme, parts.netloc.lower()) != self.origin:
            raise SignInError("invalid_response", f"{name} is not at {self.url}")
        return text

    def open(
        self,
        url: str,
        *,
        method: str = "GET",
        data: Optional[bytes] = None,
        headers: Optional[dict[str, str]] = None,
        timeout: float = _REQUEST_TIMEOUT,
    ) -> Any:
        request = urllib.request.Request(url, data, headers or {}, method=method)
        return self._opener.open(request, timeout=timeout)

    def create(
        self, body: dict[str, Any], key: Optional["_Key"], proof_key: Optional["_Key"]
    ) -> "_Session":
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        try:
            url = f"{self.url}/addons/sessions"
            with self.open(url, method="POST", data=data, headers=headers) as answer:
                created = _object(answer)
        except urllib.error.HTTPError as error:
            raise _refused(error) from None
        except (OSError, ValueError) as error:
            raise SignInError("unavailable", f"the relay cannot be reached: {error}") from None
        return _Session(self, created, created.get("expires_in", 0), key, proof_key)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Credentials go to the relay alone."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _Session:
    """A bound session at the relay."""

    def __init__(
        self,
        relay: _Relay,
        members: dict[str, Any],
        remaining: object,
        key: Optional["_Key"],
        proof_key: Optional["_Key"],
    ) -> None:
        self.relay = relay
        self._key = key
        self.proof_key = proof_key
        self.session_id = _match(_SECRET, members.get("session_id"), "session_id")
        self.session_token = _match(_SECRET, members.get("session_token"), "session_token")
        self.transit_url = relay.own(members.get("transit_url"), "transit_url")
        self.events_url = relay.own(members.get("events_url"), "events_url")
        self.poll_url = relay.own(members.get("poll_url"), "poll_url")
        code = members.get("user_code")
        self.user_code = None if code is None else _match(_USER_CODE, code, "user_code")
        seconds = float(remaining) if isinstance(remaining, (int, float)) else 0.0
        self._lifetime = min(max(seconds, 0.0), _MAX_LIFETIME)
        self._ends = time.monotonic() + self._lifetime

    def is_over(self) -> bool:
        return time.monotonic() >= self._ends

    def write(self, path: StorePath) -> None:
        """Writes what `resume` reads, for the owner's eyes only."""
        state = {
            "relay": self.relay.url,
            "session_id": self.session_id,
            "session_token": self.session_token,
            "transit_url": self.transit_url,
            "events_url": self.events_url,
            "poll_url": self.poll_url,
            "user_code": self.user_code,
            "expires_at": time.time() + self._ends - time.monotonic(),
        }
        if self._key is not None:
            state["decryption_key"] = self._key.text()
        if self.proof_key is not None:
            state["proof_key"] = self.proof_key.text()
        try:
            new = f"{os.fspath(path)}.new"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with open(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
                json.dump(state, file)
            os.replace(new, path)
        except OSError:
            pass  # it cannot be resumed, and continues all the same

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.session_token}"}

    def wait(self, cancelled: threading.Event) -> Token:
        """The token. Streams; polls while a stream is held back or refused."""
        streams, failures = True, 0
        while not self.is_over():
            if cancelled.is_set():
                break
            try:
                found = self._stream() if streams else self._poll()
                if found is not None:
                    return found
                failures = 0
            except _HeldBack:
                streams = False
                continue
            except urllib.error.HTTPError as error:
                if error.code in (404, 410):
                    raise _refused(error) from None
                if error.code < 500 and error.code != 429:
                    raise _refused(error) from None
                failures += 1
            except (OSError, ValueError):
                failures += 1
            # After several failures the other way is tried, and so on in turn.
            if failures and failures % 3 == 0:
                streams = not streams
            pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
            cancelled.wait(min(pause, max(self._ends - time.monotonic(), 0.0)))
        if cancelled.is_set():
            self.end()
            raise SignInError("cancelled", "The sign-in was cancelled.")
        raise SignInError("expired", "The time to sign in is over.")

    def _stream(self) -> Optional[Token]:
        """One connection to the event stream; `None` when it ended without an event."""
        try:
            answer = self.relay.open(
                self.events_url, headers=self._headers(), timeout=_FIRST_BYTE_TIMEOUT
            )
        except _TIMEOUTS:
            # Connected, and then nothing: a relay that cannot be reached is a `URLError`.
            raise _HeldBack() from None
        with answer:
            if answer.status == 204:
                raise SignInError("expired", "The token was delivered before.")
            first = True
            for event, data in _events(answer):
                if first:
                    first = False
                    _set_timeout(answer, _STREAM_TIMEOUT)
                if event == "authenticated":
                    return self._token(data)
                if event == "failed":
                    raise _failure(data)
                if event == "expired":
                    raise SignInError("expired", "The time to sign in is over.")
            if first:
                raise _HeldBack()
        return None

    def _poll(self) -> Optional[Token]:
        """One long poll; `None` while the person has not decided."""
        url = f"{self.poll_url}?wait={_POLL_WAIT}"
        with self.relay.open(
            url, headers=self._headers(), timeout=_POLL_WAIT + _REQUEST_TIMEOUT
        ) as answer:
            data = _object(answer)
        state = data.get("state")
        if state == "authenticated":
            return self._token(data)
        if state == "failed":
            raise _failure(data)
        return None

    def _token(self, data: dict[str, Any]) -> Token:
        if self._key is not None:
            try:
                data = self._key.opened(self.session_id, data)
            except Exception:  # of many kinds, and all mean the same
                self.end()
                raise SignInError(
                    "not_encrypted",
                    "The token is not encrypted for this program: something between it and the "
                    "relay may have changed the sign-in.",
                ) from None
        if self.proof_key is not None and str(data.get("token_type")).lower() != "dpop":
            self.end()
            raise SignInError(
                "not_bound",
                "The token is not bound to the key of this program: something between it and the "
                "relay may have changed the sign-in.",
            )
        refresh_token = data.get("refresh_token")
        expires_in = data.get("expires_in")
        return Token(
            access_token=_match(_TOKEN, data.get("access_token"), "access_token"),
            token_type=_printable(data.get("token_type", "Bearer")),
            scope=_printable(data.get("scope", "")),
            expires_at=time.time() + (expires_in if isinstance(expires_in, (int, float)) else 0),
            refresh_token=(
                None if refresh_token is None else _match(_TOKEN, refresh_token, "refresh_token")
            ),
            _session=self,
        )

    def refreshed(self, refresh_token: str) -> Token:
        """The next token (RFC 6749 §6); the session is the client."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        pair = f"{self.session_id}:{self.session_token}".encode()
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Authorization": f"Basic {base64.b64encode(pair).decode()}",
        }
        data = urllib.parse.urlencode(form).encode()
        url = f"{self.relay.url}/addons/token"
        proof = None if self.proof_key is None else Proof(self.proof_key, "POST", url, None)

        def send() -> Token:
            fields = headers if proof is None else {**headers, **proof.headers()}
            with self.relay.open(url, method="POST", data=data, headers=fields) as answer:
                if proof is not None:
                    proof.renewed(answer.status, answer.headers)
                return self._token(_object(answer))

        try:
            try:
                return send()
            except urllib.error.HTTPError as error:
                if proof is None or not proof.renewed(error.code, error.headers):
                    raise
                error.close()
                return send()
        except urllib.error.HTTPError as error:
            raise _refused(error) from None
        except (OSError, ValueError) as error:
            raise SignInError("unavailable", f"the relay cannot be reached: {error}") from None

    def end(self) -> None:
        """Acknowledges the token, or cancels the sign-in."""
        try:
            self.relay.open(
                self.poll_url, method="DELETE", headers=self._headers(), timeout=_END_TIMEOUT
            ).close()
        except (OSError, ValueError):
            pass  # it ends by itself


class _Key:
    """A key of one sign-in: the relay encrypts for it (RFC 7518 §4.6: `ECDH-ES`, `A256GCM`), or binds
    tokens to it (RFC 9449)."""

    def __init__(self, private: "ec.EllipticCurvePrivateKey") -> None:
        self._private = private
        self.nonces: dict[str, str] = {}
        """For proofs: the newest of each origin."""

    @classmethod
    def generate(cls) -> "_Key":
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def saved(cls, text: str) -> "_Key":
        return cls(ec.derive_private_key(int.from_bytes(_decoded(text), "big"), ec.SECP256R1()))

    def text(self) -> str:
        """`d` of its JWK."""
        return _encoded(self._private.private_numbers().private_value.to_bytes(32, "big"))

    def public(self) -> dict[str, str]:
        numbers = self._private.public_key().public_numbers()
        x, y = (_encoded(each.to_bytes(32, "big")) for each in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "x": x, "y": y}

    def thumbprint(self) -> str:
        """The SHA-256 thumbprint of its public key (RFC 7638)."""
        members = json.dumps(self.public(), sort_keys=True, separators=(",", ":"))
        return _encoded(hashlib.sha256(members.encode()).digest())

    def signed(self, claims: dict[str, Any]) -> str:
        """A proof (RFC 9449 §4.2)."""
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.public()}
        message = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        # RFC 7518 §3.4: both numbers, each in 32 bytes.
        signature = self._private.sign(message.encode(), ec.ECDSA(hashes.SHA256()))
        numbers = (each.to_bytes(32, "big") for each in decode_dss_signature(signature))
        return f"{message}.{_encoded(b''.join(numbers))}"

    def opened(self, session_id: str, answer: dict[str, Any]) -> dict[str, Any]:
        """What is in a token answer. Raises where it is not encrypted for this key and session."""
        head, wrapped, nonce, text, tag = answer["encrypted"].split(".")
        header = json.loads(_decoded(head))
        session = hashlib.sha256(session_id.encode()).digest()
        expected = {"alg": "ECDH-ES", "enc": "A256GCM", "apv": _encoded(session)}
        found = {name: header.get(name) for name in expected}
        if found != expected or wrapped or "zip" in header or "crit" in header:
            raise ValueError("another kind of encryption")
        x, y = (int.from_bytes(_decoded(header["epk"][each]), "big") for each in "xy")
        theirs = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        secret = self._private.exchange(ec.ECDH(), theirs)
        # Concat KDF: round 1, the secret, algorithm, `apu` and `apv` with their lengths, the key's bits.
        round_1 = b"".join(
            (
                (1).to_bytes(4, "big") + secret,
                (7).to_bytes(4, "big") + b"A256GCM",
                (0).to_bytes(4, "big"),
                (32).to_bytes(4, "big") + session,
                (256).to_bytes(4, "big"),
            )
        )
        key = AESGCM(hashlib.sha256(round_1).digest())
        content = key.decrypt(_decoded(nonce), _decoded(text) + _decoded(tag), head.encode())
        opened = json.loads(content)
        if not isinstance(opened, dict):
            raise ValueError("no object")
        return opened


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class _HeldBack(Exception):
    """A stream of which nothing arrives: something on the way holds it back."""


def _events(stream: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events of a stream (WHATWG HTML §9.2.6), as far as a relay uses them; the first field comes as
    an event without a name."""
    event, data = "", ""
    while True:
        try:
            line = stream.readline(_MAX_EVENT)
        except _TIMEOUTS:
            return
        if not line:
            return
        name, _, value = line.decode(errors="replace").rstrip("\r\n").partition(":")
        if name == "event":
            event = value.strip()
        elif name == "data":
            data += value
        elif name == "retry":
            yield "", {}
        elif not name and not value and data:
            found = json.loads(data)
            if not isinstance(found, dict):
                raise SignInError("invalid_response", "the relay sends an event that is no object")
            yield event, found
            event, data = "", ""


def _set_timeout(answer: Any, seconds: float) -> None:
    """Of the connection of an answer, where it can be reached."""
    raw = getattr(getattr(answer, "fp", None), "raw", None)
    connection = getattr(raw, "_sock", None)
    if connection is not None:
        connection.settimeout(seconds)


def _object(answer: Any) -> dict[str, Any]:
    found = json.loads(answer.read(_MAX_ANSWER) or b"{}")
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _refused(error: urllib.error.HTTPError) -> SignInError:
    """What the relay's answer says: OAuth's members, or problem details (RFC 9457)."""
    with error:
        try:
            body = _object(error)
        except (OSError, ValueError):
            body = {}
    if error.code in (404, 410) and not body.get("error"):
        return SignInError("expired", body.get("detail") or "The session is over.")
    code = body.get("error") or str(body.get("type", "")).rsplit(":", 1)[-1] or "invalid_response"
    detail = body.get("error_description") or body.get("detail") or body.get("title")
    return SignInError(str(code), str(detail or f"the relay answers {error.code}"))


def _failure(data: dict[str, Any]) -> SignInError:
    return SignInError(
        str(data.get("error", "server_error")), str(data.get("error_description", ""))
    )


def _match(pattern: "re.Pattern[str]", value: object, name: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise SignInError("invalid_response", f"the relay sends no valid {name}")
    return value


def _printable(text: object) -> str:
    """What a relay sends must not move the cursor of a terminal."""
    return "".join(each for each in str(text) if each.isprintable())[:300]


def _ignore(_: object) -> None:
    pass


def _start(target: Callable[[], None], *, daemon: bool = True) -> None:
    # A daemon does not keep a program from ending.
    threading.Thread(target=target, name="token-relay", daemon=daemon).start()


def _complete(
    future: "concurrent.futures.Future[Token]", compute: Callable[[], Token]
) -> None:
    try:
        token = compute()
    except SignInError as error:
        future.set_exception(error)
    except Exception as error:  # a defect must not leave the program waiting
        future.set_exception(SignInError("invalid_response", repr(error)))
    else:
        future.set_result(token)
