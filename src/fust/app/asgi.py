"""One ASGI application out of all surfaces: sends each path to the room that owns it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Executor
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from fust.accounts.service import Accounts
from fust.core.errors import FustError
from fust.gateway.routes import Gateway
from fust.hub.routes import HubApp
from fust.wire.asgi import (
    TRUSTED_PROXIES,
    ClientGone,
    Receive,
    Scope,
    Send,
    current_request,
    headers_of,
    request_id_of,
)
from fust.wire.problems import draw_problem

log = logging.getLogger(__name__)

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

_NOSNIFF = (b"x-content-type-options", b"nosniff")
"""On every answer: what somebody uploaded or wrote is never taken for a page (fetch.spec.whatwg.org, 3.6)."""
_HUB = re.compile(
    rb"^/(?:api/|xet/|oauth/|\.well-known/oauth-|(?:datasets/|spaces/)?[^/]+/[^/]+/(?:resolve|raw)/|(?:datasets/|spaces/)?[^/]+/[^/]+\.git(?:/|$)"
    rb"|(?:datasets/|spaces/)?[^/]+/[^/]+/(?:info/refs|info/lfs/|git-upload-pack|git-receive-pack|ask-access$"
    rb"|user-access-report$)|buckets/[^/]+/[^/]+/resolve/|static/|lfs/|[^/]+/resolve/)"
)


class Dispatcher:
    """Chooses the surface by the raw path, below the sub-path of the public URL when there is one.

    A proxy may strip the sub-path or leave it; both work.
    """

    def __init__(
        self,
        *,
        fust: ASGIApp,
        model: Gateway,
        hub: HubApp,
        page: ASGIApp,
        base_path: str,
        trusted_proxies: tuple[str, ...],
        registry: CollectorRegistry,
        healthy: Callable[[], bool],
        accounts: Accounts,
        pool: Executor,
    ) -> None:
        self._fust, self._model, self._hub, self._page = fust, model, hub, page
        self._base = base_path.encode()
        self._trusted = trusted_proxies
        self._registry = registry
        self._healthy = healthy
        self._accounts, self._pool = accounts, pool
        self._requests = Counter(
            "fust_http_requests",
            "Requests by surface and status class.",
            ["surface", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "fust_http_request_seconds", "Time until the answer ended.", ["surface"], registry=registry
        )
        self._metered: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def start(self) -> None:
        """Begins what goes on beside requests; called in the event loop."""
        self._model.start()

    async def close(self) -> None:
        """Ends that, and closes the connections to engines."""
        await self._model.close()

    def find_hot(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes] | None:
        """Answers some GETs while they are parsed (`fust.app.http_server.FindHot`)."""
        found = self._hub.hot.find(url, headers)
        if found is not None:
            self._meters("hub", 2)[0].inc()
        return found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection's request (ASGI 3)."""
        if scope["type"] != "http":
            return
        raw: bytes = (scope.get("raw_path") or scope["path"].encode()).split(b"?")[0]
        if (
            self._base
            and raw.startswith(self._base)
            and raw[len(self._base) : len(self._base) + 1] in (b"/", b"")
        ):
            raw = raw[len(self._base) :] or b"/"
            scope["path"] = scope["path"][len(self._base) :] or "/"
        scope["raw_path"] = raw
        scope["root_path"] = ""
        surface, app = self._surface(raw)
        scope[TRUSTED_PROXIES] = self._trusted
        current_request.set(scope)
        request_id_of(scope)  # made here, so that every surface and the log name the same one
        await self._measured(surface, app, scope, receive, send)

    def _surface(self, raw: bytes) -> tuple[str, ASGIApp]:
        if raw.startswith(b"/v1/"):
            return "model", self._model
        if raw.startswith(b"/fust/v1") or raw == b"/fust":
            return "fust", self._fust
        if _HUB.match(raw):
            return "hub", self._hub
        if raw == b"/healthz":
            return "system", self._health
        if raw == b"/metrics":
            return "system", self._metrics
        return "page", self._page

    async def _measured(self, surface: str, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = 0

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not any(name == _NOSNIFF[0] for name, _ in message.get("headers", ())):
                    message["headers"] = [*message.get("headers", ()), _NOSNIFF]
            await send(message)

        try:
            await app(scope, receive, watched)
        except ClientGone:
            raise
        except Exception:
            log.exception("a request failed", extra={"request_id": request_id_of(scope), "surface": surface})
            if not status:
                status = 500
                body = (
                    b'{"code":"internal","detail":"Something went wrong inside Fust; the log has the trace."}'
                )
                await answer(send, 500, body, b"application/json", request_id=request_id_of(scope))
        finally:
            count, seconds = self._meters(surface, status // 100)
            count.inc()
            seconds.observe(time.perf_counter() - started)

    def _meters(self, surface: str, kind: int) -> tuple[Counter, Histogram]:
        """Returns the two meters of a surface and a status class; looking labels up costs more than counting."""
        found = self._metered.get((surface, kind))
        if found is None:
            count = self._requests.labels(surface, f"{kind}xx" if kind else "cut")
            found = self._metered[(surface, kind)] = (count, self._seconds.labels(surface))
        return found

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        healthy = self._healthy()
        await answer(send, 200 if healthy else 503, b"ok\n" if healthy else b"stopping\n", b"text/plain")

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Labels name models, private ones too: only an administrator's key reads them.
            await asyncio.get_running_loop().run_in_executor(self._pool, self._check_admin, headers_of(scope))
        except FustError as error:
            request_id = request_id_of(scope)
            status, body = draw_problem(error, "en", request_id)
            await answer(send, status, body, b"application/problem+json", request_id=request_id)
            return
        await answer(send, 200, generate_latest(self._registry), b"text/plain; version=0.0.4; charset=utf-8")

    def _check_admin(self, headers: dict[str, str]) -> None:
        self._accounts.check_admin(self._accounts.identify(headers))


async def answer(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes,
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
    request_id: str = "",
) -> None:
    """Sends a whole answer."""
    fields = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *(headers or [])]
    if request_id:
        fields.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
