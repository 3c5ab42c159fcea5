"""Whose rows are whose: what a caller kept at the model surface is as absent for others as what never was."""

from __future__ import annotations

from typing import TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from fust.accounts.models import User
from fust.accounts.rights import Identity
from fust.gateway.models import BatchRow, FileRow, ResponseRow

Kept = TypeVar("Kept", ResponseRow, FileRow, BatchRow)


def user_id_of(session: Session, identity: Identity) -> str:
    """Returns the id of the caller's user."""
    return session.scalars(select(User.id).where(User.name == identity.user)).one()


def is_own(kind: type[Kept], session: Session, identity: Identity) -> ColumnElement[bool]:
    """Returns the condition of the caller's own rows; a fine-grained key owns only what it asked for itself."""
    mine = kind.user_id == user_id_of(session, identity)
    return mine if identity.grants is None else mine & (kind.token_id == identity.token_id)


def find_own(kind: type[Kept], session: Session, identity: Identity, row_id: str) -> Kept | None:
    """Returns a row of the caller's, or None."""
    return session.scalars(select(kind).where(kind.id == row_id, is_own(kind, session, identity))).first()
