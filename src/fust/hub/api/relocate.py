"""`/api/repos/move` and `/api/{type}/{id}/duplicate`: repos under another name."""

from __future__ import annotations

from typing import Literal

import msgspec

from fust.core.ids import RepoType, check_repo_type
from fust.hub.api.common import bucket_url, page_url
from fust.hub.errors import RepoExists
from fust.hub.http import Reply, Request, Surface, header, json_reply
from fust.hub.routing import BODY, REPO, Route


class MoveRepo(msgspec.Struct):
    """Body of `/api/repos/move`."""

    fromRepo: str
    toRepo: str
    type: str | None = "model"


class DuplicateRepo(msgspec.Struct):
    """Body of `/api/{type}/{id}/duplicate`; 2.x sends `visibility`, older clients `private`."""

    repository: str
    private: bool | None = None
    visibility: Literal["public", "private", "protected"] | None = None


def move_repo(surface: Surface, request: Request) -> Reply:
    """`POST /api/repos/move`; requests for the old name are answered 307 from then on."""
    asked = request.decode(MoveRepo)
    if asked.type == "bucket":
        bucket = surface.hub.buckets.move(request.identity, asked.fromRepo, asked.toRepo)
        return json_reply({"url": bucket_url(surface, bucket), "id": bucket.repo_id})
    repo_type = check_repo_type(asked.type or "model")
    info = surface.hub.relocation.move(request.identity, repo_type, asked.fromRepo, asked.toRepo)
    return json_reply({"url": page_url(surface, request, info), "id": info.repo_id})


def duplicate_repo(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /api/{type}/{id}/duplicate`: a copy with branches and tags."""
    asked = request.decode(DuplicateRepo)
    private = asked.private if asked.visibility is None else asked.visibility == "private"
    try:
        info = surface.hub.relocation.duplicate(
            request.identity, type, f"{owner}/{name}", asked.repository, private=private
        )
    except RepoExists as error:
        known = surface.hub.find_repo(request.identity, asked.repository, type)
        url = page_url(surface, request, known) if known else ""
        body = {"error": error.message(), "url": url}
        return json_reply(body, 409, [header("x-error-message", error.message())])
    return json_reply({"url": page_url(surface, request, info), "id": info.repo_id, "private": info.private})


ROUTES = (
    Route("POST", "/api/repos/move", move_repo, BODY),
    Route("POST", REPO + "/duplicate", duplicate_repo, BODY),
)
