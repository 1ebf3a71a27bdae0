"""Writes what was measured into README.md, benches/README.md, docs/deployment.md and benches/growth.svg.

Called by `run`, which also has `benches/run report`. A table stands between `<!-- NAME -->` and
`<!-- /NAME -->`; the rest of those files is written by hand.
"""

import json
import pathlib
import re

import growth
import model
import sizing

ROOT = pathlib.Path(__file__).resolve().parent.parent


def when(results, part):
    entry = results[part]
    return f"{entry['date']}, {entry['cores']} cores."


def grid(head, rows):
    return ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |",
            *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)]


WAYS = {
    "dialog": "last login request → arrival",
    "order": "order → arrival",
    "store": "fulfil in another process → arrival",
    "publish": "publish → arrival",
}


def timed(row):
    """The ways in which a row's waits were ended, with their figures."""
    for way, name in WAYS.items():
        if way in row:
            yield name, row[way]
            if "inside" in row[way]:
                yield "fulfil in the same process → arrival", row[way]["inside"]


def streams(results):
    lines = []
    for row in results["streams"]["rows"]:
        shown = row["bytes_per_stream"] if "load generator" not in row["what"] else None
        for name, times in timed(row):
            cpu, lost = times.get("processor_ms_per_1000"), times.get("lost")
            lines.append([
                row["what"], row["sessions"], {"sse": "SSE", "websocket": "WebSocket"}[row["transport"]], f"{row['opened']:.0f}",
                "" if shown is None else f"{shown:.0f}", name, *(f"{times[key]:.3f}" for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms")),
                "" if cpu is None else f"{cpu:.0f}", "" if lost is None else f"{lost}", f"{row['dropped']}",
            ])
    head = ["what", "store", "transport", "streams", "B a stream", "from → to", "p50 ms", "p90 ms", "p99 ms", "max ms", "CPU ms per 1 000", "lost", "dropped"]
    return [when(results, "streams"), "", *grid(head, lines)]


def handed_out(transport):
    """Bytes of a waiting stream by heap profile, of whichever toolchain recorded them."""
    recorded = json.loads((ROOT / "benches/regression.json").read_text())
    return next(iter(recorded.values()))["stream_bytes"][{"sse": "SSE", "websocket": "WebSocket"}[transport]]


def ratios(results):
    """nchan's figure divided by the relay's: above 1, the relay is better."""
    rows = results["streams"]["rows"]
    find = lambda **wanted: next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)
    lines = []

    def line(name, relay, way, nchan, memory=True, inside=False):
        if not relay or not nchan or way not in relay:
            return
        ours, theirs = relay[way]["inside"] if inside else relay[way], nchan["publish"]
        # Resident memory grows by less than is handed out where the sessions left some.
        own = max(relay["bytes_per_stream"], handed_out(relay["transport"]))
        lines.append([name, f"{relay['opened']:.0f}", f"{nchan['bytes_per_stream'] / own:.1f}" if memory else "",
                      f"{theirs['p50_ms'] / ours['p50_ms']:.2f}", f"{theirs['p99_ms'] / ours['p99_ms']:.2f}"])

    for relay in (row for row in rows if row["what"] == "relay"):
        nchan = find(what="nchan", transport=relay["transport"], streams=relay["streams"])
        transport = {"sse": "SSE", "websocket": "WebSocket"}[relay["transport"]]
        line(f"{transport}, login's last request against publish", relay, "dialog", nchan)
    ordered = find(what="relay in the load generator")
    if ordered:
        nchan = find(what="nchan", transport="sse", streams=ordered["streams"])
        line("SSE, order against publish", ordered, "order", nchan, memory=False)
    redis = find(what="relay, two instances")
    for count in ("two instances", "one instance"):
        nchan = find(what=f"nchan, {count}")
        line(f"Redis, login's last request against publish, nchan with {count}", redis, "dialog", nchan)
        line(f"Redis, fulfil against publish, nchan with {count}", redis, "store", nchan)
    return grid(["nchan / relay", "streams", "memory", "p50", "p99"], lines)


