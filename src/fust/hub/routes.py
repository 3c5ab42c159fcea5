"""The hub surface: an ASGI app for Hugging Face's clients, git and git-lfs, routed on the raw path."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fust.accounts.service import ANONYMOUS, Accounts
from fust.core.errors import FustError
from fust.core.ids import check_repo_type
from fust.core.settings import Settings
from fust.hub import api_routes, file_routes, git_routes, xet_routes
from fust.hub.file_routes import HotFiles
from fust.hub.formats import Formats
from fust.hub.http import (
    DEFAULT_BODY_BYTES,
    AnyReply,
    ClientGone,
    Reply,
    Request,
    Surface,
    drain_body,
    draw_error,
    read_body,
    read_request,
    send_reply,
)
from fust.hub.service import Hub
from fust.wire.asgi import Receive, Scope, Send, request_id_of

log = logging.getLogger(__name__)
Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Route:
    """A method, a path and who answers. `{type}` is models, datasets or spaces; `{x*}` takes the rest."""

    method: str
    pattern: str
    handler: Handler
    body_bytes: int = 0
    """Body read into memory before the handler is called; 0: none, or the handler streams it itself."""


_J = DEFAULT_BODY_BYTES
_REPO = "/api/{type}/{owner}/{name}"
ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/whoami-v2", api_routes.whoami),
    Route("GET", "/api/agent-harnesses", api_routes.agent_harnesses),
    Route("POST", "/api/validate-yaml", api_routes.validate_yaml, _J),
    Route("POST", "/api/repos/create", api_routes.create_repo, _J),
    Route("DELETE", "/api/repos/delete", api_routes.delete_repo, _J),
    Route("GET", "/api/{type}", api_routes.list_repos),
    Route("GET", _REPO, api_routes.repo_info),
    Route("GET", _REPO + "/revision/{revision}", api_routes.repo_info),
    Route("PUT", _REPO + "/settings", api_routes.update_settings, _J),
    Route("GET", _REPO + "/auth-check", api_routes.auth_check),
    Route("GET", _REPO + "/auth-check/{right}", api_routes.auth_check),
    Route("GET", _REPO + "/tree/{revision}", api_routes.list_tree),
    Route("GET", _REPO + "/tree/{revision}/{path*}", api_routes.list_tree),
    Route("POST", _REPO + "/paths-info/{revision}", api_routes.paths_info, _J),
    Route("POST", _REPO + "/preupload/{revision}", api_routes.preupload, _J),
    Route("POST", _REPO + "/commit/{revision}", api_routes.commit),
    Route("GET", _REPO + "/commits/{revision}", api_routes.list_commits),
    Route("GET", _REPO + "/refs", api_routes.list_refs),
    Route("POST", _REPO + "/branch/{branch}", api_routes.create_branch, _J),
    Route("DELETE", _REPO + "/branch/{branch}", api_routes.delete_branch),
    Route("POST", _REPO + "/tag/{revision}", api_routes.create_tag, _J),
    Route("DELETE", _REPO + "/tag/{tag}", api_routes.delete_tag),
    Route("GET", _REPO + "/xet-read-token/{revision}", xet_routes.read_token),
    Route("GET", _REPO + "/xet-write-token/{revision}", xet_routes.write_token),
    *(
        Route(method, f"{prefix}/{{owner}}/{{name}}/{word}/{{revision}}/{{path*}}", file_routes.resolve)
        for prefix in ("", "/datasets", "/spaces")
        for word in ("resolve", "raw")
        for method in ("GET", "HEAD")
    ),
    *(
        Route(method, "/api/resolve-cache/{type}/{owner}/{name}/{revision}/{path*}", file_routes.resolve)
        for method in ("GET", "HEAD")
    ),
    Route("GET", "/xet/xorbs/{hash}", xet_routes.get_xorb),
    *(
        route
        for scope in ("/xet", "/xet/{scope}")
        for route in (
            Route("POST", scope + "/v1/xorbs/default/{hash}", xet_routes.post_xorb),
            Route("POST", scope + "/v1/shards", xet_routes.post_shard),
            Route("POST", scope + "/shards", xet_routes.post_shard),
            Route("GET", scope + "/{version}/reconstructions/{hash}", xet_routes.reconstruct),
        )
    ),
    *(Route(method, "/xet/{path*}", xet_routes.nothing_here, 2**20) for method in ("GET", "POST", "HEAD")),
    *git_routes.routes(Route, ("", "/datasets", "/spaces")),
    *(Route(m, "/api/telemetry/{path*}", api_routes.telemetry, _J) for m in ("GET", "HEAD", "POST")),
    *(
        Route(m, "/api/{path*}", api_routes.not_offered)
        for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    ),
)
_PLURALS = frozenset({"models", "datasets", "spaces"})


class _Table:
    """Routes by method and number of parts, each pattern split once."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._routes = [(route, route.pattern.lstrip("/").split("/")) for route in routes]

    def find(self, method: str, segments: list[str]) -> tuple[Route, dict[str, str]] | None:
        """Returns the first route that fits, and its parameters."""
        for route, pattern in self._routes:
            if route.method != method:
                continue
            params = _match(pattern, segments)
            if params is not None:
                return route, params
        return None


