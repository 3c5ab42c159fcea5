"""Tables of the model surface: what clients asked to be kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from fust.core.clock import utc_naive
from fust.store.database import Base


class ResponseRow(Base):
    """A response that its client asked to keep; it belongs to one user and goes with them."""

    __tablename__ = "responses"
    __table_args__ = (Index("ix_responses_user_id_created_at", "user_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    token_id: Mapped[str | None] = mapped_column(default=None)
    """The key that asked; a fine-grained one finds only its own."""
    previous: Mapped[str | None] = mapped_column(default=None)
    """The response before it in the conversation."""
    body: Mapped[dict[str, Any]]
    """As it was answered."""
    items: Mapped[dict[str, Any]]
    """`{"input": […]}`: what was said to the model, without what came before."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class FileRow(Base):
    """A file that a client uploaded, or that a batch wrote; its bytes are `files/<id>` in the home."""

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_user_id_created_at", "user_id", "created_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    token_id: Mapped[str | None] = mapped_column(default=None)
    """The key that asked; a fine-grained one finds only its own."""
    filename: Mapped[str]
    purpose: Mapped[str]
    """`batch` or `batch_output`."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    expires_at: Mapped[datetime | None] = mapped_column(default=None)


class BatchRow(Base):
    """Many requests in a file, answered when nobody else wants the models."""

    __tablename__ = "batches"
    __table_args__ = (
        Index("ix_batches_user_id_created_at", "user_id", "created_at"),
        Index("ix_batches_state_created_at", "state", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    token_id: Mapped[str | None] = mapped_column(default=None)
    """The key that asked; a fine-grained one finds only its own."""
    asked: Mapped[dict[str, Any]]
    """The rights that its request had (`accounts.rights.Asked`)."""
    endpoint: Mapped[str]
    state: Mapped[str]
    """In OpenAI's words: validating, in_progress, finalizing, completed, failed, cancelling, cancelled, expired."""
    input_file_id: Mapped[str]
    output_file_id: Mapped[str]
    """Answers are appended to this file from the first on; it gets its row when the batch ends."""
    error_file_id: Mapped[str]
    kept_s: Mapped[int | None] = mapped_column(default=None)
    """How long the output is kept."""
    labels: Mapped[dict[str, Any]]
    """`metadata` as the client gave it."""
    errors: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    """`{"data": […]}`: why the input was not taken."""
    total: Mapped[int] = mapped_column(default=0)
    completed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    begun_at: Mapped[datetime | None] = mapped_column(default=None)
    cancelling_at: Mapped[datetime | None] = mapped_column(default=None)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
