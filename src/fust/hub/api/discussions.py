"""`/api/{type}/{id}/discussions/…`: discussions and pull requests in the shapes of huggingface_hub's community.py."""

from __future__ import annotations

import msgspec

from fust.core.clock import iso
from fust.core.errors import NotFound
from fust.core.ids import RepoType
from fust.hub.discussions import Event, Talk
from fust.hub.draw import Json
from fust.hub.http import Reply, Request, Surface, json_reply, number
from fust.hub.routing import BODY, REPO, Route
from fust.hub.types import RepoInfo

_PAGE = 30
_STATUSES = {"open": ("open", "draft"), "closed": ("closed", "merged"), "merged": ("merged",)}


class NewDiscussion(msgspec.Struct):
    """Body of a new discussion or pull request."""

    title: str
    description: str
    pullRequest: bool = False


class Comment(msgspec.Struct):
    """Body of `comment` and `merge`."""

    comment: str = ""


class Content(msgspec.Struct):
    """Body of `comment/{id}/edit`."""

    content: str


class Title(msgspec.Struct):
    """Body of `title`."""

    title: str


class Status(msgspec.Struct):
    """Body of `status`."""

    status: str
    comment: str | None = None


def _author(name: str) -> Json:
    return {"name": name, "fullname": name, "type": "user", "avatarUrl": "", "isHf": False}


def _draw_event(event: Event) -> Json:
    data: Json = dict(event.data)
    if event.type == "comment":
        versions = event.data["history"]
        drawn = [{**version, "author": _author(version["author"])} for version in versions]
        data |= {"latest": drawn[-1], "history": drawn, "numEdits": len(versions) - 1}
    return {
        "id": event.id,
        "author": _author(event.author),
        "type": event.type,
        "createdAt": iso(event.created_at),
        "data": data,
    }


def _draw(info: RepoInfo, talk: Talk) -> Json:
    return {
        "num": talk.num,
        "title": talk.title,
        "status": talk.status,
        "author": _author(talk.author),
        "isPullRequest": talk.is_pull_request,
        "createdAt": iso(talk.created_at),
        "numComments": talk.comments,
        "repo": {"name": info.repo_id, "type": info.type},
        "repoOwner": {"name": info.owner},
        "pinned": False,
    }


def list_discussions(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`GET /api/{type}/{id}/discussions`, by `type`, `status`, `author` and `search`, page `p`."""
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    kind, status = request.query.get("type", "all"), request.query.get("status", "all")
    start = number(request.query.get("p"), 0, 0, 10**6) * _PAGE
    found, total = surface.hub.discussions.list(
        info,
        pull_requests=None if kind not in ("discussion", "pull_request") else kind == "pull_request",
        statuses=_STATUSES.get(status, ()),
        author=request.query.get("author", ""),
        search=request.query.get("search", ""),
        limit=_PAGE,
        skip=start,
    )
    return json_reply({"discussions": [_draw(info, talk) for talk in found], "count": total, "start": start})


def get_discussion(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, num: str
) -> Reply:
    """`GET /api/{type}/{id}/discussions/{num}`, with every event, and what a pull request changes."""
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    talk = surface.hub.discussions.get(info, _num(num))
    drawn = _draw(info, talk) | {"events": [_draw_event(event) for event in talk.events]}
    if talk.is_pull_request:
        merged = talk.status == "merged"
        drawn["changes"] = {"base": "refs/heads/main"} | ({"mergeCommitId": talk.merge_oid} if merged else {})
        drawn["filesWithConflicts"] = [] if merged else surface.hub.discussions.conflicts(info, talk.num)
        if request.flag("diff"):
            surface.hub.gates.note_download(request.identity, info, "preview", discussion=num)
            drawn["diff"] = surface.hub.discussions.diff(info, talk.num)
    return json_reply(drawn)


def _num(text: str) -> int:
    found = number(text, 0, 0, 10**9)
    if not found:
        raise NotFound("There is no discussion {num!r}.", hint="Discussions have numbers.", num=text[:50])
    return found


def create_discussion(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /api/{type}/{id}/discussions`: a discussion, or an empty pull request (a draft) to commit to."""
    asked = request.decode(NewDiscussion)
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    num = surface.hub.discussions.open(
        request.identity,
        info,
        asked.title,
        asked.description,
        pull_request=asked.pullRequest,
        status="draft" if asked.pullRequest else "open",
    )
    url = f"{surface.settings.public_url}/{info.prefix}{info.repo_id}/discussions/{num}"
    return json_reply({"num": num, "url": url, "pullRequest": asked.pullRequest})


def comment(surface: Surface, request: Request, type: RepoType, owner: str, name: str, num: str) -> Reply:
    """`POST /api/{type}/{id}/discussions/{num}/comment`."""
    asked = request.decode(Comment)
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    event = surface.hub.discussions.comment(request.identity, info, _num(num), asked.comment)
    return json_reply({"newMessage": _draw_event(event)})


def set_title(surface: Surface, request: Request, type: RepoType, owner: str, name: str, num: str) -> Reply:
    """`POST /api/{type}/{id}/discussions/{num}/title`."""
    asked = request.decode(Title)
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    event = surface.hub.discussions.rename(request.identity, info, _num(num), asked.title)
    return json_reply({"newTitle": _draw_event(event)})


def set_status(surface: Surface, request: Request, type: RepoType, owner: str, name: str, num: str) -> Reply:
    """`POST /api/{type}/{id}/discussions/{num}/status`: `open` or `closed`."""
    asked = request.decode(Status)
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    event = surface.hub.discussions.set_status(
        request.identity, info, _num(num), asked.status, asked.comment or ""
    )
    return json_reply({"newStatus": _draw_event(event)})


def merge(surface: Surface, request: Request, type: RepoType, owner: str, name: str, num: str) -> Reply:
    """`POST /api/{type}/{id}/discussions/{num}/merge`: one commit on `main`; 409 names the files in conflict."""
    asked = Comment() if request.body in (b"", b"null") else request.decode(Comment)
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    oid = surface.hub.discussions.merge(request.identity, info, _num(num), asked.comment)
    return json_reply({"success": True, "mergeCommitId": oid})


def edit_comment(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, num: str, id: str
) -> Reply:
    """`POST /api/{type}/{id}/discussions/{num}/comment/{comment}/edit`."""
    asked = request.decode(Content)
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    event = surface.hub.discussions.edit(request.identity, info, _num(num), id, asked.content)
    return json_reply({"updatedComment": _draw_event(event)})


def hide_comment(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, num: str, id: str
) -> Reply:
    """`POST /api/{type}/{id}/discussions/{num}/comment/{comment}/hide`: for good, with its history."""
    info = surface.hub.get_repo_to_open(request.identity, f"{owner}/{name}", type)
    event = surface.hub.discussions.hide(request.identity, info, _num(num), id)
    return json_reply({"updatedComment": _draw_event(event)})


_ONE = REPO + "/discussions/{num}"
ROUTES = (
    Route("GET", REPO + "/discussions", list_discussions),
    Route("POST", REPO + "/discussions", create_discussion, BODY),
    Route("GET", _ONE, get_discussion),
    Route("POST", _ONE + "/comment", comment, BODY),
    Route("POST", _ONE + "/title", set_title, BODY),
    Route("POST", _ONE + "/status", set_status, BODY),
    Route("POST", _ONE + "/merge", merge, BODY),
    Route("POST", _ONE + "/comment/{id}/edit", edit_comment, BODY),
    Route("POST", _ONE + "/comment/{id}/hide", hide_comment, BODY),
)
