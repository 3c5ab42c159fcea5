"""Tables of people, names and keys."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from fust.core.clock import utc_naive
from fust.store.database import Base


class User(Base):
    """A person or a program that acts."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    full_name: Mapped[str] = mapped_column(default="")
    is_admin: Mapped[bool] = mapped_column(default=False)
    suspended: Mapped[bool] = mapped_column(default=False)
    """Keys and sessions are refused; what the user made stays."""
    password_hash: Mapped[str | None] = mapped_column(default=None)
    language: Mapped[str | None] = mapped_column(default=None)
    theme: Mapped[str | None] = mapped_column(default=None)
    """How the page looks for them; none: as each browser has it."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class Namespace(Base):
    """The first half of a repo id: a user's own, or an organisation's."""

    __tablename__ = "namespaces"

    key: Mapped[str] = mapped_column(primary_key=True)
    """The name in lower case: names that differ by case only are one."""
    name: Mapped[str]
    kind: Mapped[str]
    """`user` or `org`."""
    display_name: Mapped[str] = mapped_column(default="")
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    """The user whose own name it is; none for an organisation, which has members."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class Member(Base):
    """A user's role in an organisation."""

    __tablename__ = "members"

    organisation: Mapped[str] = mapped_column(
        ForeignKey("namespaces.key", ondelete="CASCADE"), primary_key=True
    )
    user_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    role: Mapped[str]
    """`read`, `write`, `admin` or `owner`; what each may is in rights.py."""
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)


class Token(Base):
    """A key. The secret is shown once; its SHA-256 is kept (it has 190 bits, so a slow hash would add nothing)."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    scope: Mapped[str]
    """`read`, `write` or `admin`; each holds those before it."""
    repos: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True), default=None)
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True), default=None)
    """Patterns of what a fine-grained key opens; none in both: a key without limits of its own."""
    prefix: Mapped[str]
    secret_hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    last_used_at: Mapped[datetime | None] = mapped_column(default=None)
    expires_at: Mapped[datetime | None] = mapped_column(default=None)


class BrowserSession(Base):
    """A signed-in browser; the cookie holds the secret, the row its hash."""

    __tablename__ = "browser_sessions"

    secret_hash: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    """By which its owner names it; says nothing of the secret."""
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    how: Mapped[str] = mapped_column(default="")
    """`password`, `link`, `token`, `oidc`, `invitation`; empty for one of an older version."""
    address: Mapped[str] = mapped_column(default="")
    agent: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    last_used_at: Mapped[datetime | None] = mapped_column(default=None)
    expires_at: Mapped[datetime]


class SignInCode(Base):
    """A link's code: one use, ten minutes."""

    __tablename__ = "sign_in_codes"

    code_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    expires_at: Mapped[datetime]


class FailedSignIn(Base):
    """A wrong password of the last minute."""

    __tablename__ = "failed_sign_ins"

    id: Mapped[int] = mapped_column(primary_key=True)
    place: Mapped[str] = mapped_column(index=True)
    """An IPv4 address or an IPv6 network."""
    name_mark: Mapped[str]
    """32 bits of a hash of what was typed as a name."""
    at: Mapped[datetime]
