"""The HTTP server of an engine's process that we write ourselves: one loop on a thread, one key, llama.cpp's envelope.

Its routes are those that the gateway asks of any engine; a route that an engine lacks answers 501.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from fust.serve.engines.child_main import ChildConfig

_MOST_BODY_BYTES = 64 << 20
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """An answer that is an error, in llama.cpp's form."""

    def __init__(
        self, status: int, kind: str, message: str, retry_after_s: float | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s
        self.body = {"code": status, "message": message, "type": kind, **more}

    def draw(self) -> web.Response:
        """Returns the answer."""
        headers = {} if self.retry_after_s is None else {"Retry-After": f"{self.retry_after_s:g}"}
        return answer({"error": self.body}, self.status, headers)


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Returns a JSON answer."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json"
    )


def event(body: object) -> bytes:
    """Returns a server-sent event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


async def read_json(request: web.Request) -> dict[str, Any]:
    """Returns the request's body."""
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refused(400, "invalid_request_error", str(error)) from None


async def begin_stream(request: web.Request) -> web.StreamResponse:
    """Sends the head of an event stream."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    return response


def serve_routes(
    config: ChildConfig, routes: dict[str, Handler], on_start: Callable[[], Awaitable[None]] | None = None
) -> int:
    """Serves the POST routes on a free loopback port, on a thread of its own; returns the port.

    Raises:
        Exception: what `on_start` raised.
    """

    async def guard(request: web.Request) -> web.StreamResponse:
        if request.path == "/health":
            return answer({"status": "ok"})
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, b"Bearer " + config.api_key.encode()):
            return Refused(401, "authentication_error", "the engine's key is wanted").draw()
        handler = routes.get(request.path)
        if handler is None:
            return Refused(501, "not_supported_error", f"the engine has no {request.path}").draw()
        try:
            return await handler(request)
        except Refused as error:
            return error.draw()

    done = threading.Event()
    outcome: list[int | BaseException] = []

    async def run() -> None:
        try:
            if on_start is not None:
                await on_start()
            app = web.Application(client_max_size=_MOST_BODY_BYTES)
            app.router.add_route("*", "/{path:.*}", guard)
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            outcome.append(int(runner.addresses[0][1]))
        except BaseException as error:
            outcome.append(error)
            return
        finally:
            done.set()
        await asyncio.Event().wait()

    threading.Thread(target=asyncio.run, args=(run(),), name="fust-engine-http", daemon=True).start()
    done.wait()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
