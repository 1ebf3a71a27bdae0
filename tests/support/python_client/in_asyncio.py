"""Signs in within asyncio, refreshes, and prints what came of it."""

import asyncio
import json
import sys

import token_relay

relay = sys.argv[1]


async def main():
    loop = asyncio.get_running_loop()
    shown = loop.create_future()
    sign_in = token_relay.sign_in(
        relay,
        client_name="asyncio",
        on_prompt=shown.set_result,
        call_soon=loop.call_soon_threadsafe,
        open_browser=False,
    )
    prompt = await shown
    print(json.dumps({"url": prompt.url, "user_code": prompt.user_code}), flush=True)
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    token = await asyncio.wrap_future(sign_in.future)
    ticking.cancel()
    result = {"token": token.access_token, "ticks": ticks, "scope": token.scope}
    assert "access_token" not in repr(token) and token.access_token not in repr(token)
    if token.refresh_token:
        renewed = await asyncio.wrap_future(token.refresh())
        result["refreshed"] = renewed.access_token
        assert renewed.refresh_token != token.refresh_token
    print(json.dumps(result), flush=True)


asyncio.run(main())
