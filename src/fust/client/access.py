"""The gate of one repo, by a client: asking for access, and deciding who gets it."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from fust.client.http import Transport

_T = TypeVar("_T")


class GateOption(msgspec.Struct):
    """A choice of a field."""

    value: str
    label: str


class GateField(msgspec.Struct):
    """Something that a gate asks: `text`, `checkbox`, `date_picker`, `country` or `select`."""

    name: str
    type: str
    options: list[GateOption] = []


class Gate(msgspec.Struct):
    """A gate as the caller meets it."""

    repo_id: str
    gated: str
    open: bool
    standing: str
    heading: str
    description: str
    prompt: str
    fields: list[GateField]
    terms: str
    version: int | None = None


class Person(msgspec.Struct):
    """Who asked."""

    user: str
    fullname: str = ""


class Request(msgspec.Struct):
    """A request, as those see it who decide, and who sent it."""

    requestId: str
    user: Person
    status: str
    timestamp: str
    fields: dict[str, Any] | None = None
    ended: bool = False
    until: str | None = None
    decidedAt: str | None = None
    decidedBy: str = ""
    rejectionReason: str = ""
    termsVersion: int | None = None


class OwnRequest(msgspec.Struct):
    """The caller's own request."""

    asked_at: str | None = None
    until: str | None = None
    reason: str = ""


class AccessLine(msgspec.Struct):
    """A repo that the caller asked for."""

    repo_id: str
    type: str
    standing: str
    request: OwnRequest


class Waiting(msgspec.Struct):
    """A repo with requests that wait for the caller's word."""

    repo_id: str
    type: str
    pending: int


class Access(msgspec.Struct):
    """All that the caller asked for, and all that waits for the caller."""

    items: list[AccessLine]
    waiting: list[Waiting]


class RepoAccess:
    """Access to one repo; every method raises ClientError or Unavailable."""

    def __init__(self, http: Transport, repo_id: str, repo_type: str) -> None:
        self._http = http
        self._name = f"{repo_type}s/{quote(repo_id)}"
        self._view = f"/fust/v1/repos/{repo_type}/{quote(repo_id)}/gate"
        self._page = quote(repo_id) if repo_type == "model" else self._name

    def _ask(self, method: str, path: str, kind: type[_T], body: object = None) -> _T:
        return msgspec.json.decode(self._http.request(method, path, body), type=kind)

    def gate(self) -> Gate:
        """Returns what the repo asks, and where the caller stands."""
        return self._ask("GET", self._view, Gate)

    def list(self, state: str, limit: int) -> list[Request]:
        """Returns requests that are `pending`, `accepted`, `rejected` or `expired`, the newest first."""
        query = urlencode({"limit": limit})
        return self._ask("GET", f"/api/{self._name}/user-access-request/{state}?{query}", list[Request])

    def decide(self, user: str, status: str, *, reason: str = "", until: str = "") -> Request:
        """Accepts or rejects a user's request, or sets it back to `pending`."""
        body = {"user": user, "status": status}
        body |= {k: v for k, v in (("rejectionReason", reason), ("until", until)) if v}
        return self._ask("POST", f"/api/{self._name}/user-access-request/handle", Request, body)

    def grant(self, user: str, *, until: str = "") -> Request:
        """Lets a user in who did not ask."""
        body = {"user": user} | ({"until": until} if until else {})
        return self._ask("POST", f"/api/{self._name}/user-access-request/grant", Request, body)

    def request(self, terms: str, fields: dict[str, Any]) -> Request:
        """Agrees to the terms of that hash, and sends the form."""
        return self._ask("POST", f"/{self._page}/ask-access", Request, {"terms": terms, "fields": fields})

    def set_gate(self, gated: str) -> None:
        """Gates the repo: `auto`, `manual`, or `no`."""
        self._http.request("PUT", f"/api/{self._name}/settings", {"gated": gated if gated != "no" else False})

    def ask_again(self) -> None:
        """Makes everybody who was let in agree to the terms again."""
        self._http.request("PUT", f"/api/{self._name}/settings", {"askAgain": True})
