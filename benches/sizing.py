"""Which form of deployment to choose, and what it needs, from what was measured.

Called by `report`, for docs/deployment.md. Arithmetic on the parts `path`, `growth` and `model`.
"""

import math

import model

# Waiting clients for which a size is given.
SIZES = [1_000, 100_000, 1_000_000]
# Connections of a login: the add-in's and the dialog's.
CONNECTIONS = 2

# What was measured: with nginx or without, over TLS or not, streams on an HTTP/2 connection (0 is HTTP/1.1).
FORMS = [
    (("nginx", True, 1), "nginx in front, HTTP/2", "nginx is there already, several services share one host name, or its limits and logs are wanted. Costs the most memory and a hop"),
    (("nginx", True, 0), "nginx in front, HTTP/1.1", "As above, and every browser holds few streams: without HTTP/2 a browser opens at most six connections to one host"),
    (("relay", True, 1), "TLS in the relay, HTTP/2", "The relay has a host name of its own and browsers come to it directly: the default of `TLS_CERTIFICATE`"),
    (("relay", True, 0), "TLS in the relay, HTTP/1.1", "Likewise, with clients that are no browsers, or one stream each; what each client chooses by ALPN"),
    (("relay", True, 90), "TLS in the relay, a gateway with 90 streams on each HTTP/2 connection", "A load balancer or a content delivery network that shares its connections among people"),
    (("relay", False, 0), "Clear HTTP", "A load balancer on the same machine or in a trusted network ends TLS. Its own memory comes on top"),
]


def measured(results, form):
    front, tls, per_connection = form
    return model.row(results, "path", front=front, tls=tls, per_connection=per_connection)


def sockets(form):
    """Sockets that a stream takes on the servers."""
    front, _, per_connection = form
    towards_browser = 1 / per_connection if per_connection else 1
    # nginx speaks HTTP/1.1 to the relay: a connection a stream, with two ends.
    return towards_browser + (2 if front == "nginx" else 0)


def part(row, name):
    """A part of the path; nothing where the form has none."""
    none = dict.fromkeys(next(iter(row["parts"].values())), 0)
    return row["parts"].get(name, none)


def login_us(part):
    """Processor of a whole login: creation, stream, dialog, token."""
    return part["create_us"] + CONNECTIONS * part["connect_us"] + part["dialog_us"] + part["last_request_us"]


def measurements(results):
    """The forms that were measured, each with its row and what relays, nginx and Redis used."""
    for form, name, when in FORMS:
        try:
            row = measured(results, form)
        except model.Missing:
            continue
        yield form, name, when, row, *(part(row, each) for each in ("relays", "nginx", "redis"))


def choices(results):
    lines = ["| Form | Choose it when | Memory of a waiting stream: relay, nginx, kernel | Processor of waiting, µs/s: relay, nginx | Processor of a login, ms: relay, nginx, Redis | Last request → token, p50, p99 |",
             "| --- | --- | --- | --- | --- | --- |"]
    kernel = model.kernel(results)
    for form, name, when, row, relays, nginx, redis in measurements(results):
        with_nginx = form[0] == "nginx"
        memory = [f"{relays['bytes_per_stream'] / 1e3:.1f}", f"{nginx['bytes_per_stream'] / 1e3:.1f}" if with_nginx else "–", f"{sockets(form) * kernel / 1e3:.1f} kB"]
        waiting = [f"{relays['waiting_us_per_stream_second']:.1f}", f"{nginx['waiting_us_per_stream_second']:.1f}" if with_nginx else "–"]
        login = [f"{login_us(relays) / 1e3:.2f}", f"{login_us(nginx) / 1e3:.2f}" if with_nginx else "–", f"{login_us(redis) / 1e3:.2f}"]
        times = row["dialog"]
        lines.append(f"| {name} | {when} | {', '.join(memory)} | {', '.join(waiting)} | {', '.join(login)} | {times['p50_ms']:.2f} ms, {times['p99_ms']:.2f} ms |")
    if len(lines) == 2:
        raise model.Missing("path")
    return lines


def sizes(results):
    given, kernel = model.inputs(results), model.kernel(results)
    lines = ["| Waiting | Form | Relays | Memory of each | Files of each | Cores: relays, nginx, Redis | Memory of nginx | Kernel memory of all | Memory of Redis |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for waiting in SIZES:
        logins = waiting / model.WAIT
        for form, name, _, _, relays, nginx, redis in measurements(results):
            cores = [(logins * login_us(each) + waiting * each["waiting_us_per_stream_second"]) / 1e6 / model.BUSY for each in (relays, nginx, redis)]
            # One more, since one may be dead or being replaced; those that remain have all streams.
            needed = max(math.ceil(waiting / model.PER_INSTANCE), math.ceil(cores[0] / model.CORES))
            each = waiting / needed
            memory = relays["resident_before"] / 2 + each * relays["bytes_per_stream"]
            with_nginx = form[0] == "nginx"
            # A stream holds no file of its own on a shared connection.
            files = each / (form[2] if form[0] == "relay" and form[2] else 1) + 1_000
            proxy = size(nginx["resident_before"] + waiting * nginx["bytes_per_stream"]) if with_nginx else "–"
            store = size(waiting * given["store_bytes_per_stream"])
            named = [core(cores[0]), core(cores[1]) if with_nginx else "–", core(cores[2])]
            lines.append(f"| {model.number(waiting)} | {name} | {needed} + 1 | {size(memory)} | {model.number(math.ceil(files / 1_000) * 1_000)} | {', '.join(named)} | {proxy} | "
                         f"{size(waiting * sockets(form) * kernel)} | {store} |")
    return lines


def size(count):
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def core(count):
    return f"{math.ceil(count)}" if count >= 10 else f"{count:.1f}" if count >= 0.1 else f"{count:.2f}"
