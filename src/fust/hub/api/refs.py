"""`/api/{type}/{id}/refs`, `branch` and `tag`: names for commits."""

from __future__ import annotations

import msgspec

from fust.core.ids import RepoType
from fust.hub.draw import draw_refs
from fust.hub.http import Reply, Request, Surface, json_reply
from fust.hub.routing import BODY, REPO, Route


class NewBranch(msgspec.Struct):
    """Body of a new branch; the revision it starts at."""

    startingPoint: str | None = None
    emptyBranch: bool = False
    overwrite: bool = False


class NewTag(msgspec.Struct):
    """Body of a new tag."""

    tag: str
    message: str | None = None


def list_refs(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`GET /api/{type}/{id}/refs`."""
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    return json_reply(draw_refs(surface.hub.list_refs(info)))


def create_branch(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, branch: str
) -> Reply:
    """`POST /api/{type}/{id}/branch/{branch}`."""
    asked = request.decode(NewBranch)
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    oid = None if asked.emptyBranch else surface.hub.resolve_revision(info, asked.startingPoint or "main")
    oid = surface.hub.refs.create_branch(request.identity, info, branch, oid, overwrite=asked.overwrite)
    return json_reply({"name": branch, "targetCommit": oid})


def delete_branch(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, branch: str
) -> Reply:
    """`DELETE /api/{type}/{id}/branch/{branch}`."""
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    surface.hub.refs.delete(request.identity, info, f"refs/heads/{branch}")
    return json_reply({"deleted": branch})


def create_tag(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, revision: str
) -> Reply:
    """`POST /api/{type}/{id}/tag/{revision}`."""
    asked = request.decode(NewTag)
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    oid = surface.hub.resolve_revision(info, revision)
    surface.hub.refs.create_tag(request.identity, info, asked.tag, oid, asked.message or "")
    return json_reply({"name": asked.tag, "targetCommit": oid})


def delete_tag(surface: Surface, request: Request, type: RepoType, owner: str, name: str, tag: str) -> Reply:
    """`DELETE /api/{type}/{id}/tag/{tag}`."""
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    surface.hub.refs.delete(request.identity, info, f"refs/tags/{tag}")
    return json_reply({"deleted": tag})


class SuperSquash(msgspec.Struct):
    """Body of `super-squash`."""

    message: str | None = None


def super_squash(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, branch: str
) -> Reply:
    """`POST /api/{type}/{id}/super-squash/{branch}`: one commit in place of a branch's history."""
    asked = request.decode(SuperSquash)
    info = surface.hub.get_repo_to_write(request.identity, f"{owner}/{name}", type)
    oid = surface.hub.refs.super_squash(request.identity, info, branch, asked.message or "")
    return json_reply({"success": True, "commitOid": oid})


ROUTES = (
    Route("POST", REPO + "/super-squash/{branch}", super_squash, BODY),
    Route("GET", REPO + "/refs", list_refs),
    Route("POST", REPO + "/branch/{branch}", create_branch, BODY),
    Route("DELETE", REPO + "/branch/{branch}", delete_branch),
    Route("POST", REPO + "/tag/{revision}", create_tag, BODY),
    Route("DELETE", REPO + "/tag/{tag}", delete_tag),
)
