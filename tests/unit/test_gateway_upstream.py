"""The connections between the gateway and its engines."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fust.gateway.upstream import EngineLost, Upstream
from fust.wire.targets import Target

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Engine:
    """Answers the first request of each connection, and hangs up at the second, as a server does whose patience ended."""

    def __init__(self) -> None:
        self.together = asyncio.Barrier(3)
        self.connections = self.requests = 0
        self.mute = False
        self.talks: list[asyncio.Task[None]] = []

    def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.talks.append(asyncio.ensure_future(self.talk(reader, writer)))

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.answer(reader, writer)
        except asyncio.IncompleteReadError:
            pass  # the client has gone
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for first in (True, False):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            self.requests += 1
            if not first or self.mute:
                break
            if self.connections <= 3:
                await self.together.wait()  # so that each of the first three has a connection of its own
            writer.write(ANSWER)
            await writer.drain()


async def ask(upstream: Upstream, target: Target) -> bytes:
    async with upstream.post(target, "/v1/completions", b"{}") as answer:
        return await answer.read()


async def all_of_it() -> None:
    engine = Engine()
    server = await asyncio.start_server(engine.greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream, target = Upstream(), Target("d", "m", f"http://127.0.0.1:{port}")
    try:
        assert await asyncio.gather(*(ask(upstream, target) for _ in range(3))) == [b"{}"] * 3
        assert engine.connections == 3
        # The pool holds three connections, and all of them will hang up: the request goes out once more, on a new one.
        assert await ask(upstream, target) == b"{}"
        assert (engine.connections, engine.requests) == (4, 5)
        engine.mute = True
        with pytest.raises(EngineLost):
            await ask(upstream, target)
    finally:
        await upstream.close()
        server.close()
        await asyncio.gather(*engine.talks)


def test_a_request_does_not_fail_because_pooled_connections_died() -> None:
    asyncio.run(all_of_it())
