"""The tables of ways in: invitations, and accounts at a sign-in provider."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from fust.core.clock import utc_naive
from fust.store.database import Base


class Invitation(Base):
    """A link that lets one person in, once. Only the hash of its code is kept."""

    __tablename__ = "invitations"

    id: Mapped[str] = mapped_column(primary_key=True)
    code_hash: Mapped[str] = mapped_column(unique=True)
    organisation: Mapped[str | None] = mapped_column(ForeignKey("namespaces.key", ondelete="CASCADE"))
    """Which the person joins (in lower case); none: this Fust only."""
    role: Mapped[str | None]
    new_user: Mapped[bool]
    """Whether whoever has no account may make one: only where an administrator invited."""
    note: Mapped[str]
    created_by: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None] = mapped_column(default=None)
    used_by: Mapped[str] = mapped_column(default="")


class ProviderAccount(Base):
    """An account at a sign-in provider (OIDC Core, 5.7: issuer and subject together are the only sure name)."""

    __tablename__ = "provider_accounts"
    __table_args__ = (Index("ix_provider_accounts_user_id", "user_id"),)

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    email: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class UsedState(Base):
    """A sign-in at a provider that came back already: its state is good once."""

    __tablename__ = "used_sign_in_states"

    state_hash: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]
