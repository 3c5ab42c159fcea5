"""The HTTP server of an engine's process that we write ourselves: one loop on a thread, one key, llama.cpp's envelope.

Its routes are those that the gateway asks of any engine; a route that an engine lacks answers 501. What computes for long
is answered on threads (`on_thread`), so that the loop goes on to answer health checks and to see clients leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from aiohttp import web

from fust.serve.engines.child_main import ChildConfig

_MOST_BODY_BYTES = 64 << 20
_MOST_THREADS = 512  # most of them wait for the model
_STREAM = "fust.stream"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """An answer that is an error, in llama.cpp's form."""

    def __init__(
        self, status: int, kind: str, message: str, *, retry_after_s: float | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s
        self.body = {"code": status, "message": message, "type": kind, **more}


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Returns a JSON answer."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json"
    )


def event(body: object) -> bytes:
    """Returns a server-sent event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


END = b"data: [DONE]\n\n"
"""The last event of a stream."""


async def read_json(request: web.Request) -> dict[str, Any]:
    """Returns the request's body."""
    return msgspec.json.decode(await request.read(), type=dict[str, Any])


async def begin_stream(request: web.Request) -> web.StreamResponse:
    """Sends the head of an event stream."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    request[_STREAM] = response
    return response


# Answers that are computed on threads


class Call:
    """A request that a thread answers."""

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.body = body
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._left = threading.Event()

    def leave(self) -> None:
        """Notes that nobody waits for the answer any more."""
        self._left.set()

    def is_there(self) -> bool:
        """Returns whether the client still waits."""
        return not self._left.is_set()

    def send(self, events: bytes) -> None:
        """Sends events; with the first of them the answer has begun. A slow reader holds the thread back.

        Raises:
            InterruptedError: the client left.
        """
        if not self.is_there():
            raise InterruptedError
        asyncio.run_coroutine_threadsafe(self._send(events), self._loop).result()

    async def _send(self, events: bytes) -> None:
        await (self._request.get(_STREAM) or await begin_stream(self._request)).write(events)


def on_thread(work: Callable[[Call], object]) -> Handler:
    """Returns a handler that answers with what `work` returns on a thread, or with the events that it sent.

    `work` may raise InterruptedError when it sees that the client left.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        call = Call(request, await request.read())
        try:
            made = await asyncio.get_running_loop().run_in_executor(None, work, call)
        except asyncio.CancelledError:
            call.leave()
            raise
        return request.get(_STREAM) or answer(made)

    return handle


# The server


def _refusal(error: Exception) -> Refused:
    """Returns what an error is to the client."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        return Refused(400, "invalid_request_error", str(error))
    traceback.print_exception(error)
    return Refused(500, "server_error", str(error) or type(error).__name__)


async def _refuse(request: web.Request, refused: Refused) -> web.StreamResponse:
    """Answers with an error; where a stream has begun it is the last event."""
    stream = request.get(_STREAM)
    if stream is None:
        wait_s = refused.retry_after_s
        headers = {} if wait_s is None else {"Retry-After": f"{wait_s:g}"}
        return answer({"error": refused.body}, refused.status, headers)
    with contextlib.suppress(ConnectionError):
        await stream.write(event({"error": refused.body}))
    return stream


def serve_routes(
    config: ChildConfig,
    routes: Mapping[str, Handler],
    on_start: Callable[[], Awaitable[None]] | None = None,
    tells: Mapping[str, Callable[[], object]] | None = None,
) -> int:
    """Serves on a free loopback port, on a thread of its own; returns the port.

    Args:
        config: its key is wanted for `routes`.
        routes: path -> handler.
        on_start: awaited before anything is answered.
        tells: path -> what is told to whoever asks, with no key, as the health check is.

    Raises:
        Exception: what `on_start` raised.
    """
    told = {"/health": lambda: {"status": "ok"}, **(tells or {})}

    async def guard(request: web.Request) -> web.StreamResponse:
        tell = told.get(request.path)
        if tell is not None:
            return answer(tell())
        try:
            given = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, b"Bearer " + config.api_key.encode()):
                raise Refused(401, "authentication_error", "the engine's key is wanted")
            handler = routes.get(request.path)
            if handler is None:
                raise Refused(501, "not_supported_error", f"the engine has no {request.path[:100]}")
            return await handler(request)
        except (web.HTTPException, ConnectionError, InterruptedError):
            raise
        except Exception as error:
            return await _refuse(request, _refusal(error))

    done = threading.Event()
    outcome: list[int | BaseException] = []

    async def run() -> None:
        try:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_MOST_THREADS))
            if on_start is not None:
                await on_start()
            app = web.Application(client_max_size=_MOST_BODY_BYTES)
            app.router.add_route("*", "/{path:.*}", guard)
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512)
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
