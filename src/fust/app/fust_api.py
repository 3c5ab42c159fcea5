"""The Fust surface `/fust/v1`: every room's handlers under one Litestar application, with its OpenAPI."""

from __future__ import annotations

import logging
from typing import Any, cast

import msgspec
from litestar import Litestar, Request, Response, Router
from litestar.config.compression import CompressionConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import OpenAPIConfig
from litestar.types import ControllerRouterHandler

from fust import __version__
from fust.accounts.audit_routes import handlers as audit_handlers
from fust.accounts.device_routes import handlers as device_handlers
from fust.accounts.invitation_routes import handlers as invitation_handlers
from fust.accounts.oidc_routes import handlers as oidc_handlers
from fust.accounts.rights import Identity
from fust.accounts.routes import handlers as accounts_handlers
from fust.accounts.session_routes import handlers as session_handlers
from fust.app.first_minute import handlers as first_minute_handlers
from fust.app.openapi import PROBLEM_JSON, OpenAPIJson, options_handlers
from fust.app.services import Services
from fust.app.strict_json import StrictRequest
from fust.app.system_routes import handlers as system_handlers
from fust.core.decode_words import words_of
from fust.core.errors import FustError, InvalidInput, NotFound, TooLarge
from fust.core.i18n import Words, accepted_language
from fust.feedback.routes import handlers as feedback_handlers
from fust.hub.fust_routes import handlers as hub_handlers
from fust.hub.gate_routes import handlers as gate_handlers
from fust.hub.hook_routes import handlers as hook_handlers
from fust.hub.look_routes import handlers as look_handlers
from fust.jobs.routes import handlers as jobs_handlers
from fust.serve.routes import handlers as serve_handlers
from fust.tune.routes import handlers as tune_handlers
from fust.wire.asgi import Scope, request_id_of
from fust.wire.problems import draw_problem

log = logging.getLogger(__name__)

_MOST_BODY_MIB = 10

Connection = Request[Any, Any, State]

HANDLERS: list[ControllerRouterHandler] = [
    *accounts_handlers,
    *audit_handlers,
    *session_handlers,
    *invitation_handlers,
    *oidc_handlers,
    *device_handlers,
    *system_handlers,
    *first_minute_handlers,
    *hub_handlers,
    *look_handlers,
    *hook_handlers,
    *gate_handlers,
    *jobs_handlers,
    *serve_handlers,
    *tune_handlers,
    *feedback_handlers,
]
"""Of all rooms."""


def fust_app(services: Services) -> Litestar:
    """Returns the ASGI application of the Fust surface."""

    def identity(request: Connection) -> Identity:
        headers = {name.lower(): value for name, value in request.headers.items()}
        return services.accounts.identify(headers, method=request.method)

    held: dict[str, object] = {
        "accounts": services.accounts,
        "database": services.database,
        "invitations": services.invitations,
        "oidc": services.oidc,
        "devices": services.devices,
        "hub": services.hub,
        "jobs": services.jobs,
        "serve": services.serve,
        "chats": services.chats,
        "settings": services.settings,
        "services": services,
    }
    dependencies = {name: Provide(_giver(value), sync_to_thread=False) for name, value in held.items()}
    dependencies["identity"] = Provide(identity, sync_to_thread=True)
    return Litestar(
        # One router for all: Litestar registers the handlers of a path again with each further method it meets there, and
        # wraps a synchronous one each time anew; the second wrapping breaks handlers that return a Response.
        route_handlers=[Router(path="/", route_handlers=[*options_handlers(HANDLERS), *HANDLERS])],
        dependencies=dependencies,
        exception_handlers={FustError: _draw, HTTPException: _draw_litestar, Exception: _draw_unknown},
        openapi_config=OpenAPIConfig(
            title="Fust",
            version=__version__,
            path="/fust/v1/schema",
            render_plugins=[OpenAPIJson(services.settings)],
            use_handler_docstrings=True,
        ),
        compression_config=CompressionConfig(backend="gzip", exclude=[r"/events$"]),
        request_class=StrictRequest,
        request_max_body_size=_MOST_BODY_MIB << 20,
        debug=False,
        logging_config=None,
    )


def _giver(value: object) -> Any:
    def give() -> Any:
        return value

    return give


def _request_id(request: Connection) -> str:
    return request_id_of(cast("Scope", request.scope))


def _draw(request: Connection, error: FustError) -> Response[bytes]:
    language = accepted_language(request.headers.get("accept-language"))
    request_id = _request_id(request)
    status, body = draw_problem(error, language, request_id)
    headers = {"x-request-id": request_id}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return Response(body, status_code=status, media_type=PROBLEM_JSON, headers=headers)


def _draw_litestar(request: Connection, error: HTTPException) -> Response[bytes]:
    if isinstance(error, ValidationException):
        return _draw(request, InvalidInput("The request is not valid: {reason}.", reason=_reason(error)))
    if error.status_code == 400:
        return _draw(
            request,
            InvalidInput("The request is not valid: {reason}.", reason=words_of(error.detail.rstrip("."))),
        )
    if error.status_code == 404:
        return _draw(request, NotFound("There is nothing at {path}.", path=request.url.path[:200]))
    if error.status_code == 413:
        return _draw(
            request,
            TooLarge("The body is larger than {limit} MiB.", hint="Send less at once.", limit=_MOST_BODY_MIB),
        )
    drawn = FustError("{reason}.", code="http_error", reason=error.detail.rstrip(".") or "refused")
    drawn.status = error.status_code
    response = _draw(request, drawn)
    if error.headers and "allow" in error.headers:
        response.headers["allow"] = error.headers["allow"]  # RFC 9110, 15.5.6
    return response


def _reason(error: ValidationException) -> str | Words:
    extra: object = error.extra
    if isinstance(extra, list) and extra:
        first = msgspec.convert(extra[0], dict[str, Any], strict=False)
        if first.get("key") == "data" and first.get("message") == "'data'":  # Litestar's word for no body
            return Words("it has no body")
        said = words_of(str(first.get("message", error.detail)).rstrip("."))
        return Words("{key}: {reason}", key=first.get("key", "$"), reason=said)
    return error.detail


def _draw_unknown(request: Connection, error: Exception) -> Response[bytes]:
    log.error(
        "a request failed",
        exc_info=error,
        extra={"request_id": _request_id(request), "path": request.url.path},
    )
    return _draw(
        request,
        FustError(
            "Something went wrong inside Fust.",
            hint="The log has the trace (`fust logs`); quote the request id.",
        ),
    )