def between(values, form="{:.3f}"):
    """The least and the greatest of several runs."""
    return f"{form.format(min(values))} to {form.format(max(values))}"


def ahead(row, peer, moment):
    """In how many runs a row's median time was shorter than its peer's in the same run."""
    pairs = list(zip(row[f"{moment}_p50_ms"], peer[f"{moment}_p50_ms"]))
    return f"{sum(ours < theirs for ours, theirs in pairs)} of {len(pairs)}"


# What surrounds the runs of latency.
MOMENTS = {"quiet": "nothing", "apart": "cores of their own", "busy": "a busy core"}


def latency(results):
    lines, rows = [], results["latency"]["rows"]
    for row in rows:
        peer = next(other for other in rows if other["way"] == "publish" and other["sessions"] == row["sessions"])
        for moment, name in MOMENTS.items():
            times = [between(row[f"{moment}_{key}"]) for key in ("p50_ms", "p99_ms")]
            processor = between(row[f"{moment}_processor_ms_per_1000"], "{:.0f}")
            compared = "" if row is peer else ahead(row, peer, moment)
            lines.append([row["what"], row["sessions"], WAYS[row["way"]], name, *times, processor, compared, sum(row[f"{moment}_lost"])])
    note = f"{when(results, 'latency')} {rows[0]['streams']} streams, {results['latency']['runs']} runs each, of {results['latency']['rounds']} rounds, whose medians are a run's figures: the least and the greatest of a run."
    head = ["what", "store", "from → to", "beside", "p50 ms", "p99 ms", "CPU µs each", "ahead of nchan", "lost"]
    return [note, "", *grid(head, lines)]


def polling(results):
    lines = []
    for row in results["polling"]["rows"]:
        asks = "requests_per_login" in row
        times = row if asks else row["dialog"]
        requests = f"{row['requests_per_login']:.1f}" if asks else "2"
        cost = row["processor_us_per_client_second"] if asks else row["processor_us_per_stream_second"]
        lines.append([row["what"], row["sessions"], f"{row['clients'] if asks else row['streams']:.0f}", requests, f"{cost:.1f}",
                      *(f"{times[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms")), times["lost"]])
    asked = next(row for row in results["polling"]["rows"] if "requests_per_login" in row)
    head = ["clients wait by", "store", "clients", "requests a login", "CPU µs per client and second", "p50 ms", "p90 ms", "p99 ms", "lost"]
    note = f"A login takes {asked['seconds_from_creation_to_login']:.1f} s on average here."
    return [f"{when(results, 'polling')} {note}", "", *grid(head, lines)]


def inits(rows, store):
    """Creations on the meet-compatible surface, which a peer has too."""
    return next(row for row in rows if row["what"] == f"POST …/init/ (meet), {store}")


def creation(results):
    lines, rows = [], results["creation"]["rows"]
    ours = [inits(rows, store) for store in ("Redis", "memory")]
    for row in rows:
        ratios = ["", "", ""]
        if row.get("peer"):
            ratios = [f"{own['per_second'] / row['per_second']:.0f}" for own in ours]
            cost = row["processor_us_each"] / ours[0]["processor_us_each"]
            ratios.append(f"{cost:.0f}" if cost else "")
        store = row.get("store_us_each", row["processor_us_each"] if "Redis alone" in row["what"] else 0)
        own = row["processor_us_each"] if "Redis alone" not in row["what"] else 0
        lines.append([row["what"], f"{row['per_second']:.0f}", f"{row['p50_ms']:.2f}" if "p50_ms" in row else "", f"{row['p99_ms']:.2f}" if "p99_ms" in row else "",
                      f"{own:.0f}" if own else "", f"{store:.0f}" if store else "", row.get("failed", ""), *ratios])
    head = ["what", "a second", "p50 ms", "p99 ms", "CPU µs each, service", "CPU µs each, Redis", "failed", "init over Redis / this", "init in memory / this", "this CPU / init over Redis"]
    return [when(results, "creation"), "", *grid(head, lines)]


