"""Waits for sessions with the Python clients, each as its own documentation uses it.

One JSON object a line on standard input begins a wait: {session, client, events_url, websocket_url,
token}. One a line on standard output says what the client saw: {session, saw, detail}, where `saw` is
an event of the stream, `open`, `error` or `stopped`.
"""

import asyncio
import json
import sys
import threading
import time

import httpx
import httpx_sse
import requests
import sseclient
import websockets

FINAL = {"authenticated", "failed", "expired"}
LOCK = threading.Lock()


def report(session, saw, detail=None):
    with LOCK:
        print(json.dumps({"session": session, "saw": saw, "detail": detail}), flush=True)


def reconnecting(wait):
    """Neither library of event streams reconnects: a client asks again, with the id of the last event,
    after the pause that the relay asked for, until there is a final event."""

    def run(request):
        session, headers = request["session"], {"Authorization": f"Bearer {request['token']}"}
        memory = {"id": None, "pause": 1.0, "final": False}
        while not memory["final"]:
            if memory["id"]:
                headers["Last-Event-ID"] = memory["id"]
            try:
                if not wait(request, headers, memory):
                    break
            except (httpx.TransportError, requests.RequestException, OSError) as error:
                report(session, "error", type(error).__name__)
            if not memory["final"]:
                time.sleep(memory["pause"])
        report(session, "stopped")

    return run


def note(request, memory, event, data, identity, retry):
    memory["id"] = identity or memory["id"]
    memory["pause"] = retry / 1000 if retry else memory["pause"]
    if event in FINAL:
        memory["final"] = True
        report(request["session"], event, data)


def with_httpx_sse(request, headers, memory):
    with httpx.Client(timeout=httpx.Timeout(10, read=None)) as client:
        with httpx_sse.connect_sse(client, "GET", request["events_url"], headers=headers) as source:
            if source.response.status_code >= 500:
                report(request["session"], "error", source.response.status_code)
                return True
            if source.response.status_code != 200:
                report(request["session"], "refused", source.response.status_code)
                return False
            report(request["session"], "open")
            for event in source.iter_sse():
                note(request, memory, event.event, event.data, event.id, event.retry)
    return True


def with_sseclient(request, headers, memory):
    headers = {**headers, "Accept": "text/event-stream"}
    with requests.get(request["events_url"], headers=headers, stream=True, timeout=(10, None)) as answer:
        if answer.status_code >= 500:
            report(request["session"], "error", answer.status_code)
            return True
        if answer.status_code != 200:
            report(request["session"], "refused", answer.status_code)
            return False
        report(request["session"], "open")
        for event in sseclient.SSEClient(answer).events():
            note(request, memory, event.event, event.data, event.id, event.retry)
    return True


async def with_websockets(request):
    session = request["session"]
    protocols = ["token-relay.v1", f"bearer.{request['token']}"]
    final = False
    # Reconnects as its documentation says.
    async for websocket in websockets.connect(request["websocket_url"], subprotocols=protocols):
        report(session, "open")
        try:
            async for message in websocket:
                kind = json.loads(message)["type"]
                if kind == "authenticated":
                    await websocket.send('{"type":"ack"}')
                final = final or kind in FINAL
                report(session, kind, message)
            break
        except websockets.ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            if final or code >= 4400:
                break
            report(session, "error", code)
    report(session, "stopped")


CLIENTS = {
    "httpx-sse": reconnecting(with_httpx_sse),
    "sseclient-py": reconnecting(with_sseclient),
    "websockets": lambda request: asyncio.run(with_websockets(request)),
}

print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    threading.Thread(target=CLIENTS[request["client"]], args=(request,), daemon=True).start()
