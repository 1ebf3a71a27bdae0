"""Starts and ends the servers that are measured, and says what they use.

Called by `run`. Everything listens on 127.0.0.1; every process is ended with `Servers`.
"""

import functools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What cargo builds into.
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
# `build` says which profile it is from.
BINARY = TARGET / "release/token-relay"
# The relay at the provider that instances share.
CLIENT_ID = "token-relay-demo"
SECRET = "0e89820860c342f2c7ec694d144023b10301c2accdd078cb5167a06d0c3d5bcc"
COOKIE_KEY = "dfb90aceed845bd34adfd039ffacb7a95c8f6569cd0dd92541d07aa7c26ac9d7"

# Servers live where only root's search path looks.
os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"


class Missing(Exception):
    """A tool is missing; says what to install."""


def need(tool, package):
    if not shutil.which(tool):
        raise Missing(f"{tool} is missing: apt-get install {package}")
    return tool


def nchan_module():
    for folder in ("/usr/lib/nginx/modules", "/usr/share/nginx/modules"):
        for found in pathlib.Path(folder).glob("**/ngx_nchan_module.so"):
            return found
    raise Missing("nchan is missing: apt-get install nginx libnginx-mod-nchan")


def build(profile):
    """Builds the relay with a profile, and the load generator; gives the latter's path."""
    global BINARY
    command = ["cargo", "bench", "--bench", "load", "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = map(json.loads, built.stdout.splitlines())
    loads = [message["executable"] for message in messages if message.get("target", {}).get("name") == "load" and message.get("executable")]
    if not loads:
        raise Missing("cargo built no load generator")
    # After it, since a bench leaves a relay at the same place, with the features of the tests.
    subprocess.run(["cargo", "build", "--profile", profile, "--bin", "token-relay"], cwd=ROOT, check=True)
    BINARY = TARGET / profile / "token-relay"
    return loads[-1]


class Process:
    """A server process."""

    def __init__(self, child, port=None, scheme="http"):
        self.child, self.port, self.scheme = child, port, scheme
        self.id = child.pid

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def family(self):
        """Its process ID and those of its workers."""
        with open(f"/proc/{self.id}/task/{self.id}/children") as children:
            return [str(self.id), *children.read().split()]

    def end(self, how=signal.SIGTERM):
        if self.child.poll() is None:
            self.child.send_signal(how)
        try:
            self.child.wait(40)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def resident(self):
        try:
            text = pathlib.Path(f"/proc/{self.id}/status").read_text()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS:")), 0)

    def processor_seconds(self):
        total = 0
        for task in pathlib.Path(f"/proc/{self.id}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except OSError:
                pass
        return total / 1e9


class Peak:
    """The most memory and processor that a process uses inside a `with`."""

    def __init__(self, process):
        self.process, self.resident, self.cores = process, 0, 0.0

    def __enter__(self):
        self.over = threading.Event()
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.watcher.join()

    def _watch(self):
        then, before = time.monotonic(), self.process.processor_seconds()
        while not self.over.wait(0.25):
            now, after = time.monotonic(), self.process.processor_seconds()
            self.cores = max(self.cores, (after - before) / (now - then))
            self.resident = max(self.resident, self.process.resident())
            then, before = now, after


def answers(port, patience=20):
    """Waits until something listens."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


@functools.cache
def signing_key():
    """A private key for ES256, the default, that instances share."""
    command = [need("openssl", "openssl"), "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def published(url):
    """Whether nchan takes a publication."""
    try:
        with urllib.request.urlopen(f"{url}/pub/probe", b"x", timeout=2) as answer:
            return answer.status < 300
    except OSError:
        return False


def temporary(folder):
    """Where nginx puts what it would put into folders of the system."""
    return (f"client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; "
            f"uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;")


def replaced(text, changes):
    """`text` with each change made, which must find something to change."""
    for old, new in changes:
        if old not in text:
            raise RuntimeError(f"the sample has no {old!r}")
        text = text.replace(old, new)
    return text


class Busy:
    """A program that keeps one core busy while it is entered."""

    def __enter__(self):
        program = "import os\nos.sched_setaffinity(0, {0})\nwhile True: pass"
        self.child = subprocess.Popen([sys.executable, "-c", program])
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait()


class Apart:
    """Servers run on one half of the cores and clients on the other while it is entered: as over a network,
    a server never runs on the core of its client."""

    entered = False

    def __enter__(self):
        if len(os.sched_getaffinity(0)) < 2:
            raise Missing("a second core is missing: servers and clients cannot be kept apart")
        Apart.entered = True

    def __exit__(self, *_):
        Apart.entered = False

    @classmethod
    def place(cls, half):
        """What a new process does first: it takes its half of the cores."""
        if not cls.entered:
            return None
        cores = sorted(os.sched_getaffinity(0))
        middle = len(cores) // 2
        taken = cores[:middle] if half == "servers" else cores[middle:]
        return lambda: os.sched_setaffinity(0, taken)


class Servers:
    """All servers of a run; a context manager that ends them."""

    def __init__(self, load):
        self.load = load
        self.processes = []
        self.port = 23000

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def next_port(self):
        """A port of its own for each server, below those that clients are given."""
        self.port += 1
        return self.port

    @functools.cached_property
    def certificate(self):
        """Files with a certificate for 127.0.0.1 and its key, which the load generator trusts."""
        files = self.folder / "tls.crt", self.folder / "tls.key"
        command = [need("openssl", "openssl"), *"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench".split(),
                   "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return files

    def start(self, command, port, environment=None, log=None):
        target = open(log, "ab") if log else subprocess.DEVNULL
        child = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **(environment or {})},
            stdout=target,
            stderr=subprocess.STDOUT if log else subprocess.DEVNULL,
            preexec_fn=Apart.place("servers"),
        )
        process = Process(child, port)
        self.processes.append(process)
        try:
            answers(port)
        except RuntimeError:
            print(log.read_text() if log else "no log")
            raise
        return process

    def shared(self, redis):
        """What instances over one Redis have in common."""
        return {
            "TOKEN_RELAY_REDIS_URL": f"redis://127.0.0.1:{redis.port}",
            "TOKEN_RELAY_COOKIE_KEYS": COOKIE_KEY,
            "TOKEN_RELAY_SEALING_KEYS": SECRET,
            "TOKEN_RELAY_SIGNING_KEY": signing_key(),
        }

    def relay(self, environment=None, redis=None, in_load=False, port=None, tls=False):
        """`token-relay demo`, which logs in by itself; or the same inside the load generator."""
        port = port or self.next_port()
        provider = self.next_port()
        addresses = ["--listen", f"127.0.0.1:{port}", "--provider-listen", f"127.0.0.1:{provider}"]
        settings = {
            "TOKEN_RELAY_DEMO_AUTO_LOGIN": "1",
            # The load generator is a browser that goes straight to the provider, as it is after a proof.
            "TOKEN_RELAY_CONFIRMATION": "never",
            "TOKEN_RELAY_LOG": "warn",
            "TOKEN_RELAY_SESSION_TTL": "2h",
            "TOKEN_RELAY_TRANSIT_TOKEN_TTL": "1h",
            **(self.shared(redis) if redis else {}),
            **({"TOKEN_RELAY_PUBLIC_URL": f"https://127.0.0.1:{port}", **self.relay_tls()} if tls else {}),
            **(environment or {}),
        }
        log = self.folder / f"relay-{port}.log"
        if in_load:
            orders = self.next_port()
            process = self.start([self.load, "serve", *addresses, "--orders", f"127.0.0.1:{orders}"], port, settings, log)
            answers(orders)
            process.orders = orders
            return process
        server = self.start([BINARY, "demo", "--no-open", "--allow-production", *addresses], port, settings, log)
        server.scheme = "https" if tls else "http"
        return server

    def relay_tls(self):
        """Settings of a relay that speaks TLS."""
        certificate, key = self.certificate
        return {"TOKEN_RELAY_TLS_CERTIFICATE": str(certificate), "TOKEN_RELAY_TLS_KEY": str(key)}

    def provider(self, *origins):
        """The OpenID provider that relays with these origins share; it logs in by itself."""
        port = self.next_port()
        redirect_uris = ",".join(f"{origin}{path}" for origin in origins for path in ("/callback", "/api/v1.0/callback/"))
        return self.start([self.load, "provider", "--listen", f"127.0.0.1:{port}", "--secret", SECRET, "--redirect-uris", redirect_uris], port)

    def serve(self, provider, origin, port, environment=None, redis=None, tls=False):
        """`token-relay serve` at `port`, which browsers reach at `origin`."""
        settings = {
            "TOKEN_RELAY_LISTEN": f"127.0.0.1:{port}",
            "TOKEN_RELAY_PUBLIC_URL": origin,
            "TOKEN_RELAY_OIDC_ISSUER": provider.url,
            "TOKEN_RELAY_OIDC_CLIENT_ID": CLIENT_ID,
            "TOKEN_RELAY_OIDC_CLIENT_SECRET": SECRET,
            # The load generator is a browser that goes straight to the provider, as it is after a proof.
            "TOKEN_RELAY_CONFIRMATION": "never",
            "TOKEN_RELAY_SESSIONS_PER_MINUTE": "100000000",
            "TOKEN_RELAY_LOG": "warn",
            "TOKEN_RELAY_SESSION_TTL": "2h",
            "TOKEN_RELAY_TRANSIT_TOKEN_TTL": "1h",
            **(self.shared(redis) if redis else {}),
            **(self.relay_tls() if tls else {}),
            **(environment or {}),
        }
        server = self.start([BINARY, "serve"], port, settings, self.folder / f"relay-{port}.log")
        server.scheme = "https" if tls else "http"
        return server

    def proxy(self, port, relays, changes=()):
        """nginx as `deploy/nginx.conf` has it, at `port` in front of `relays`, with further changes: pairs of a text and what stands in its place."""
        folder = self.folder / f"proxy-{port}"
        folder.mkdir()
        certificate, key = self.certificate
        text = (ROOT / "deploy/nginx.conf").read_text()
        # Two workers, as on two cores; a process here may open 20 000 files.
        text = replaced(text, [
            ("worker_processes auto;", f"worker_processes 2; daemon off; pid {folder}/pid;"),
            ("worker_rlimit_nofile 40000;", "worker_rlimit_nofile 20000;"),
            ("worker_connections 20000;", "worker_connections 19900;"),
            ("error_log stderr crit;", f"error_log {folder}/error.log crit;"),
            ("access_log /dev/stdout without_secrets;", f"access_log {folder}/access.log without_secrets; {temporary(folder)}"),
            ("server 127.0.0.1:8080;", " ".join(f"server 127.0.0.1:{relay.port};" for relay in relays)),
            ("        listen 80;\n        listen [::]:80;\n", f"        listen 127.0.0.1:{self.next_port()};\n"),
            ("        listen 443 ssl http2;\n        listen [::]:443 ssl http2;\n", f"        listen 127.0.0.1:{port} ssl http2 backlog=4096;\n"),
            ("server_name relay.example;", "server_name 127.0.0.1;"),
            ("/etc/nginx/tls/relay.crt", str(certificate)),
            ("/etc/nginx/tls/relay.key", str(key)),
            *changes,
        ])
        configuration = folder / "nginx.conf"
        configuration.write_text(text)
        process = self.start([need("nginx", "nginx"), "-c", configuration, "-e", folder / "error.log"], port)
        process.scheme = "https" if " ssl " in text else "http"
        # The master listens before its workers are there.
        deadline = time.monotonic() + 20
        while len(process.family) < 3:
            if time.monotonic() > deadline:
                raise RuntimeError("nginx has not started its workers")
            time.sleep(0.02)
        return process

    def neighbour(self):
        """The service that the relay asks about an account."""
        port = self.next_port()
        return self.start([self.load, "neighbour", "--listen", f"127.0.0.1:{port}"], port)

    def redis(self, most_clients=10000):
        port = self.next_port()
        command = [need("redis-server", "redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return self.start([*command, "--dir", self.folder, "--maxclients", most_clients], port)

    def nchan(self, redis=None, tls=False):
        """nginx with nchan: one worker, one channel a subscriber; with `tls`, HTTP/2 as well."""
        port = self.next_port()
        secure = self.next_port() if tls else None
        folder = self.folder / f"nginx-{port}"
        folder.mkdir()
        upstream = f"upstream store {{ nchan_redis_server redis://127.0.0.1:{redis.port}; }}" if redis else ""
        use = "nchan_redis_pass store;" if redis else ""
        listen = ""
        if tls:
            certificate, key = self.certificate
            listen = f"listen 127.0.0.1:{secure} ssl http2 backlog=4096; ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;"
        configuration = folder / "nginx.conf"
        configuration.write_text(f"""
            load_module {nchan_module()};
            daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log warn;
            worker_rlimit_nofile 20000;
            events {{ worker_connections 19900; }}
            http {{
              access_log off; {temporary(folder)}
              nchan_shared_memory_size 512M;
              {upstream}
              server {{
                listen 127.0.0.1:{port} backlog=4096; {listen} keepalive_requests 1000000;
                location ~ /pub/(.+)$ {{ nchan_publisher; nchan_channel_id $1; {use} }}
                location ~ /sub/(.+)$ {{
                  nchan_subscriber eventsource websocket; nchan_channel_id $1; {use}
                  nchan_eventsource_ping_interval 15; nchan_websocket_ping_interval 15;
                }}
              }}
            }}""")
        process = self.start([need("nginx", "nginx"), "-c", configuration, "-e", folder / "error.log"], port)
        # It listens before it has found its Redis, and refuses everything until then.
        deadline = time.monotonic() + 20
        while not published(process.url):
            if time.monotonic() > deadline:
                raise RuntimeError("nchan does not take a publication")
            time.sleep(0.1)
        if tls:
            process.port, process.scheme = secure, "https"
        return process

    def run_load(self, *words):
        """Runs the load generator; gives its JSON."""
        # Only when something has it.
        trusted = ["--certificate", self.certificate[0]] if "certificate" in self.__dict__ else []
        command = [self.load, *[str(word) for word in [*words, *trusted]]]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, preexec_fn=Apart.place("clients"))
        if ended.returncode != 0:
            raise RuntimeError(f"the load generator failed: {' '.join(map(str, words))}")
        return json.loads(ended.stdout.strip().splitlines()[-1])
