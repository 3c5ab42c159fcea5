"""Table of deployments: what is to be served, whether or not it runs at the moment."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from fust.core.clock import utc_naive
from fust.store.database import Base


class DeploymentRow(Base):
    """A model file that answers under a name."""

    __tablename__ = "deployments"
    __table_args__ = (Index("ix_deployments_repo_id", "repo_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    """`owner/name`, or `owner/name:FILE` when the caller picked a file."""
    alias: Mapped[str | None] = mapped_column(default=None, unique=True)
    repo_id: Mapped[str]
    """Of an engine without a file its own name, when that names an owner; else empty."""
    file: Mapped[str]
    """Path in the repo; of a split model the first part."""
    revision: Mapped[str]
    """Commit that is served."""
    pinned: Mapped[bool] = mapped_column(default=False)
    engine: Mapped[str] = mapped_column(default="llamacpp")
    size_bytes: Mapped[int] = mapped_column(default=0)
    options: Mapped[str] = mapped_column(default="", server_default="")
    """What an engine without a file was told, as JSON."""
    sealed: Mapped[str] = mapped_column(default="", server_default="")
    """The key that such an engine was given, sealed (`accounts.seal`)."""
    reason: Mapped[str] = mapped_column(default="")
    """Why this file, as JSON of a `Note`."""
    created_by: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    last_used_at: Mapped[datetime | None] = mapped_column(default=None)
