"""Both ends of the WebSocket tests, by the library `websockets`.

serve                            echoes on 127.0.0.1, a free port, which it prints
torture URL TRUST CERT KEY       a client over mutual TLS
torture URL SOCKET               a client through a Unix socket
"""

import asyncio
import contextlib
import os
import ssl
import sys

from websockets.asyncio.client import connect, unix_connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

MOST = 4 * 1024 * 1024


async def echo(websocket):
    async for message in websocket:
        if message == "close 4002":
            await websocket.close(4002, "as you wish")
        elif message == "ping me":
            waiter = await websocket.ping(b"server")
            await asyncio.wait_for(waiter, 10)
            await websocket.send("pinged")
        elif message == "in pieces":
            await websocket.send(part for part in ["a", "", "bc", "d" * 70000, "e"])
        elif message == "flood":
            for n in range(2000):
                await websocket.send(str(n))
        else:
            await websocket.send(message)


async def run_server():
    async with serve(echo, "127.0.0.1", 0, max_size=MOST) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


def dial(words):
    """Makes connections as the arguments say."""
    url, rest = words[0], words[1:]
    if len(rest) == 3:
        context = ssl.create_default_context(cafile=rest[0])
        context.load_cert_chain(rest[1], rest[2])
        return lambda **options: connect(url, ssl=context, max_size=MOST, proxy=None, **options)
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
    return lambda **options: unix_connect(
        rest[0],
        url,
        max_size=MOST,
        origin="https://portal.test",
        additional_headers=headers,
        **options,
    )


async def same(websocket, message):
    await websocket.send(message)
    back = await websocket.recv()
    assert back == message, (len(back), len(message))


async def sizes_and_kinds(new):
    for compression in ("deflate", None):
        async with new(compression=compression) as websocket:
            for size in (0, 1, 125, 126, 127, 65535, 65536, 1024 * 1024):
                await same(websocket, os.urandom(size))
                await same(websocket, "é" * (size // 2))
            for _ in range(4):
                await same(websocket, os.urandom(1024 * 1024))


async def many_small(new):
    async with new(compression=None) as websocket:
        async def send():
            for n in range(5000):
                await websocket.send(str(n))

        sending = asyncio.create_task(send())
        for n in range(5000):
            assert await websocket.recv() == str(n)
        await sending
        await websocket.send("flood")
        for n in range(2000):
            assert await websocket.recv() == str(n)


async def fragments(new):
    async with new(compression=None) as websocket:
        await websocket.send(part for part in [b"a", b"", b"b" * 100000, b"c"])
        assert await websocket.recv() == b"a" + b"b" * 100000 + b"c"
        await websocket.send("in pieces")
        assert await websocket.recv() == "abc" + "d" * 70000 + "e"
        # A ping between two fragments.
        async def slowly():
            yield "one "
            waiter = await websocket.ping(b"between")
            await asyncio.wait_for(waiter, 10)
            yield "two"

        await websocket.send(slowly())
        assert await websocket.recv() == "one two"


async def pings(new):
    async with new() as websocket:
        for n in range(50):
            waiter = await websocket.ping(bytes([n]) * 125)
            await asyncio.wait_for(waiter, 10)
        await websocket.send("ping me")
        assert await websocket.recv() == "pinged"


async def closes(new):
    for code in (1000, 1001, 3000, 4999):
        async with new() as websocket:
            await same(websocket, "hello")
            await websocket.close(code, "bye")
            assert websocket.close_code == code, websocket.close_code
    async with new() as websocket:
        await websocket.send("close 4002")
        with contextlib.suppress(ConnectionClosed):
            await websocket.recv()
        assert (websocket.close_code, websocket.close_reason) == (4002, "as you wish")


async def together(new):
    async def one(n):
        async with new() as websocket:
            for _ in range(20):
                await same(websocket, bytes([n]) * 10000)

    await asyncio.gather(*(one(n) for n in range(16)))


async def torture(words):
    new = dial(words)
    for ordeal in (sizes_and_kinds, many_small, fragments, pings, closes, together):
        await asyncio.wait_for(ordeal(new), 60)
    print("all is well")


if sys.argv[1] == "serve":
    asyncio.run(run_server())
else:
    asyncio.run(torture(sys.argv[2:]))
