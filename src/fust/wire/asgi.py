"""ASGI's types (asgi.readthedocs.io, HTTP), and what every surface reads of a request the same way."""

from __future__ import annotations

import contextvars
import re
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from fust.core.ids import new_id

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

REQUEST_ID = "fust.request_id"
TRUSTED_PROXIES = "fust.trusted_proxies"
SENT_URL = "fust.sent_url"
"""Path and query as the client sent them, the sub-path of the public URL included (bytes)."""
ZEROCOPY = "http.response.zerocopysend"
"""ASGI's extension for files: the message holds `file` (a descriptor), `offset` and `count`."""
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_P = ParamSpec("_P")
_T = TypeVar("_T")

current_request: contextvars.ContextVar[Scope | None] = contextvars.ContextVar(
    "current_request", default=None
)
"""The request that is being answered; None outside of one. Set by the dispatcher; what blocks sees it through
``RequestPool`` (Litestar's own threads see it too)."""


class RequestPool(ThreadPoolExecutor):
    """Threads that know on whose behalf they work: each call runs in the context of the one that asked for it."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Calls ``fn`` in a thread, as ThreadPoolExecutor does."""
        return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)


class ClientGone(ConnectionError):
    """The client left before its request or its answer was whole."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Returns the request's headers, names in lower case; of a repeated one the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def request_id_of(scope: Scope) -> str:
    """Returns the request's one id, for its answer and its log: the caller's `x-request-id` when harmless, else new."""
    known = scope.get(REQUEST_ID)
    if known is None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode(
            "latin-1"
        )
        known = scope[REQUEST_ID] = given if _SAFE_ID.fullmatch(given) else new_id("req_")
    return known
