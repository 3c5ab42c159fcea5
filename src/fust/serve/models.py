"""Tables of deployments and their adapters: what is to be served, whether or not it runs at the moment."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
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


class AdapterRow(Base):
    """An adapter beside a deployment: it answers as `deployment:name`."""

    __tablename__ = "deployment_adapters"
    __table_args__ = (
        UniqueConstraint("deployment_id", "name", name="uq_deployment_adapters_deployment_id_name"),
        Index("ix_deployment_adapters_repo_id", "repo_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """A new one for each commit that is served: it names the file that engines read."""
    deployment_id: Mapped[str] = mapped_column(ForeignKey("deployments.id", ondelete="CASCADE"))
    name: Mapped[str]
    repo_id: Mapped[str]
    file: Mapped[str]
    """`adapter_model.safetensors`, or the path of a GGUF file."""
    revision: Mapped[str]
    """Commit that is served."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    by_request: Mapped[bool] = mapped_column(default=False)
    """Attached by a request that named it, not by hand."""
    created_by: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