def start(results):
    entry = results["start"]
    lines = [[row["sessions"], row["runs"], f"{row['median_ms']:.1f}", f"{row['max_ms']:.1f}"] for row in entry["rows"]]
    note = f"{when(results, 'start')} Binary of `cargo build --profile {entry['profile']}`: {entry['binary_bytes'] / 1e6:.1f} MB."
    return [note, "", *grid(["store", "starts", "median ms", "max ms"], lines)]


STEPS = ["create", "token", "first use", "use", "refresh"]


def keys(results):
    lines, rows = [], results["keys"]["rows"]
    for row in rows:
        without = next(other for other in rows if other["sessions"] == row["sessions"] and other["what"] == "neither")
        for step in ["whole", *STEPS]:
            figures, base = ({**each["steps"], "whole": each["whole"]}[step] for each in (row, without))
            times, cost = figures["times"], figures["processor_us"]
            ratio = lambda new, old: f"{new / old:.2f}" if old else ""
            store = f"{figures['store_us']:.0f}" if row["sessions"] == "Redis" else ""
            lines.append([row["sessions"], row["what"], step, f"{times['p50_ms']:.3f}", f"{times['p99_ms']:.3f}", ratio(times["p50_ms"], base["times"]["p50_ms"]),
                          f"{cost:.0f}", store, ratio(cost, base["processor_us"])])
    head = ["store", "keys", "step", "p50 ms", "p99 ms", "p50 / neither", "CPU µs, relay", "CPU µs, Redis", "relay's CPU / neither"]
    return [f"{when(results, 'keys')} {rows[0]['logins']} logins of each kind.", "", *grid(head, lines)]


def connection(per_connection, tls=True):
    """How streams are connected."""
    if per_connection == 0:
        return "HTTP/1.1 over TLS" if tls else "HTTP/1.1"
    streams = "one stream" if per_connection == 1 else f"{per_connection} streams"
    return f"HTTP/2 over TLS, {streams} a connection"


def secure(results):
    lines = []
    for row in results["secure"]["rows"]:
        times = row["dialog"] if row["what"] == "relay" else row["publish"]
        lines.append([row["what"], connection(row["per_connection"]), f"{row['opened']:.0f}", f"{row['bytes_per_stream']:.0f}", f"{row['processor_us_per_stream_second']:.2f}",
                      f"{row['processor_us_per_connect']:.0f}", f"{times['p50_ms']:.3f}", f"{times['p99_ms']:.3f}", f"{times['processor_ms_per_1000']:.0f}", times["lost"], row["dropped"]])
    head = ["what", "connection", "streams", "B a stream", "CPU µs a stream and second", "CPU µs to open one", "p50 ms", "p99 ms", "CPU ms per 1 000 deliveries", "lost", "dropped"]
    return [when(results, "secure"), "", *grid(head, lines)]


def front(row):
    what = "nginx" if row["front"] == "nginx" else "no nginx"
    return f"{what}, {connection(row['per_connection'], row['tls'])}"


PARTS = {"nginx": "nginx, two workers", "relays": "two relays", "redis": "Redis"}


def in_parts(rows, name):
    """Each part of each row, and the times of the row."""
    lines = []
    for row in rows:
        times = row["dialog"]
        for index, part in enumerate(part for part in PARTS if part in row["parts"]):
            used = row["parts"][part]
            first = [name(row), f"{times['p50_ms']:.2f}", f"{times['p99_ms']:.2f}"] if index == 0 else ["", "", ""]
            megabytes = " → ".join(f"{used[f'resident_{moment}'] / 1e6:.0f}" for moment in ("before", "open"))
            lines.append([*first, PARTS[part], megabytes, f"{used['proportional_open'] / 1e6:.0f}", f"{used['bytes_per_stream']:.0f}", f"{used['waiting_us_per_stream_second']:.2f}",
                          *(f"{used[key]:.0f}" for key in ("create_us", "connect_us", "dialog_us", "last_request_us"))])
        if row["dropped"] or times["lost"] or row["opened"] < row["streams"]:
            lines.append([f"of {row['streams']} streams {row['opened']} opened, {row['dropped']} dropped; {times['lost']} tokens lost", *[""] * 11])
    head = ["what", "p50 ms", "p99 ms", "part", "resident MB without → with streams", "PSS MB", "B a stream", "CPU µs a stream and second", "CPU µs: create", "open the stream", "dialog", "last request"]
    return grid(head, lines)


