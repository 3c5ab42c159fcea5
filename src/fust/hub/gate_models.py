"""Tables of gates: who asked for access to which repo, what they agreed to, and what was decided."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from fust.core.clock import utc_naive
from fust.store.database import Base


class GateTerms(Base):
    """A version of what a repo's gate asked people to agree to; written when the first one agrees to it."""

    __tablename__ = "gate_terms"

    repo_id: Mapped[str] = mapped_column(ForeignKey("repos.id", ondelete="CASCADE"), primary_key=True)
    hash: Mapped[str] = mapped_column(primary_key=True)
    """``GateForm.hash``."""
    version: Mapped[int]
    """1, 2, 3 … in the order in which they were first agreed to."""
    form: Mapped[dict[str, Any]]
    """The text and the fields as they were shown."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class AccessRequest(Base):
    """A user and a gated repo: asked, let in, or turned away. One row for each pair; the audit keeps what was before."""

    __tablename__ = "access_requests"
    __table_args__ = (
        UniqueConstraint("repo_id", "user_id", name="uq_access_requests_repo_user"),
        Index("ix_access_requests_repo_status", "repo_id", "status"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    repo_id: Mapped[str] = mapped_column(ForeignKey("repos.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    status: Mapped[str]
    """`pending`, `accepted` or `rejected`."""
    asked_at: Mapped[datetime] = mapped_column(default=utc_naive)
    answers: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """To the fields of the form; None: let in without having asked."""
    terms: Mapped[str] = mapped_column(default="")
    """``GateTerms.hash`` of what was agreed to; empty: let in without having agreed."""
    agreed_at: Mapped[datetime | None] = mapped_column(default=None)
    expires_at: Mapped[datetime | None] = mapped_column(default=None)
    """From when on an accepted one opens nothing any more."""
    decided_at: Mapped[datetime | None] = mapped_column(default=None)
    decided_by: Mapped[str] = mapped_column(default="")
    """Empty: the gate lets everybody in who agrees."""
    reason: Mapped[str] = mapped_column(default="")
    """Of a rejection; the user sees it."""
