"""Names of users and organisations: one space for both, as on the Hugging Face Hub, without those that routes need."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from fust.accounts.models import Namespace, User
from fust.core.errors import Conflict, InvalidInput, NotFound
from fust.core.ids import check_name

_RESERVED = frozenset(
    [
        "about",
        "api",
        "assets",
        "audit",
        "buckets",
        "chat",
        "collections",
        "data",
        "datasets",
        "docs",
        "deployments",
        "device",
        "evaluate",
        "fust",
        "health",
        "healthz",
        "invitations",
        "invite",
        "jobs",
        "join",
        "keys",
        "login",
        "logout",
        "metrics",
        "models",
        "new",
        "none",
        "notifications",
        "operate",
        "organisations",
        "organizations",
        "orgs",
        "people",
        "runs",
        "settings",
        "spaces",
        "static",
        "tokens",
        "tune",
        "users",
        "v1",
        "whoami",
        "xet",
    ]
)


def check_free(session: Session, name: str, what: str) -> None:
    """Raises unless a user or an organisation may take the name.

    Raises:
        InvalidInput: not a name, or a reserved one.
        Conflict: it is taken, in whatever case.

    """
    check_name(name, what)
    if name.lower() in _RESERVED:
        raise InvalidInput("The name {name!r} is reserved.", hint="Choose another.", name=name)
    if session.get(Namespace, name.lower()) is not None:
        raise Conflict("The name {name!r} is taken.", hint="Choose another.", name=name)


def user_row(session: Session, name: str) -> User:
    """Returns a user's row by name in any case, or raises NotFound."""
    row = session.get(Namespace, name.lower())
    user = session.get(User, row.owner_id) if row is not None and row.owner_id else None
    if user is None:
        raise NotFound("There is no user {name!r}.", hint="`fust users` lists them.", name=name[:100])
    return user


def oldest_admin(session: Session) -> User | None:
    """Returns the administrator who was first, if there is one that may act."""
    query = select(User).where(User.is_admin, User.suspended.is_(False)).order_by(User.created_at)
    return session.scalars(query).first()


def check_shown_name(value: str) -> str:
    """Returns a display name without the spaces around it.

    Raises:
        InvalidInput: longer than 200 characters, or not on one line.
    """
    if len(value) > 200 or not value.isprintable():
        raise InvalidInput(
            "{value!r} cannot be shown as a name.",
            hint="Use at most 200 characters on one line.",
            value=value[:100],
        )
    return value.strip()