def path(results):
    rows = results["path"]["rows"]
    return [f"{when(results, 'path')} {rows[0]['streams']} browsers.", "", *in_parts(rows, front)]


def proxy(results):
    rows = results["proxy"]["rows"]
    return [f"{when(results, 'proxy')} {rows[0]['streams']} browsers.", "", *in_parts(rows, lambda row: f"{row['what']} ({connection(row['per_connection'], 'no TLS' not in row['what'])})")]


SURFACE = {"native": "`GET /addons/redirect`", "meet": "`POST …/exchange/`", "platform": "`POST …/exchange/`"}
ASKED = {"native": "hook", "platform": "platform's account"}


def hook(results):
    rows = results["hook"]["rows"]
    base = {"native": rows[0]["alone"], "platform": rows[2]["alone"]}
    lines = []
    for row in rows:
        alone, without = row["alone"], base.get(row["surface"])
        added = [f"{alone[key] - without[key]:.3f}" for key in ("p50_ms", "p99_ms")] + [f"{alone['processor_us_each'] - without['processor_us_each']:.0f}"] if row["asked"] else [""] * 3
        neighbour = alone["neighbour"] or {}
        lines.append([SURFACE[row["surface"]], ASKED[row["surface"]] if row["asked"] else "nobody", f"{alone['p50_ms']:.3f}", f"{alone['p99_ms']:.3f}", f"{alone['processor_us_each']:.0f}", *added,
                      neighbour.get("requests", ""), neighbour.get("connections", ""), alone["failed"]])
    head = ["last request", "asks", "p50 ms", "p99 ms", "CPU µs", "added p50 ms", "added p99 ms", "added CPU µs", "questions", "connections for them", "failed"]
    tables = [f"{when(results, 'hook')} {rows[0]['alone']['count']} logins of each kind, one after the other.", "", *grid(head, lines)]
    lines = []
    for row in rows:
        if "burst" not in row:
            continue
        burst = row["burst"]
        succeeded, refused, neighbour = burst["succeeded"], burst["refused"], burst["neighbour"]
        seconds = lambda times: f"{times['p50_ms'] / 1e3:.2f}, {times['max_ms'] / 1e3:.2f}" if times["count"] else ""
        both = [", ".join(f"{name} {times['p99_ms']:.2f}" for name, times in row[moment].items()) for moment in ("others_before", "others")]
        failed = sum(times["failed"] for times in row["others"].values())
        lines.append([ASKED[row["surface"]], succeeded["count"], seconds(succeeded), refused["count"], seconds(refused), burst["other"], neighbour["max_under_way"], neighbour["connections"],
                      f"{(burst['peak_resident'] - burst['resident_before']) / 1e6:.1f}", *both, failed, f"{row['dropped']} of {row['streams_open']}", f"{row['after']['p50_ms']:.2f}"])
    head = ["asks", "logins that succeeded", "their p50 s, max s", "refused (503)", "their p50 s, max s", "other", "questions at once, at most", "connections", "MB more at most",
            "others' p99 ms before", "others' p99 ms meanwhile", "of these failed", "streams dropped", "p50 ms of a login afterwards"]
    for row in rows:
        if row.get("logged"):
            text = ", ".join(f"{count} × \"{cause}\"" for cause, count in row["logged"].items())
            tables.append("")
            tables.append(f"Causes in the log, {ASKED[row['surface']]}: {text}.")
    measured = [row for row in rows if "burst" in row]
    count = f"{measured[0]['burst']['seconds']:.0f} s" if measured else ""
    return [*tables, "", f"{results['hook']['rate']} logins a second while the service takes a second for each answer; over after {count}.", "", *grid(head, lines)]


