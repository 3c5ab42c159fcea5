"""`/api/{type}/{id}/tree` and `paths-info`: which files a revision holds."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qs

import msgspec

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.core.ids import RepoType
from fust.hub.api.common import next_link
from fust.hub.draw import Json, draw_entry
from fust.hub.git_repo import CommitInfo, Entry
from fust.hub.http import Reply, Request, Surface, header, json_reply, number
from fust.hub.routing import BODY, REPO, Route
from fust.hub.safety import draw_file_status
from fust.hub.types import RepoInfo

PAGE = 1000
EXPANDED_PAGE = 50


def list_tree(
    surface: Surface,
    request: Request,
    type: RepoType,
    owner: str,
    name: str,
    revision: str,
    path: str = "",
) -> Reply:
    """`GET /api/{type}/{id}/tree/{revision}[/{path}]`, 1000 a page, 50 with `expand`."""
    hub = surface.hub
    info = hub.get_repo(request.identity, f"{owner}/{name}", type)
    oid = hub.resolve_revision(info, revision)
    expand = request.flag("expand")
    entries = hub.list_tree(info, oid, path.strip("/"), recursive=request.flag("recursive"))
    limit = number(request.query.get("limit"), EXPANDED_PAGE if expand else PAGE, 1, PAGE)
    start = number(request.query.get("cursor"), 0, 0, 10**9)
    page = entries[start : start + limit]
    states = hub.content.large_states([entry.sha256 for entry in page])
    last: dict[str, CommitInfo] = {}
    if expand:
        last = hub.content.open_repo(info).last_commits(oid, [entry.path for entry in page])
    following = str(start + limit) if start + limit < len(entries) else None
    drawn = [draw_entry(entry, states, last.get(entry.path)) for entry in page]
    if expand:
        _add_safety(surface, info, oid, page, drawn)
    return json_reply(drawn, headers=[*next_link(surface, request, following), header("x-repo-commit", oid)])


def paths_info(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str
) -> Reply:
    """`POST /api/{type}/{id}/paths-info/{revision}`, a form or JSON."""
    hub = surface.hub
    info = hub.get_repo(request.identity, f"{owner}/{name}", type)
    paths, expand = _asked_paths(request)
    oid = hub.resolve_revision(info, revision)
    git = hub.content.open_repo(info)
    found = [entry for path in paths if (entry := git.find_entry(oid, path.strip("/"))) and entry.path]
    states = hub.content.large_states([entry.sha256 for entry in found])
    last = git.last_commits(oid, [entry.path for entry in found]) if expand else {}
    drawn = [draw_entry(entry, states, last.get(entry.path)) for entry in found]
    if expand:
        _add_safety(surface, info, oid, found, drawn)
    return json_reply(drawn)


def _add_safety(
    surface: Surface, info: RepoInfo, oid: str, entries: Sequence[Entry], drawn: Sequence[Json]
) -> None:
    """Adds `securityFileStatus` to lines of files."""
    findings = surface.hub.safety.look(info, oid, entries)
    for entry, line in zip(entries, drawn, strict=True):
        if not entry.is_folder:
            line["securityFileStatus"] = draw_file_status(findings.get(entry.path))


class AskedPaths(msgspec.Struct):
    """JSON body of `paths-info`."""

    paths: list[str] = msgspec.field(default_factory=lambda: [])
    expand: bool = False


def _asked_paths(request: Request) -> tuple[list[str], bool]:
    if request.headers.get("content-type", "").startswith("application/json"):
        asked = request.decode(AskedPaths)
        return asked.paths[:2000], asked.expand
    try:
        form = parse_qs(request.body.decode(), keep_blank_values=True, max_num_fields=5000)
    except (UnicodeDecodeError, ValueError) as error:
        raise InvalidInput("The request's body cannot be read: {error}.", error=words_of(error)) from None
    return form.get("paths", [])[:2000], form.get("expand", [""])[0].lower() in ("true", "1")


ROUTES = (
    Route("GET", REPO + "/tree/{revision}", list_tree),
    Route("GET", REPO + "/tree/{revision}/{path*}", list_tree),
    Route("POST", REPO + "/paths-info/{revision}", paths_info, BODY),
)