def _match(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    rest = pattern[-1].endswith("*}")
    if len(segments) < len(pattern) or (len(segments) != len(pattern) and not rest):
        return None
    params: dict[str, str] = {}
    for i, part in enumerate(pattern):
        if not part.startswith("{"):
            suffix = part.startswith("*")
            if suffix and not segments[i].endswith(part[1:]):
                return None
            if not suffix and part != segments[i]:
                return None
        elif part == "{type}":
            if segments[i] not in _PLURALS:
                return None
            params["type"] = segments[i][:-1]
        elif part.endswith("*}"):
            params[part[1:-2]] = "/".join(segments[i:])
        elif part.endswith(".git"):
            if not segments[i].endswith(".git"):
                return None
            params[part[1:-5]] = segments[i][:-4]
        elif not segments[i]:
            return None
        else:
            params[part[1:-1]] = segments[i]
    if "owner" in params and "type" not in params:
        params["type"] = segments[0][:-1] if pattern[0] in _PLURALS else "model"
    return params


class HubApp:
    """The ASGI app."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self._table = _Table(ROUTES)
        self._hot = HotFiles(surface)
        self.find_hot = self._hot.find
        """Answers some GETs at once; asked before anything else is done with a request."""
        self._is_async = {id(r.handler): inspect.iscoroutinefunction(r.handler) for r in ROUTES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        hot = self.find_hot(scope)
        if hot is not None:
            await send(hot[0])
            await send(hot[1])
            return
        generation = self._surface.hub.repos.generation
        try:
            request = read_request(scope, receive)
        except FustError as error:
            headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in scope["headers"]}
            bare = Request(scope["method"], [], {}, {}, headers, scope, receive, request_id_of(scope))
            await send_reply(self._surface, bare, draw_error(error, headers, ANONYMOUS), send)
            return
        try:
            reply = await self._answer(request)
        except ClientGone:
            return
        except FustError as error:
            if error.status >= 500 and error.status != 501:
                log.warning("hub request failed", extra={"path": scope["path"], "error": str(error)})
            await drain_body(request)
            reply = draw_error(error, request.headers, request.identity)
        except Exception:
            log.exception(
                "hub request failed", extra={"path": scope["path"], "request_id": request.request_id}
            )
            error = FustError("Something went wrong inside Fust.", hint="The log says what: `fust logs`.")
            reply = draw_error(error, request.headers, request.identity)
        if request.method == "GET":
            self._hot.keep(request, reply, generation)
        await send_reply(self._surface, request, reply, send)

    async def _answer(self, request: Request) -> AnyReply:
        found = self._table.find(request.method, request.segments)
        if found is None:
            return Reply(404, b'{"error":"Not Found"}', [(b"content-type", b"application/json")])
        route, params = found
        surface = self._surface
        if request.segments[0] != "xet":
            known = surface.accounts.cached_identity(request.headers)
            if known is None:
                known = await surface.run(surface.accounts.identify, request.headers, method=request.method)
            request.identity = known
        if route.body_bytes:
            request.body = await read_body(request, route.body_bytes)
        arguments: dict[str, object] = {**params}
        if "type" in params:
            arguments["type"] = check_repo_type(params["type"])
        if self._is_async[id(route.handler)]:
            return await route.handler(surface, request, **arguments)
        return await surface.run(route.handler, surface, request, **arguments)


def hub_app(hub: Hub, accounts: Accounts, settings: Settings, pool: ThreadPoolExecutor) -> HubApp:
    """Returns the hub surface as an ASGI app."""
    return HubApp(Surface(hub, accounts, settings, pool, Formats(hub)))