def kernel(results):
    lines = []
    for row in model.kernels(results):
        used = row["kernel"]
        caches = ", ".join(f"{name} {cache['objects']:.1f} × {cache['object_bytes']}" for name, cache in sorted(used["caches"].items(), key=lambda item: -item[1]["objects"] * item[1]["object_bytes"]))
        name = front(row) if "front" in row else f"{row['what']}, {row['sessions']}, {row['transport']}"
        lines.append([name, f"{row['opened']:.0f}", f"{used['sockets']:.0f}", f"{used['slab_bytes_per_socket']:.0f}", f"{used['buffer_bytes_per_socket']:.0f}", caches])
    head = ["what", "streams", "sockets, both ends", "slab B a socket", "buffers B a socket", "caches: objects a socket × B"]
    return grid(head, lines)


def storm(results):
    lines = []
    for row in results["storm"]["rows"]:
        logins = row["logins"]
        lines.append([row["what"], row["connections_lost"], f"{row['seconds_until_all_back']:.1f}", f"{row['p50_ms'] / 1e3:.1f}", f"{row['p99_ms'] / 1e3:.1f}", row["refused"], row["failed_attempts"],
                      f"{row['peak_cores']:.2f}", f"{row['peak_resident'] / 1e6:.0f}", f"{row['store_peak_cores']:.2f}", logins["logins"], logins["lost"]])
    head = ["what", "streams lost", "s until all back", "back p50 s", "back p99 s", "refused (503)", "failed attempts", "peak cores", "peak MB", "peak cores of Redis", "logins meanwhile", "lost"]
    return [when(results, "storm"), "", *grid(head, lines)]


def deploy(results):
    entry = results["deploy"]
    lines = []
    for row in entry["rows"]:
        lines.append([row["what"], row["connections_lost"], f"{row['drained_seconds']:.1f}", row["exit_status"], f"{row['seconds_until_all_back']:.1f}",
                      f"{row['p99_ms'] / 1e3:.1f}", row["refused"], row["failed_attempts"], f"{row['peak_cores']:.2f}", f"{row['peak_resident'] / 1e6:.0f}"])
    logins = entry["logins"]
    head = ["what", "streams moved", "s until it ended", "exit", "s until all back", "back p99 s", "refused (503)", "failed attempts", "peak cores of the other", "peak MB of the other"]
    note = f"{logins['logins']} logins meanwhile, {logins['lost']} lost; fulfil → arrival p50 {logins['p50_ms']:.2f} ms, max {logins['max_ms'] / 1e3:.1f} s (a stream on its way to the other instance)."
    return [f"{when(results, 'deploy')} {entry['streams']} streams. {note}", "", *grid(head, lines)]


def micro(results):
    def shown(nanoseconds):
        return f"{nanoseconds:.0f} ns" if nanoseconds < 1e3 else f"{nanoseconds / 1e3:.1f} µs"
    lines = [[row["what"], shown(row["median_ns"])] for row in results["micro"]["rows"]]
    return [when(results, "micro"), "", *grid(["what", "median"], lines)]


def grown(results):
    return [when(results, "growth"), "", *growth.table(results["growth"]["rows"]), "", *growth.verdict(results["growth"]["rows"])]


def scale(results):
    lines = []
    for row in results["scale"]["rows"]:
        held, dialog = row["held"], row["dialog"]
        lines.append([row["instances"], f"{row['opened']}", f"{held['seconds']:.0f}", row["dropped"], f"{held['fewest']} to {held['most']} of {held['expected']:.0f}", held["streams_that_missed_some"],
                      f"{held['longest_gap_ms'] / 1e3:.1f}", f"{row['bytes_per_stream']:.0f}", f"{dialog['p50_ms']:.2f}", f"{dialog['p99_ms']:.2f}", dialog["count"], dialog["lost"]])
    head = ["instances", "streams", "s held", "dropped", "heartbeats", "streams that missed some", "longest silence s", "B a stream", "p50 ms", "p99 ms", "logins", "lost"]
    return [when(results, "scale"), "", *grid(head, lines)]


