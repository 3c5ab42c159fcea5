"""`/api/repos/…`, `/api/{type}` and `/api/{type}/{id}`: repos, their settings, lists of them."""

from __future__ import annotations

from typing import Literal

import msgspec

from fust.core.ids import RepoType, check_repo_type
from fust.hub.api.common import expanded, full_repo_id, page_url
from fust.hub.api.properties import draw_property
from fust.hub.draw import Json, draw_details
from fust.hub.errors import RepoExists
from fust.hub.http import Reply, Request, Surface, header, json_reply
from fust.hub.routing import BODY, REPO, Route
from fust.hub.safety import draw_repo_status
from fust.hub.summary import read_card


class CreateRepo(msgspec.Struct):
    """Body of `/api/repos/create`; 2.x sends `visibility`, older clients `private`."""

    name: str
    organization: str | None = None
    type: str | None = "model"
    private: bool | None = None
    visibility: Literal["public", "private", "protected"] | None = None
    sdk: str | None = None


class NameRepo(msgspec.Struct):
    """Body of `/api/repos/delete`."""

    name: str
    organization: str | None = None
    type: str | None = "model"


class RepoSettings(msgspec.Struct):
    """Body of `/api/{type}/{id}/settings`."""

    private: bool | None = None
    visibility: Literal["public", "private", "protected"] | None = None
    gated: Literal["auto", "manual", False] | None = None
    protectedBranches: list[str] | None = None
    """Fust's own: patterns of branches whose history nobody rewrites."""
    askAgain: bool = False
    """Fust's own: whoever was let in through the gate has to agree to its terms, as they are now, again."""


def create_repo(surface: Surface, request: Request) -> Reply:
    """`POST /api/repos/create`."""
    asked = request.decode(CreateRepo)
    repo_type = check_repo_type(asked.type or "model")
    repo_id = full_repo_id(surface, request, asked.name, asked.organization)
    private = asked.private if asked.private is not None else asked.visibility == "private"
    try:
        info = surface.hub.create_repo(
            request.identity, repo_id, repo_type, private=bool(private), sdk=(asked.sdk or "")[:50]
        )
    except RepoExists as error:
        known = surface.hub.find_repo(request.identity, repo_id, repo_type)
        url = page_url(surface, request, known) if known else ""
        return json_reply(
            {"error": error.message(), "url": url}, 409, [header("x-error-message", error.message())]
        )
    return json_reply(
        {
            "url": page_url(surface, request, info),
            "name": info.repo_id,
            "id": info.id,
            "private": info.private,
        }
    )


def delete_repo(surface: Surface, request: Request) -> Reply:
    """`DELETE /api/repos/delete`."""
    asked = request.decode(NameRepo)
    repo_id = full_repo_id(surface, request, asked.name, asked.organization)
    surface.hub.delete_repo(request.identity, repo_id, check_repo_type(asked.type or "model"))
    return json_reply({"deleted": repo_id})


def update_settings(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`PUT /api/{type}/{id}/settings`."""
    asked = request.decode(RepoSettings)
    info = surface.hub.repos.get_for(request.identity, "repo.settings", type, f"{owner}/{name}")
    private = asked.private
    if asked.visibility is not None:
        private = asked.visibility == "private"
    updated = surface.hub.repos.update(
        request.identity,
        info,
        private=private,
        gated="" if asked.gated is False else asked.gated,
        protected=asked.protectedBranches,
    )
    if asked.askAgain:
        updated = surface.hub.access.ask_again(request.identity, updated)
    return json_reply(
        {
            "private": updated.private,
            "gated": updated.gated or False,
            "protectedBranches": updated.protected,
        }
    )


def repo_info(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str = "main"
) -> Reply:
    """`GET /api/{type}/{id}[/revision/{revision}]`."""
    hub = surface.hub
    info = hub.get_repo(request.identity, f"{owner}/{name}", type)
    git = hub.content.open_repo(info)
    oid = hub.resolve_revision(info, revision)
    last = next(git.iter_commits(oid))
    entries = [entry for entry in git.iter_tree(oid, recursive=True) if not entry.is_folder]
    formats = surface.formats.read(info, oid, entries)
    blobs = request.flag("blobs") or request.flag("files_metadata")
    drawn = draw_details(
        info, sha=oid, last=last, entries=entries, card=read_card(git, oid), blobs=blobs, formats=formats
    )
    if request.flag("securityStatus"):
        drawn["securityRepoStatus"] = draw_repo_status(hub.safety.look(info, oid, entries))
    wanted = expanded(request)
    if wanted:
        kept: Json = {key: drawn[key] for key in ("_id", "id") if key in drawn}
        for name_ in wanted:
            draw_property(surface, info, oid, name_, drawn, kept)
        return json_reply(kept)
    if type == "model":
        draw_property(surface, info, oid, "config", drawn, drawn)
    return json_reply(drawn)


def auth_check(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, right: str = "read"
) -> Reply:
    """`GET /api/{type}/{id}/auth-check[/write]`."""
    if right == "write":
        surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    else:
        surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    return json_reply({"ok": True})


ROUTES = (
    Route("POST", "/api/repos/create", create_repo, BODY),
    Route("DELETE", "/api/repos/delete", delete_repo, BODY),
    Route("GET", REPO, repo_info),
    Route("GET", REPO + "/revision/{revision}", repo_info),
    Route("PUT", REPO + "/settings", update_settings, BODY),
    Route("GET", REPO + "/auth-check", auth_check),
    Route("GET", REPO + "/auth-check/{right}", auth_check),
)
