"""`/api/{type}/{id}/like`, `likers`, `/api/users/{name}/likes` and `/api/collections`."""

from __future__ import annotations

from typing import Literal

import msgspec

from fust.core.clock import iso
from fust.core.errors import Conflict
from fust.core.ids import RepoType
from fust.hub.api.common import next_link
from fust.hub.draw import Json
from fust.hub.http import Reply, Request, Surface, header, json_reply, number
from fust.hub.routing import BODY, REPO, Route
from fust.hub.social import Item, Listed

_PAGE = 100


class ItemId(msgspec.Struct):
    """A thing that goes into a collection."""

    id: str
    type: Literal["model", "dataset", "space", "collection"]


class NewItem(msgspec.Struct):
    """Body of `/api/collections/{slug}/items`."""

    item: ItemId
    note: str | None = None


class ChangedItem(msgspec.Struct):
    """Body of a change of an item."""

    note: str | None = None
    position: int | None = None


class NewCollection(msgspec.Struct):
    """Body of `POST /api/collections`."""

    title: str
    namespace: str
    description: str = ""
    private: bool = False


class ChangedCollection(msgspec.Struct):
    """Body of `PATCH /api/collections/{slug}`."""

    title: str | None = None
    description: str | None = None
    private: bool | None = None
    theme: str | None = None
    position: int | None = None


# Likes


def like(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /api/{type}/{id}/like`."""
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    return json_reply({"likes": surface.hub.likes.set(request.identity, info, likes=True)})


def unlike(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`DELETE /api/{type}/{id}/like`."""
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    return json_reply({"likes": surface.hub.likes.set(request.identity, info, likes=False)})


def likers(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`GET /api/{type}/{id}/likers`: who likes a repo, the newest first."""
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    skip = number(request.query.get("cursor"), 0, 0, 10**9)
    users = surface.hub.likes.of_repo(info, limit=_PAGE + 1, skip=skip)
    drawn: list[Json] = []
    for user in users[:_PAGE]:
        found = surface.accounts.users.find(user)
        full = (found.full_name if found else "") or user
        drawn.append({"user": user, "fullname": full, "avatarUrl": "", "type": "user"})
    following = str(skip + _PAGE) if len(users) > _PAGE else None
    return json_reply(drawn, headers=next_link(surface, request, following))


def user_likes(surface: Surface, request: Request, user: str) -> Reply:
    """`GET /api/users/{name}/likes`, as far as the caller may see the repos."""
    found = surface.hub.likes.of_user(request.identity, user)
    return json_reply(
        [{"createdAt": iso(when), "repo": {"name": info.repo_id, "type": info.type}} for info, when in found]
    )


# Collections


def _draw_item(item: Item) -> Json:
    drawn: Json = {"_id": item.id, "id": item.name, "type": item.type, "position": item.position}
    drawn["repoType" if item.type != "collection" else "slug"] = (
        item.type if item.type != "collection" else item.name
    )
    if item.note:
        drawn["note"] = {"html": "", "text": item.note}
    return drawn


def _draw(found: Listed, *, brief: bool = False) -> Json:
    items = found.items[:4] if brief else found.items
    drawn: Json = {
        "_id": found.id,
        "slug": found.slug,
        "title": found.title,
        "description": found.description,
        "owner": {"name": found.owner, "fullname": found.owner, "avatarUrl": "", "type": "user"},
        "items": [_draw_item(item) for item in items],
        "lastUpdated": iso(found.updated_at),
        "private": found.private,
        "theme": found.theme,
        "upvotes": 0,
        "gating": False,
    }
    return drawn if brief else drawn | {"position": found.position}


def list_collections(surface: Surface, request: Request) -> Reply:
    """`GET /api/collections`, by `owner`, `item` and `q`; up to four items of each."""
    limit = number(request.query.get("limit"), _PAGE, 1, _PAGE)
    skip = number(request.query.get("cursor"), 0, 0, 10**9)
    found = surface.hub.collections.list(
        request.identity,
        owners=request.query_lists.get("owner", []),
        item=request.query.get("item", ""),
        search=request.query.get("q", ""),
        limit=limit + 1,
        skip=skip,
    )
    following = str(skip + limit) if len(found) > limit else None
    return json_reply(
        [_draw(one, brief=True) for one in found[:limit]], headers=next_link(surface, request, following)
    )


def get_collection(surface: Surface, request: Request, space: str, slug: str) -> Reply:
    """`GET /api/collections/{slug}`."""
    return json_reply(_draw(surface.hub.collections.get(request.identity, f"{space}/{slug}")))


def create_collection(surface: Surface, request: Request) -> Reply:
    """`POST /api/collections`; 409 with its slug when the owner has one of that title."""
    asked = request.decode(NewCollection)
    found, made = surface.hub.collections.create(
        request.identity, asked.namespace, asked.title, description=asked.description, private=asked.private
    )
    if not made:
        message = f"There is a collection {found.slug} already."
        return json_reply({"error": message, "slug": found.slug}, 409, [header("x-error-message", message)])
    return json_reply(_draw(found))


def update_collection(surface: Surface, request: Request, space: str, slug: str) -> Reply:
    """`PATCH /api/collections/{slug}`."""
    asked = request.decode(ChangedCollection)
    found = surface.hub.collections.update(
        request.identity,
        f"{space}/{slug}",
        title=asked.title,
        description=asked.description,
        private=asked.private,
        theme=asked.theme,
        position=asked.position,
    )
    return json_reply({"success": True, "data": _draw(found)})


def delete_collection(surface: Surface, request: Request, space: str, slug: str) -> Reply:
    """`DELETE /api/collections/{slug}`."""
    surface.hub.collections.delete(request.identity, f"{space}/{slug}")
    return json_reply({"success": True})


def add_item(surface: Surface, request: Request, space: str, slug: str) -> Reply:
    """`POST /api/collections/{slug}/items`."""
    asked = request.decode(NewItem)
    try:
        found = surface.hub.collections.add_item(
            request.identity, f"{space}/{slug}", asked.item.type, asked.item.id, asked.note or ""
        )
    except Conflict as error:
        return json_reply({"error": error.message()}, 409, [header("x-error-message", error.message())])
    return json_reply(_draw(found))


def update_item(surface: Surface, request: Request, space: str, slug: str, item: str) -> Reply:
    """`PATCH /api/collections/{slug}/items/{id}`."""
    asked = request.decode(ChangedItem)
    surface.hub.collections.update_item(
        request.identity, f"{space}/{slug}", item, note=asked.note, position=asked.position
    )
    return json_reply({"success": True})


def delete_item(surface: Surface, request: Request, space: str, slug: str, item: str) -> Reply:
    """`DELETE /api/collections/{slug}/items/{id}`."""
    surface.hub.collections.remove_item(request.identity, f"{space}/{slug}", item)
    return json_reply({"success": True})


_ONE = "/api/collections/{space}/{slug}"
ROUTES = (
    Route("POST", REPO + "/like", like, BODY),
    Route("DELETE", REPO + "/like", unlike),
    Route("GET", REPO + "/likers", likers),
    Route("GET", "/api/users/{user}/likes", user_likes),
    Route("GET", "/api/collections", list_collections),
    Route("POST", "/api/collections", create_collection, BODY),
    Route("GET", _ONE, get_collection),
    Route("PATCH", _ONE, update_collection, BODY),
    Route("DELETE", _ONE, delete_collection),
    Route("POST", _ONE + "/items", add_item, BODY),
    Route("PATCH", _ONE + "/items/{item}", update_item, BODY),
    Route("DELETE", _ONE + "/items/{item}", delete_item),
)
