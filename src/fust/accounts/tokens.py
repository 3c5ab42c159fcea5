"""Tokens: the keys of users, their scopes, limits and ends."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from fust.accounts import passwords
from fust.accounts.audit import note_action
from fust.accounts.models import Token, User
from fust.accounts.names import user_row
from fust.accounts.rights import SYSTEM, Identity, check_scope, make_grants
from fust.core.clock import iso, utc_naive
from fust.core.errors import Conflict, Denied, InvalidInput, NotFound
from fust.core.ids import new_id
from fust.store.database import Database

_SECRET_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
_CHOSEN = re.compile(r"[A-Za-z0-9_-]{24,200}")
PREFIX_LENGTH = 13


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made; ``secret`` is not kept anywhere."""

    row: Token
    secret: str

    @property
    def id(self) -> str:
        """Of the row."""
        return self.row.id


def digest_of(secret: str) -> str:
    """Returns what is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def token_in(headers: Mapping[str, str]) -> str | None:
    """Returns the token of a request: bearer, `x-api-key`, or the password of a basic login (git)."""
    authorization = headers.get("authorization", "")
    kind, _, rest = authorization.partition(" ")
    if kind.lower() == "bearer":
        return rest.strip() or None
    if kind.lower() == "basic":
        return passwords.password_of_basic(rest)
    return headers.get("x-api-key") or None


class Tokens:
    """The tokens of a home."""

    def __init__(self, database: Database, changed: Callable[[], None]) -> None:
        self._database = database
        self._changed = changed

    def create(
        self,
        user_name: str,
        name: str,
        scope: str,
        *,
        repos: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        secret: str = "",
        by: Identity = SYSTEM,
    ) -> NewToken:
        """Makes a token; its secret is in the answer and nowhere else.

        Args:
            user_name: whose it is; its rights are this user's, at most.
            name: what it is for.
            scope: `read`, `write` or `admin`.
            repos: patterns of the repos that a fine-grained one opens (``Grants``).
            models: patterns of the models that it opens; none in both: everything that the user may.
            expires_at: UTC, naive; from then on it is refused.
            secret: one that was chosen (24 characters or more); empty: a random one.
            by: for the audit.

        Raises:
            InvalidInput: a scope that does not exist, an empty or long name, a bad pattern, secret or time.
            Denied: more than the user itself may.
            Conflict: the chosen secret is taken.

        """
        wanted = check_scope(scope)
        grants = make_grants(repos, models)
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise InvalidInput("A token needs a name of 1 to 100 characters.", hint="Say what it is for.")
        if grants is not None and wanted == "admin":
            raise InvalidInput(
                "A key for certain repos or models has the scope read or write.", hint="Use write."
            )
        if expires_at is not None and expires_at <= utc_naive():
            raise InvalidInput("The key would have ended already.", hint="Choose a time to come.")
        secret = (
            check_chosen(secret)
            if secret
            else "fust_" + "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(32))
        )
        row = Token(
            id=new_id("t"),
            name=name,
            scope=wanted,
            repos=[*grants.repos] if grants else None,
            models=[*grants.models] if grants else None,
            prefix=secret[:PREFIX_LENGTH] if secret.startswith("fust_") else secret[:4],
            secret_hash=digest_of(secret),
            expires_at=expires_at,
        )
        with self._database.write() as session:
            user = user_row(session, user_name)
            if wanted == "admin" and not user.is_admin:
                raise Denied(
                    "Only an administrator can have a token with the scope admin.", hint="Use write."
                )
            if session.scalars(select(Token.id).where(Token.secret_hash == row.secret_hash)).first():
                raise Conflict("The chosen value is a key already.", hint="Choose another.")
            row.user_id = user.id
            session.add(row)
            note_action(
                session,
                by,
                "token.create",
                f"token:{row.id}",
                user=user.name,
                name=name,
                scope=wanted,
                repos=" ".join(row.repos) if row.repos else None,
                models=" ".join(row.models) if row.models else None,
                expires_at=iso(expires_at),
            )
        return NewToken(row, secret)

    def list(self, user_name: str) -> list[Token]:
        """Returns a user's tokens, newest first; never their secrets."""
        with self._database.read() as session:
            query = select(Token).join(User, User.id == Token.user_id).where(User.name == user_name)
            return [*session.scalars(query.order_by(Token.created_at.desc(), Token.id.desc()))]

    def find(self, token_id: str | None) -> Token | None:
        """Returns a token's row, or None."""
        if token_id is None:
            return None
        with self._database.read() as session:
            return session.get(Token, token_id)

    def revoke(self, identity: Identity, token_id: str) -> None:
        """Removes a token of the caller's own, or anyone's when an administrator asks.

        Raises:
            NotFound: no such token that the caller may see.

        """
        with self._database.write() as session:
            token = session.get(Token, token_id)
            user = token and session.get(User, token.user_id)
            if token is None or user is None or not (identity.is_admin or user.name == identity.user):
                raise NotFound(
                    "There is no token {id!r}.", hint="`fust tokens` lists yours.", id=token_id[:50]
                )
            session.delete(token)
            note_action(
                session, identity, "token.revoke", f"token:{token.id}", user=user.name, name=token.name
            )
        self._changed()


def check_chosen(secret: str) -> str:
    """Returns a secret that somebody chose, or raises InvalidInput when it is too short to be one."""
    if not _CHOSEN.fullmatch(secret):
        raise InvalidInput(
            "A chosen key has 24 to 200 letters, digits, '_' or '-'.",
            hint='`python -c "import secrets; print(secrets.token_urlsafe(32))"` makes one.',
        )
    return secret
