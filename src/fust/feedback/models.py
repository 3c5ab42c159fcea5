"""Tables of what people say to models: conversations, their turns, and who wants none kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from fust.core.clock import utc_naive
from fust.feedback.types import Role, State
from fust.store.database import Base


class ChatRow(Base):
    """A conversation; it belongs to one user and goes with them."""

    __tablename__ = "chats"
    __table_args__ = (Index("ix_chats_user_id_updated_at", "user_id", "updated_at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str]
    folded: Mapped[str]
    """The title as search compares it."""
    settings: Mapped[dict[str, Any]]
    """`types.ChatSettings`."""
    leaf: Mapped[str | None] = mapped_column(default=None)
    """The turn at the end of the branch that is shown."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    updated_at: Mapped[datetime] = mapped_column(default=utc_naive)


class TurnRow(Base):
    """One message. Turns form a tree: two with the same parent are two versions of one place."""

    __tablename__ = "chat_turns"

    chat_id: Mapped[str] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    """Made by the client, so that a request sent twice keeps one turn."""
    parent: Mapped[str | None] = mapped_column(default=None)
    role: Mapped[Role] = mapped_column(String)
    text: Mapped[str]
    folded: Mapped[str]
    """Text and names of files as search compares them."""
    model: Mapped[str]
    state: Mapped[State] = mapped_column(String)
    details: Mapped[dict[str, Any]]
    """`types.TurnDetails`: thinking, files, figures, trouble."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    updated_at: Mapped[datetime] = mapped_column(default=utc_naive)


class ChatChoice(Base):
    """What a user decided about their history; no row means that it is kept."""

    __tablename__ = "chat_choices"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    keep: Mapped[bool]