def summary(results):
    """The figures that a reader of README.md wants first; those not measured yet are left out."""
    rows = results.get("streams", {}).get("rows", [])
    find = lambda **wanted: next(row for row in rows if all(row.get(key) == value for key, value in wanted.items()))
    polls = results.get("polling", {}).get("rows", [])
    created = {row["what"]: row for row in results.get("creation", {}).get("rows", [])}
    held = results.get("scale", {}).get("rows", [])
    most = max((row["streams"] for row in rows if row["what"] == "relay" and row["transport"] == "sse"), default=0)
    middle = next((row["streams"] for row in rows if row["transport"] == "websocket"), 0)
    lines = []

    def line(make):
        try:
            lines.append(make())
        except (KeyError, StopIteration):
            pass

    def both(ours, theirs):
        return f"p50 {ours['p50_ms']:.3f} ms, p99 {ours['p99_ms']:.2f} ms", f"p50 {theirs['p50_ms']:.3f} ms, p99 {theirs['p99_ms']:.2f} ms"

    def memory(transport, streams):
        ours, theirs = find(what="relay", transport=transport, streams=streams), find(what="nchan", sessions="memory", transport=transport, streams=streams)
        grown, handed = ours["bytes_per_stream"] / 1e3, handed_out(transport) / 1e3
        return f"{handed:.1f} kB handed out by the allocator; resident memory grew by {grown:.1f} kB", f"nchan: grew by {theirs['bytes_per_stream'] / 1e3:.1f} kB"

    def spread(what, way, sessions):
        """The least and the greatest p50 of several runs."""
        entry = results.get("latency", {"rows": []})
        for row in entry["rows"]:
            if (row["what"], row["way"], row["sessions"]) == (what, way, sessions):
                quiet, apart, busy = (between(row[f"{moment}_p50_ms"]) for moment in MOMENTS)
                return f"; p50 in {entry['runs']} runs {quiet} ms, on a core of its own {apart} ms, beside a busy core {busy} ms"
        return ""

    def times(way, theirs, **wanted):
        ours, theirs = find(**wanted), find(**theirs)
        first, second = both(ours[way], theirs["publish"])
        sessions = ours["sessions"]
        return first + spread(ours["what"], way, sessions), f"nchan {second}" + spread(theirs["what"], "publish", sessions)

    def asked(store):
        poll = next(row for row in polls if row["sessions"] == store and "requests_per_login" in row)
        told = next(row for row in polls if row["sessions"] == store and row["what"] == "event stream")
        return poll, told

    def requests():
        poll, _ = asked("Redis")
        return "2 and an acknowledgement", f"polling {poll['requests_per_login']:.0f}, for a login of {poll['seconds_from_creation_to_login']:.0f} s"

    def seen():
        poll, told = asked("Redis")
        return f"p50 {told['dialog']['p50_ms']:.2f} ms", f"polling p50 {poll['p50_ms']:.0f} ms"

    def waiting():
        poll, told = asked("Redis")
        return f"{told['processor_us_per_stream_second']:.1f} µs", f"polling {poll['processor_us_per_client_second']:.0f} µs"

    def holding(row):
        where = "one instance" if row["instances"] == 1 else f"{row['instances']} instances over one Redis"
        return (f"{row['opened']} streams on {where}, held {row['held']['seconds'] / 60:.0f} min",
                f"{row['dropped']} dropped, {row['dialog']['lost']} of {row['dialog']['count']} tokens lost, {row['held']['streams_that_missed_some']:.0f} streams missed heartbeats", "")

    def creating():
        return f"{created['POST /addons/sessions, Redis']['per_second']:.0f} over Redis, {created['POST /addons/sessions, memory']['per_second']:.0f} in memory", \
            f"Redis alone {created['Redis alone, one at a time on 32 connections']['per_second']:.0f}"

    def keyed():
        of = {row["what"]: row["whole"] for row in results["keys"]["rows"] if row["sessions"] == "Redis"}
        shown = lambda whole: f"{whole['processor_us'] / 1e3:.2f} ms, p50 {whole['times']['p50_ms']:.2f} ms"
        return shown(of["both"]), f"with neither {shown(of['neither'])}"

    def starting():
        entry = results["start"]
        return ", ".join(f"{row['median_ms']:.0f} ms ({row['sessions']})" for row in entry["rows"]), ""

    def dying():
        row = results["storm"]["rows"][0]
        return f"all back after {row['seconds_until_all_back']:.1f} s, {row['logins']['lost']} of {row['logins']['logins']} tokens lost", ""

    def deploying():
        entry = results["deploy"]
        return f"{sum(row['connections_lost'] for row in entry['rows'])} streams moved, {entry['logins']['lost']} of {entry['logins']['logins']} tokens lost", ""

    for name, make in [
        (f"memory of a waiting event stream, {middle} open", lambda: memory("sse", middle)),
        (f"the same, {most} open", lambda: memory("sse", most)),
        (f"memory of a waiting WebSocket, {middle} open", lambda: memory("websocket", middle)),
        ("login's last request → token, one process", lambda: times("dialog", {"what": "nchan", "sessions": "memory", "transport": "sse", "streams": middle}, what="relay", transport="sse", streams=middle)),
        ("order to the relay → token, one process", lambda: times("order", {"what": "nchan", "sessions": "memory", "transport": "sse", "streams": middle}, what="relay in the load generator")),
        ("login's last request → token, two instances over Redis", lambda: times("dialog", {"what": "nchan, two instances"}, what="relay, two instances")),
        ("fulfil → token, over Redis", lambda: times("store", {"what": "nchan, two instances"}, what="relay, two instances")),
        ("requests of one login", requests),
        ("login's last request → token, against polling once a second", seen),
        ("processor per waiting client and second, over Redis", waiting),
        ("sessions created a second", creating),
        ("processor and time of a login with encrypted delivery and DPoP, over Redis", keyed),
        ("start to ready", starting),
        ("one of two instances killed", dying),
        ("rolling deploy", deploying),
    ]:
        line(lambda: (name, *make()))
    for peer in (row for row in created.values() if row.get("peer")):
        shared, alone = (inits(created.values(), store)["per_second"] for store in ("Redis", "memory"))
        line(lambda: ("the same on the meet-compatible surface", f"{shared:.0f} over Redis, {alone:.0f} in memory",
                      f"{peer['what']} {peer['per_second']:.0f}, times {shared / peer['per_second']:.0f} and {alone / peer['per_second']:.0f}"))
    for row in held:
        line(lambda: holding(row))
    dates = sorted({results[part]["date"] for part in results})
    written = f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else dates[0]
    return [f"{written}, {next(iter(results.values()))['cores']} cores.", "", *grid(["what", "token-relay", "beside it"], lines)]


TABLES = {"secure": secure, "path": path, "proxy": proxy, "hook": hook, "kernel": kernel, "choices": sizing.choices, "sizes": sizing.sizes, "summary": summary, "streams": streams, "latency": latency, "ratios": ratios, "polling": polling, "creation": creation, "keys": keys, "start": start, "storm": storm,
          "deploy": deploy, "micro": micro, "growth": grown, "scale": scale, "model": model.table}
PART_OF = {"kernel": "streams", "choices": "path", "sizes": "path", "summary": "streams", "ratios": "streams", "model": "streams"}


def fill(path, results):
    text = path.read_text()
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text) or PART_OF.get(name, name) not in results:
            continue
        try:
            lines = make(results)
        except model.Missing as missing:
            print(f"no {name}: {missing} has not been measured")
            continue
        text = pattern.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text)
    path.write_text(text)


def write(results):
    for file in (ROOT / "README.md", ROOT / "benches/README.md", ROOT / "docs/deployment.md"):
        fill(file, results)
    if "growth" in results:
        (ROOT / "benches/growth.svg").write_text(growth.svg(results["growth"]))


if __name__ == "__main__":
    write(json.loads((ROOT / "benches/results.json").read_text()))
