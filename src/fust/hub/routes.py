"""The hub surface: an ASGI app for Hugging Face's clients, git and git-lfs, routed on the raw path."""

from __future__ import annotations

import inspect
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

from fust.accounts.devices import Devices
from fust.accounts.rights import ANONYMOUS
from fust.accounts.service import Accounts
from fust.core.errors import FustError
from fust.core.ids import check_repo_type
from fust.core.settings import Settings
from fust.hub import file_routes, git_routes, lfs_routes, static_spaces, xet_routes
from fust.hub.api import (
    buckets,
    commits,
    discussions,
    gates,
    large_files,
    listing,
    oauth,
    people,
    refs,
    relocate,
    repos,
    small,
    social,
    trees,
    webhooks,
)
from fust.hub.buckets import BucketInfo
from fust.hub.errors import RepoNotFound
from fust.hub.file_routes import HotFiles
from fust.hub.formats import Formats
from fust.hub.http import (
    AnyReply,
    FileReply,
    Reply,
    Request,
    Surface,
    drain_body,
    draw_error,
    header,
    read_body,
    read_request,
    send_reply,
)
from fust.hub.routing import Route, RouteTable
from fust.hub.service import Hub
from fust.hub.types import RepoInfo
from fust.wire.asgi import ClientGone, Receive, Scope, Send, request_id_of

log = logging.getLogger(__name__)
ROUTES: tuple[Route, ...] = (
    *people.ROUTES,
    *oauth.ROUTES,
    *small.ROUTES,
    *repos.ROUTES,
    *listing.ROUTES,
    *trees.ROUTES,
    *commits.ROUTES,
    *refs.ROUTES,
    *relocate.ROUTES,
    *social.ROUTES,
    *webhooks.ROUTES,
    *large_files.ROUTES,
    *discussions.ROUTES,
    *buckets.ROUTES,
    *gates.ROUTES,
    *xet_routes.ROUTES,
    *file_routes.ROUTES,
    *static_spaces.ROUTES,
    *git_routes.ROUTES,
    *lfs_routes.ROUTES,
    *small.LAST_ROUTES,
)


class HubApp:
    """The ASGI app."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self._table = RouteTable(ROUTES)
        self.hot = HotFiles(surface)
        self._is_async = {id(r.handler): inspect.iscoroutinefunction(r.handler) for r in ROUTES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        generation, began = self.hot.generation, time.monotonic()
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
        except RepoNotFound as error:
            reply = await self._elsewhere(request, error)
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
            self.hot.keep(request, reply, generation, began)
        try:
            await send_reply(self._surface, request, reply, send)
        except (
            FileNotFoundError
        ):  # it went between being found and being opened; it may be here in another form
            if not isinstance(reply, FileReply):
                raise
            log.warning("a file went before it was sent", extra={"path": scope["path"]})
            await send_reply(self._surface, request, await self._answer(request), send)

    async def _elsewhere(self, request: Request, error: RepoNotFound) -> AnyReply:
        """Sends a request for an old name on, when the caller may see what it names (RFC 9110, 15.4.8); else 404."""
        await drain_body(request)
        info = await self._surface.run(self._moved_to, request)
        if info is None:
            return draw_error(error, request.headers, request.identity, request.errors)
        owner, name = _asked_name(request.params)
        segments = list(request.segments)
        at = segments.index(owner, 2 if segments[0] == "api" else 0)
        suffix = segments[at + 1][len(name) :]
        segments[at : at + 2] = [info.owner, info.name + suffix]
        # A path alone: clients follow it with their key, and a HEAD of a file follows nothing else.
        path = urlsplit(self._surface.settings.public_url).path.rstrip("/")
        path += "/" + "/".join(quote(segment, safe="") for segment in segments)
        query = bytes(request.scope["query_string"]).decode("latin-1")
        return Reply(307, b"", [header("location", f"{path}?{query}" if query else path)])

    def _moved_to(self, request: Request) -> RepoInfo | BucketInfo | None:
        hub, params = self._surface.hub, request.params
        asked = "/".join(_asked_name(params))
        if "bucket" in params:
            return hub.buckets.find_moved(request.identity, asked)
        if "name" not in params or "type" not in params:
            return None
        repo_type = check_repo_type(params["type"])
        if hub.repos.find_row(repo_type, asked) is not None:
            return None
        info = hub.repos.find_moved(repo_type, asked)
        return hub.find_repo(request.identity, info.repo_id, info.type) if info else None

    async def _answer(self, request: Request) -> AnyReply:
        found = self._table.find(request.method, request.segments)
        if found is None:
            return Reply(404, b'{"error":"Not Found"}', [(b"content-type", b"application/json")])
        route, params = found
        request.errors, request.params = route.errors, params
        surface = self._surface
        if request.segments[0] not in ("xet", "static"):  # what opens these stands in the request itself
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


def _asked_name(params: dict[str, str]) -> tuple[str, str]:
    """Returns the owner and the name that a path asks for; empty where it names neither repo nor bucket."""
    if "bucket" in params:
        return params["space"], params["bucket"]
    return params.get("owner", ""), params.get("name", "")


def hub_app(
    hub: Hub, accounts: Accounts, devices: Devices, settings: Settings, pool: ThreadPoolExecutor
) -> HubApp:
    """Returns the hub surface as an ASGI app."""
    return HubApp(Surface(hub, accounts, settings, pool, Formats(hub), devices))
