"""What the OpenAPI document of the Fust surface says beyond its routes' types: refusals, keys, where it is served.

Refusals are one shape everywhere (RFC 9457), and any route may give one; the document says so once a route, by the
status ranges `4XX` and `5XX` (OpenAPI 3.1, 4.8.16.2), in place of the framework's own error shape, which Fust never
sends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

import msgspec
from litestar import HttpMethod, Request, Response, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ControllerRouterHandler

from fust.core.settings import Settings
from fust.wire.problems import Problem

PROBLEM_JSON = "application/problem+json"
_REFUSALS = {
    "4XX": "Refused: the request, the key or the rights do not allow it; `detail` and `hint` say why.",
    "5XX": "Failed inside Fust, or something that it needs is not there now.",
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key from `fust tokens new`."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "fust_session",
        "description": "What signing in sets; only from the page's own origin for what changes something.",
    },
}

Json = dict[str, Any]


class OpenAPIJson(JsonRenderPlugin):
    """Serves the document at `/fust/v1/schema/openapi.json`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._url = settings.base_path + "/"
        self._written: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: Json) -> bytes:
        """Returns the document; it is made once."""
        if self._written is None:
            self._written = msgspec.json.encode(complete(openapi_schema, self._url))
        return self._written


def complete(document: Json, url: str) -> Json:
    """Returns the document with refusals, ways to sign in and the path that it is served under."""
    (problems,), schemas = msgspec.json.schema_components(
        [Problem], ref_template="#/components/schemas/{name}"
    )
    components = cast("Json", document.get("components") or {})
    components["schemas"] = {**cast("Json", components.get("schemas") or {}), **schemas}
    components["securitySchemes"] = _KEYS
    paths = cast("dict[str, dict[str, Json]]", document["paths"])
    for operations in paths.values():
        for operation in operations.values():
            responses = cast("Json", operation["responses"])
            responses.pop("400", None)
            if "204" in responses:
                responses["204"].pop("content", None)
            for status, words in _REFUSALS.items():
                responses[status] = {"description": words, "content": {PROBLEM_JSON: {"schema": problems}}}
    return {
        **document,
        "servers": [{"url": url}],
        "components": components,
        "security": [{"bearer": []}, {"session": []}, {}],
    }


def options_handlers(handlers: Iterable[ControllerRouterHandler]) -> list[ControllerRouterHandler]:
    """Returns a handler of OPTIONS for each path, which names all of its methods.

    Litestar's own names those of the first handler only.
    """
    methods: defaultdict[str, set[str]] = defaultdict(set)
    for handler in handlers:
        if isinstance(handler, HTTPRouteHandler):
            for path in handler.paths:
                methods[path] |= {str(getattr(m, "value", m)) for m in handler.http_methods}
    return [_options(path, ", ".join(sorted({*found, "OPTIONS"}))) for path, found in methods.items()]


def _options(path: str, allow: str) -> ControllerRouterHandler:
    @route(path, http_method=[HttpMethod.OPTIONS], include_in_schema=False, sync_to_thread=False)
    def options(request: Request[Any, Any, State]) -> Response[None]:
        return Response(None, status_code=204, headers={"allow": allow})

    return options
