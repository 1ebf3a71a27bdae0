"""What one and ten million waiting streams need, from what was measured.

Called by `report`. Every number below that is not an assumption comes from results.json.
"""

import math

# Assumptions: what an operator decides, or what people do.
WAIT = 60  # seconds that a person takes to log in, on average
PER_INSTANCE = 100_000  # streams on one instance (`MAX_STREAMS`, file limit raised)
CORES = 4  # of an instance
BUSY = 0.5  # of its processor that an instance or a shard of Redis may use
RETRY = (0.5, 3.0)  # seconds in which clients come back: `retry:` is 1 to 3, and `token-relay.js` takes half to whole of it
DRAIN = 3.1  # seconds, longest `retry:` that a stream is given when its instance stops
COMMANDS = 10  # of the store in one sign-in, in a cluster, where none go together


class Missing(Exception):
    """A part has not been measured yet."""


def row(results, part, **wanted):
    for found in results.get(part, {}).get("rows", []):
        if all(found.get(key) == value for key, value in wanted.items()):
            return found
    raise Missing(part)


def kernels(results):
    """What was measured of the kernel's memory, with the streams that were open then."""
    rows = results.get("streams", {}).get("rows", []) + results.get("path", {}).get("rows", [])
    found = [row for row in rows if row.get("kernel", {}).get("sockets", 0) >= row["opened"] > 0 and row["kernel"]["caches"]]
    if not found:
        raise Missing("the kernel's memory")
    return found


def kernel(results):
    """Kernel memory of a socket that waits, its file and its place in epoll included, in bytes: where one process has the most of them."""
    rows = kernels(results)
    chosen = max(rows, key=lambda row: (row.get("what") == "relay", row["kernel"]["sockets"]))["kernel"]
    return chosen["slab_bytes_per_socket"] + chosen["buffer_bytes_per_socket"]


def inputs(results):
    """The measured figures that the model stands on."""
    redis = row(results, "streams", what="relay, two instances")
    creation = row(results, "creation", what="POST /addons/sessions, Redis")
    waiting = row(results, "polling", what="event stream", sessions="Redis")
    polling = row(results, "polling", what="GET /addons/sessions/{id}", sessions="Redis")
    largest = [found for found in results.get("growth", {}).get("rows", []) if found["instances"] == 5]
    if not largest:
        raise Missing("growth")
    plain = row(results, "path", front="relay", tls=False, per_connection=0)["parts"]
    store = creation["store_us_each"] + redis["store_us_per_connect"] + plain["redis"]["dialog_us"] + redis["dialog"]["store_ms_per_1000"]
    return {
        "bytes_per_stream": largest[-1]["bytes_per_stream"],
        "store_bytes_per_stream": largest[-1]["store_resident"] / largest[-1]["opened"],
        "create_us": creation["processor_us_each"],
        "connect_us": redis["processor_us_per_connect"],
        "dialog_us": plain["relays"]["dialog_us"],
        # Milliseconds for a thousand are microseconds for one.
        "deliver_us": redis["dialog"]["processor_ms_per_1000"],
        "wait_us": waiting["processor_us_per_stream_second"],
        "poll_us": polling["processor_us_per_client_second"],
        # The acknowledgement is in none of these figures.
        "store_us": store * COMMANDS / (COMMANDS - 1),
        "store_connect_us": redis["store_us_per_connect"],
        "kernel_bytes": kernel(results),
    }


def compute(given, waiting):
    logins = waiting / WAIT
    each = given["create_us"] + given["connect_us"] + given["dialog_us"] + given["deliver_us"]
    processor = (logins * each + waiting * given["wait_us"]) / 1e6
    by_streams, by_processor = waiting / PER_INSTANCE, processor / (CORES * BUSY)
    # One more, since one may be dead or being replaced.
    instances = math.ceil(max(by_streams, by_processor)) + 1
    shards = math.ceil(logins * given["store_us"] / 1e6 / BUSY)
    others = instances - 1
    first, longest = RETRY
    window = longest - first
    storm = PER_INSTANCE * given["connect_us"] / 1e6 / (others * CORES)
    store_storm = PER_INSTANCE * given["store_connect_us"] / 1e6 / shards
    return {
        "logins a second": logins,
        "processor of all instances, cores": processor,
        "instances": instances,
        "memory of an instance for its streams, GB": PER_INSTANCE * given["bytes_per_stream"] / 1e9,
        "… kernel's for its sockets, GB": PER_INSTANCE * given["kernel_bytes"] / 1e9,
        "… both of all instances, GB": waiting * (given["bytes_per_stream"] + given["kernel_bytes"]) / 1e9,
        "… kernel's with nginx in front, whose sockets are two more, GB": 3 * waiting * given["kernel_bytes"] / 1e9,
        "Redis shards": shards,
        "store commands a second": logins * COMMANDS,
        "memory of a shard, GB": waiting * given["store_bytes_per_stream"] / shards / 1e9,
        "subscriptions on a shard": waiting / shards,
        "messages a second on a shard": logins / shards,
        "subscribes and unsubscribes a second on a shard": 2 * logins / shards,
        "an instance of 100 000 dies: streams that come back a second": PER_INSTANCE / window,
        "… to each other instance": PER_INSTANCE / window / others,
        "… until all are back, s (the longest of the three below)": max(longest, first + storm, first + store_storm),
        "… … clients' own pause, s": longest,
        "… … the other instances' processor, s": first + storm,
        "… … Redis, s": first + store_storm,
        "rolling deploy, one at a time: streams that move a second": PER_INSTANCE / DRAIN,
        "… … whole, min": instances * (DRAIN + 10) / 60,
        "polling once a second instead: requests a second": waiting,
        "… cores": waiting * given["poll_us"] / 1e6,
    }


def number(value):
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 10 and value != int(value) else f"{value:.0f}"


def table(results):
    given = inputs(results)
    labels = {
        "bytes_per_stream": "memory of a stream, five instances, B",
        "store_bytes_per_stream": "memory in Redis for a session and its subscription, B",
        "create_us": "processor for a creation, µs",
        "connect_us": "processor for an opened stream, µs",
        "dialog_us": "processor for the dialog before its last request, µs",
        "deliver_us": "processor for a login's last request and its delivery, both instances, µs",
        "wait_us": "processor for a second of waiting, Redis included, µs",
        "poll_us": "processor for a second of polling, Redis included, µs",
        "store_us": "processor of Redis for a sign-in, µs",
        "store_connect_us": "processor of Redis for an opened stream, µs",
        "kernel_bytes": "kernel memory of a socket, its file and its place in epoll, B",
    }
    lines = ["| measured input | |", "| --- | --- |"]
    lines += [f"| {labels[key]} | {number(value)} |" for key, value in given.items()]
    million, ten = compute(given, 1_000_000), compute(given, 10_000_000)
    lines += ["", "| needed | 1 M waiting | 10 M waiting |", "| --- | --- | --- |"]
    lines += [f"| {key} | {number(million[key])} | {number(ten[key])} |" for key in million]
    return lines
