"""`/fust/v1/repos/…/gate` and `/fust/v1/access`: a gate as the caller meets it, and the caller's requests everywhere.

Asking and deciding go through the hub surface (`hub/api/gates.py`).
"""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import get
from litestar.types import ControllerRouterHandler

from fust.accounts.rights import Identity, may
from fust.accounts.service import Accounts
from fust.core.clock import iso
from fust.core.ids import RepoType, check_repo_type
from fust.hub.gate_form import GateField
from fust.hub.gate_rows import Request, Standing
from fust.hub.service import Hub


class AccessCounts(msgspec.Struct):
    """How many requests there are in each state."""

    pending: int
    accepted: int
    rejected: int
    expired: int


class OwnRequest(msgspec.Struct, kw_only=True):
    """The caller's request, or access that was given unasked."""

    asked_at: str | None
    decided_at: str | None
    decided_by: str
    until: str | None
    reason: str
    version: int | None
    """Of the terms that were agreed to."""


class Gate(msgspec.Struct, kw_only=True):
    """The gate of a repo. Empty texts mean the usual ones; `prompt` and `description` are Markdown."""

    repo_id: str
    type: RepoType
    gated: Literal["no", "auto", "manual"]
    open: bool
    """Whether the caller may have the files."""
    standing: Standing
    heading: str
    description: str
    prompt: str
    button: str
    fields: list[GateField]
    eu_disallowed: bool
    """The authors do not offer it in the European Union; nothing here finds out where the caller is."""
    terms: str
    """Hash of the terms; goes with a request."""
    version: int | None
    """Of the terms; null before anybody agreed to them."""
    request: OwnRequest | None
    may_decide: bool
    may_change: bool
    asked_again_at: str | None
    """Who agreed before has to agree again."""
    counts: AccessCounts | None
    """For those who may decide."""


class AccessLine(msgspec.Struct, kw_only=True):
    """A request of the caller's."""

    repo_id: str
    type: RepoType
    standing: Standing
    request: OwnRequest


class Waiting(msgspec.Struct):
    """A repo with requests that the caller may decide."""

    repo_id: str
    type: RepoType
    pending: int


class Access(msgspec.Struct):
    """What the caller asked for, and what waits for the caller's word."""

    items: list[AccessLine]
    waiting: list[Waiting]


def _own(request: Request) -> OwnRequest:
    return OwnRequest(
        asked_at=iso(request.asked_at),
        decided_at=iso(request.decided_at),
        decided_by=request.decided_by,
        until=iso(request.expires_at),
        reason=request.reason,
        version=request.version,
    )


@get("/fust/v1/repos/{repo_type:str}/{owner:str}/{name:str}/gate", sync_to_thread=True, tags=["repos"])
def get_gate(hub: Hub, identity: Identity, repo_type: str, owner: str, name: str) -> Gate:
    """What a repo asks before it opens, and where the caller stands; `gated` is `no` when it asks nothing."""
    info = hub.get_repo(identity, f"{owner}/{name}", check_repo_type(repo_type))
    form = hub.gates.form(info)
    standing, request = hub.gates.standing(identity, info)
    may_decide = may(identity, "repo.push", info.repo_id, info.type)
    counts = msgspec.convert(hub.access.counts(info), AccessCounts) if may_decide else None
    terms = form.hash()
    return Gate(
        repo_id=info.repo_id,
        type=info.type,
        gated=info.gate,
        open=hub.gates.opens(identity, info),
        standing=standing if info.gated else "free",
        heading=form.heading,
        description=form.description,
        prompt=form.prompt,
        button=form.button,
        fields=list(form.fields),
        eu_disallowed=form.eu_disallowed,
        terms=terms,
        version=hub.gates.version_of(info, terms),
        request=_own(request) if request else None,
        may_decide=may_decide,
        may_change=may(identity, "repo.settings", info.repo_id, info.type),
        asked_again_at=iso(info.agree_since),
        counts=counts,
    )


@get("/fust/v1/access", sync_to_thread=True, tags=["repos"])
def list_access(hub: Hub, accounts: Accounts, identity: Identity) -> Access:
    """The caller's requests for gated repos, and the repos whose requests wait for the caller."""
    accounts.require(identity, "read")
    items = [
        AccessLine(
            repo_id=info.repo_id,
            type=info.type,
            standing=hub.gates.standing(identity, info)[0],
            request=_own(request),
        )
        for info, request in hub.access.of_user(identity)
    ]
    waiting = [Waiting(info.repo_id, info.type, count) for info, count in hub.access.pending(identity)]
    return Access(items, waiting)


handlers: list[ControllerRouterHandler] = [get_gate, list_access]
