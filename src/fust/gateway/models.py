"""Tables of the model surface: what clients asked to be kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
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
