"""Tables that several rooms read."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, false
from sqlalchemy.orm import Mapped, mapped_column

from fust.core.clock import utc_naive
from fust.store.database import Base


class UsageRow(Base):
    """One request to the model surface: who asked which model, and what it took. Never what was said."""

    __tablename__ = "usage"
    __table_args__ = (
        Index("ix_usage_user_name_created_at", "user_name", "created_at"),
        Index("ix_usage_deployment_id_created_at", "deployment_id", "created_at"),
        Index("ix_usage_created_at", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """Made by the gateway: writing a row twice keeps one."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    request_id: Mapped[str] = mapped_column(default="")
    user_name: Mapped[str] = mapped_column(default="")
    token_id: Mapped[str | None] = mapped_column(default=None)
    endpoint: Mapped[str]
    """`chat`, `completions` or `embeddings`."""
    model: Mapped[str]
    """The name under which the client asked."""
    deployment_id: Mapped[str] = mapped_column(default="")
    repo_id: Mapped[str] = mapped_column(default="")
    revision: Mapped[str] = mapped_column(default="")
    stream: Mapped[bool] = mapped_column(default=False)
    status: Mapped[int]
    """HTTP status; 499 when the client left before the end."""
    error_code: Mapped[str] = mapped_column(default="")
    prompt_tokens: Mapped[int] = mapped_column(default=0)
    cached_tokens: Mapped[int] = mapped_column(default=0)
    completion_tokens: Mapped[int] = mapped_column(default=0)
    estimated: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether its tokens were counted by the length of the text: an API elsewhere did not tell them."""
    ttft_ms: Mapped[float | None] = mapped_column(default=None)
    """Until the first token of a stream."""
    duration_ms: Mapped[float] = mapped_column(default=0.0)


class NoticeMark(Base):
    """Up to when a user has seen the news of ended runs."""

    __tablename__ = "notice_marks"

    user_name: Mapped[str] = mapped_column(primary_key=True)
    read_at: Mapped[datetime]
