"""The table of runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import JSON, BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from fust.accounts.rights import Asked
from fust.core.clock import utc_naive
from fust.store.database import Base

_ASKED = "asked"


def put_asked(params: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """Returns a run's params with the rights of who asked for it."""
    return {**params, _ASKED: msgspec.to_builtins(asked)}


def get_asked(params: dict[str, Any]) -> Asked:
    """Returns the rights with which a run was asked for; 0.1.0 kept only whether an administrator did."""
    if _ASKED in params:
        return msgspec.convert(params[_ASKED], Asked)
    return Asked(by_admin=bool(params.get("asked_by_admin")))


def visible_params(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the params as they were given."""
    return {key: value for key, value in params.items() if key not in (_ASKED, "asked_by_admin")}


class RunRow(Base):
    """A piece of long work: what was asked, where it stands, what came of it.

    While it runs, its folder ``runs/<id>`` holds the truth (lock, events, outcome); the row follows.
    """

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_state_id", "state", "id"), Index("ix_runs_owner_id", "owner", "id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    """Sorts by the time of creation."""
    kind: Mapped[str]
    owner: Mapped[str]
    """Name of the user who asked."""
    state: Mapped[str]
    params: Mapped[dict[str, Any]]
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """The last progress event; kept when the run has ended."""
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """A ``fust.jobs.folder.Fault``: templates and fields, so that it is drawn in the reader's language."""
    waits_for: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    cores: Mapped[int]
    attempts: Mapped[int] = mapped_column(default=0)
    """How many processes were started for it."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    started_at: Mapped[datetime | None] = mapped_column(default=None)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
    cancel_at: Mapped[datetime | None] = mapped_column(default=None)
    """When somebody asked for its end."""
