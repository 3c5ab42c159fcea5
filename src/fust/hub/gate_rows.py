"""Requests for access as values: what is read of their rows, and where a caller stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, assert_never

import msgspec
from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from fust.accounts.models import User
from fust.core.clock import utc_naive
from fust.hub.gate_models import AccessRequest, GateTerms

Standing = Literal["free", "none", "pending", "accepted", "rejected", "expired", "outdated"]
"""A caller before a gate. `free`: never asked; `outdated`: let in, and has to agree to the terms again."""
Status = Literal["pending", "accepted", "rejected"]
State = Literal["pending", "accepted", "rejected", "expired"]


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody's request for access to a repo, and what became of it."""

    id: str
    user: str
    full_name: str
    status: Status
    asked_at: datetime
    answers: dict[str, object] | None
    version: int | None
    """Of the terms that were agreed to."""
    terms: str
    agreed_at: datetime | None
    expires_at: datetime | None
    decided_at: datetime | None
    decided_by: str
    reason: str

    @property
    def is_over(self) -> bool:
        """Whether it was accepted for a time that is over."""
        return self.status == "accepted" and self.expires_at is not None and self.expires_at <= utc_naive()


def select_requests(
    session: Session, *conditions: ColumnElement[bool], limit: int = 1000, skip: int = 0
) -> list[Request]:
    """Returns the requests that fit, the newest first."""
    query = (
        select(AccessRequest, User.name, User.full_name, GateTerms.version)
        .join(User, User.id == AccessRequest.user_id)
        .outerjoin(
            GateTerms,
            and_(GateTerms.repo_id == AccessRequest.repo_id, GateTerms.hash == AccessRequest.terms),
        )
        .where(*conditions)
        .order_by(AccessRequest.asked_at.desc(), AccessRequest.id)
    )
    return [
        _request(row, name, full_name, version)
        for row, name, full_name, version in session.execute(query.offset(skip).limit(limit))
    ]


def _request(row: AccessRequest, name: str, full_name: str, version: int | None) -> Request:
    status = msgspec.convert(row.status, Status)
    return Request(
        row.id,
        name,
        full_name,
        status,
        row.asked_at,
        row.answers,
        version,
        row.terms,
        row.agreed_at,
        row.expires_at,
        row.decided_at,
        row.decided_by,
        row.reason,
    )


def in_state(state: State) -> list[ColumnElement[bool]]:
    """Returns the conditions of a state."""
    over = and_(AccessRequest.expires_at.is_not(None), AccessRequest.expires_at <= utc_naive())
    match state:
        case "pending" | "rejected":
            return [AccessRequest.status == state]
        case "accepted":
            live = or_(AccessRequest.expires_at.is_(None), AccessRequest.expires_at > utc_naive())
            return [AccessRequest.status == "accepted", live]
        case "expired":
            return [AccessRequest.status == "accepted", over]
        case _:
            assert_never(state)
