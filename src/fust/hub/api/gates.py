"""`/api/{type}/{id}/user-access-request/…`, `ask-access` and `user-access-report`: asking for access, and deciding.

As huggingface_hub calls them; `until`, `terms`, `expired` and what is drawn beside the Hub's keys are Fust's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from fust.core.clock import iso
from fust.core.errors import NotFound
from fust.core.ids import RepoType
from fust.hub.access_requests import parse_until
from fust.hub.api.common import next_link
from fust.hub.draw import Json
from fust.hub.gate_rows import Request as AccessRequest
from fust.hub.gate_rows import State, Status
from fust.hub.http import Reply, Request, Surface, header, json_reply, number
from fust.hub.routing import BODY, REPO, Route

_PAGE = 100
_STATES: tuple[State, ...] = ("pending", "accepted", "rejected", "expired")


class AskAccess(msgspec.Struct):
    """Body of `ask-access`."""

    terms: str
    """Hash of the terms that were shown."""
    fields: dict[str, Any] = msgspec.field(default_factory=lambda: {})
    """Answers by the name of the field."""


class Decision(msgspec.Struct):
    """Body of `user-access-request/handle`: `user` or `requestId`."""

    status: Status
    user: str | None = None
    requestId: str | None = None
    rejectionReason: str | None = None
    until: str | None = None


class Grant(msgspec.Struct):
    """Body of `user-access-request/grant`."""

    user: str
    until: str | None = None


def draw_request(found: AccessRequest) -> Json:
    """Returns a request as `AccessRequest` of hf_api.py reads it, and what Fust knows more."""
    return {
        "requestId": found.id,
        "user": {
            "user": found.user,
            "fullname": found.full_name or found.user,
            "email": None,
            "type": "user",
            "avatarUrl": "",
        },
        "status": found.status,
        "timestamp": iso(found.asked_at),
        "fields": found.answers or None,
        "ended": found.is_over,
        "until": iso(found.expires_at),
        "decidedAt": iso(found.decided_at),
        "decidedBy": found.decided_by,
        "rejectionReason": found.reason,
        "termsVersion": found.version,
        "terms": found.terms,
        "agreedAt": iso(found.agreed_at),
    }


def list_requests(
    surface: Surface, request: Request, type: RepoType, owner: str, name: str, status: str
) -> Reply:
    """`GET /api/{type}/{id}/user-access-request/{status}`: `pending`, `accepted`, `rejected`; also `expired`."""
    if status not in _STATES:
        raise NotFound(
            "There are no requests that are {status!r}.",
            hint="Use pending, accepted, rejected or expired.",
            status=status[:50],
        )
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    surface.hub.access.check_may_decide(request.identity, info)
    limit = number(request.query.get("limit"), _PAGE, 1, 1000)
    skip = number(request.query.get("cursor"), 0, 0, 10**9)
    found, total = surface.hub.access.list_requests(info, status, limit=limit, skip=skip)
    following = str(skip + limit) if skip + limit < total else None
    headers = [*next_link(surface, request, following), header("x-total-count", str(total))]
    return json_reply([draw_request(one) for one in found], headers=headers)


def handle_request(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /api/{type}/{id}/user-access-request/handle`: accepts, rejects, or sets back to pending."""
    asked = request.decode(Decision)
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    decided = surface.hub.access.decide(
        request.identity,
        info,
        asked.status,
        user=asked.user,
        request_id=asked.requestId,
        reason=asked.rejectionReason or "",
        until=parse_until(asked.until),
    )
    return json_reply(draw_request(decided))


def grant_access(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /api/{type}/{id}/user-access-request/grant`: lets a user in who did not ask."""
    asked = request.decode(Grant)
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    granted = surface.hub.access.grant(request.identity, info, asked.user, until=parse_until(asked.until))
    return json_reply(draw_request(granted))


def ask_access(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`POST /{id}/ask-access`: agrees to the terms of a gated repo and sends the form of its card."""
    asked = request.decode(AskAccess)
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    return json_reply(draw_request(surface.hub.access.ask(request.identity, info, asked.fields, asked.terms)))


def access_report(surface: Surface, request: Request, type: RepoType, owner: str, name: str) -> Reply:
    """`GET /{id}/user-access-report`: every request as one JSON file."""
    info = surface.hub.get_repo(request.identity, f"{owner}/{name}", type)
    surface.hub.access.check_may_decide(request.identity, info)
    found, _ = surface.hub.access.list_requests(info, None, limit=1_000_000)
    drawn: list[Json] = [
        {
            "user": one.user,
            "fullname": one.full_name or one.user,
            "status": one.status,
            "email": None,
            "time": iso(one.asked_at),
            **{k: v for k, v in draw_request(one).items() if k not in ("user", "status", "timestamp")},
        }
        for one in found
    ]
    named = f'attachment; filename="{info.owner}-{info.name}-access.json"'
    return json_reply(drawn, headers=[header("content-disposition", named)])


def _routes() -> Iterator[Route]:
    yield Route("GET", REPO + "/user-access-request/{status}", list_requests)
    yield Route("POST", REPO + "/user-access-request/handle", handle_request, BODY)
    yield Route("POST", REPO + "/user-access-request/grant", grant_access, BODY)
    for prefix in ("", "/datasets", "/spaces"):
        yield Route("POST", prefix + "/{owner}/{name}/ask-access", ask_access, BODY)
        yield Route("GET", prefix + "/{owner}/{name}/user-access-report", access_report)


ROUTES = tuple(_routes())
