"""The hub surface: an ASGI app for Hugging Face's clients, git and git-lfs, routed on the raw path."""

from __future__ import annotations

import inspect
import logging
from concurrent.futures import ThreadPoolExecutor

from fust.accounts.rights import ANONYMOUS
from fust.accounts.service import Accounts
from fust.core.errors import FustError
from fust.core.ids import check_repo_type
from fust.core.settings import Settings
from fust.hub import file_routes, git_routes, lfs_routes, xet_routes
from fust.hub.api import commits, people, refs, repos, small, trees
from fust.hub.file_routes import HotFiles
from fust.hub.formats import Formats
from fust.hub.http import (
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
from fust.hub.routing import Route, RouteTable
from fust.hub.service import Hub
from fust.wire.asgi import Receive, Scope, Send, request_id_of

log = logging.getLogger(__name__)
ROUTES: tuple[Route, ...] = (
    *people.ROUTES,
    *small.ROUTES,
    *repos.ROUTES,
    *trees.ROUTES,
    *commits.ROUTES,
    *refs.ROUTES,
    *xet_routes.ROUTES,
    *file_routes.ROUTES,
    *git_routes.ROUTES,
    *lfs_routes.ROUTES,
    *small.LAST_ROUTES,
)


class HubApp:
    """The ASGI app."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self._table = RouteTable(ROUTES)
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
            reply = draw_error(error, request.headers, request.identity, request.errors)
        except Exception:
            log.exception(
                "hub request failed", extra={"path": scope["path"], "request_id": request.request_id}
            )
            error = FustError("Something went wrong inside Fust.", hint="The log says what: `fust logs`.")
            reply = draw_error(error, request.headers, request.identity, request.errors)
        if request.method == "GET":
            self._hot.keep(request, reply, generation)
        await send_reply(self._surface, request, reply, send)

    async def _answer(self, request: Request) -> AnyReply:
        found = self._table.find(request.method, request.segments)
        if found is None:
            return Reply(404, b'{"error":"Not Found"}', [(b"content-type", b"application/json")])
        route, params = found
        request.errors = route.errors
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
