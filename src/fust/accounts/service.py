"""Who is calling: tokens and cookies become identities, remembered for a second; and the checks on them."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from fust.accounts.audit import Value, note_action
from fust.accounts.models import BrowserSession, Token, User
from fust.accounts.organisations import Organisations, fine_grained
from fust.accounts.rights import (
    ANONYMOUS,
    LEAST_ROLE,
    SCOPES,
    Action,
    Asked,
    Identity,
    Scope,
    make_grants,
    may,
    role_in,
)
from fust.accounts.sessions import Sessions, check_same_origin, cookie_in, suspended
from fust.accounts.tokens import Tokens, digest_of, token_in
from fust.accounts.users import Users
from fust.core.clock import utc_naive
from fust.core.errors import Denied, FustError, Unauthenticated
from fust.core.files import write_atomic
from fust.core.settings import Settings
from fust.store.database import Database

log = logging.getLogger(__name__)

CACHE_S = 1.0  # a revoked key, a lost role is refused by every process within this time


class Accounts:
    """Users, organisations, keys, sessions and rights of one home."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._cache: dict[str, tuple[float, Identity]] = {}
        self._cache_lock = threading.Lock()
        self._signing_key: bytes | None = None
        self.generation = 0
        """Grows with every change made by this process; caches above are void when it does."""
        self.users = Users(database, self.forget)
        self.organisations = Organisations(database, self.forget)
        self.tokens = Tokens(database, self.forget)
        self.sessions = Sessions(database, self.users, self._token_identity, self.forget)

    # Identity

    def identify(self, headers: Mapping[str, str], *, method: str = "GET") -> Identity:
        """Returns who calls, by bearer token, `x-api-key`, basic password (git) or session cookie.

        Raises:
            Unauthenticated: a token that is not valid; no token at all is nobody, not an error.
            Denied: a browser session used from another site for a method that changes something.

        """
        secret = token_in(headers)
        if secret:
            identity = self._cached("T" + digest_of(secret), self._token_identity)
            if identity is None:
                raise _bad_token()
            return identity
        cookie = cookie_in(headers)
        if cookie:
            identity = self._cached("s" + digest_of(cookie), self._session_identity)
            if identity is not None:
                check_same_origin(self._settings, headers, method)
                return identity
        return ANONYMOUS

    def cached_identity(self, headers: Mapping[str, str]) -> Identity | None:
        """Returns the caller when it was looked up within the last second, else None; never touches the database."""
        secret = token_in(headers)
        if not secret:
            return None
        entry = self._cache.get("T" + digest_of(secret))
        return entry[1] if entry and time.monotonic() < entry[0] else None

    def by_key(self, key: str) -> Identity:
        """Returns the caller whom ``Identity.key`` names, as it is now (at most a second old); empty: nobody.

        Raises:
            Unauthenticated: the token or the session has ended meanwhile.

        """
        if not key:
            return ANONYMOUS
        kind, _, name = key.partition(":")
        load = self._token_identity_by_id if kind == "t" else self._session_identity
        identity = self._cached(kind + name, load)
        if identity is None:
            raise _bad_token()
        return identity

    def of_run(self, user_name: str, asked: Asked) -> Identity:
        """Returns the user for whom a run works, as it is now, with no more rights than its request had.

        A run outlives the token or the session that asked for it, not the user's own rights.

        Raises:
            Denied: the user is gone or suspended.

        """
        with self._database.read() as session:
            user = session.scalars(select(User).where(User.name == user_name)).first()
            if user is None or user.suspended:
                raise suspended(user_name)
            roles = self.organisations.roles_of(session, user.id)
        is_admin = asked.by_admin and user.is_admin
        scopes = SCOPES["admin" if is_admin else "write"]
        grants = make_grants(asked.repos, asked.models)
        return Identity(user.name, is_admin and grants is None, scopes, None, "token", roles, grants)

    def fresh(self, identity: Identity) -> Identity:
        """Returns a caller as it is now: asked again before a change whose request took long to arrive.

        Raises:
            Unauthenticated: its token or session has ended meanwhile.

        """
        return self.by_key(identity.key) if identity.key else identity

    def _cached(self, name: str, load: Callable[[str], Identity | None]) -> Identity | None:
        moment = time.monotonic()
        generation = self.generation
        with self._cache_lock:
            entry = self._cache.get(name)
        if entry and moment < entry[0]:
            return entry[1]
        identity = load(name[1:])
        with self._cache_lock:
            if len(self._cache) > 10_000:
                self._cache.clear()
            if identity is None or generation != self.generation:
                self._cache.pop(name, None)
            else:
                self._cache[name] = (moment + CACHE_S, identity)
        return identity

    def forget(self) -> None:
        """Drops what is remembered of keys and roles, so that a change holds at once in this process."""
        with self._cache_lock:
            self.generation += 1
            self._cache.clear()

    def _token_identity(self, digest: str) -> Identity | None:
        with self._database.read() as session:
            token = session.scalars(select(Token).where(Token.secret_hash == digest)).first()
            identity = self._of_token(session, token) if token else None
        if token is not None and identity is not None:
            self._note_use(token)
        return identity

    def _token_identity_by_id(self, token_id: str) -> Identity | None:
        with self._database.read() as session:
            token = session.get(Token, token_id)
            return self._of_token(session, token) if token else None

    def _of_token(self, session: Session, token: Token) -> Identity | None:
        user = session.get(User, token.user_id)
        over = token.expires_at is not None and token.expires_at <= utc_naive()
        if user is None or user.suspended or over:
            return None
        scopes = SCOPES[token.scope]
        grants = make_grants(token.repos, token.models)
        return Identity(
            user.name,
            user.is_admin and "admin" in scopes and grants is None,
            scopes,
            token.id,
            "token",
            self.organisations.roles_of(session, user.id),
            grants,
        )

    def _note_use(self, token: Token) -> None:
        moment = utc_naive()
        if token.last_used_at is None or moment - token.last_used_at > timedelta(minutes=1):
            try:
                with self._database.write() as session:
                    session.execute(update(Token).where(Token.id == token.id).values(last_used_at=moment))
            except FustError as error:
                # A full disk must not keep anyone from reading what is there.
                log.warning("the use of a key was not noted", extra={"reason": error.message()})

    def _session_identity(self, digest: str) -> Identity | None:
        with self._database.read() as session:
            row = session.get(BrowserSession, digest)
            user = session.get(User, row.user_id) if row else None
            if row is None or row.expires_at <= utc_naive() or user is None or user.suspended:
                return None
            roles = self.organisations.roles_of(session, user.id)
        self.sessions.note_use(row)
        scopes = SCOPES["admin"] if user.is_admin else SCOPES["write"]
        return Identity(user.name, user.is_admin, scopes, None, "session", roles, session_id=digest)

    # Checks

    def require(self, identity: Identity, scope: Scope = "read") -> None:
        """Raises Unauthenticated when nobody calls, Denied when the key lacks the scope."""
        if identity.user is None:
            raise Unauthenticated(
                "This needs a key.",
                hint="Send `Authorization: Bearer …`; `fust tokens new` makes one, `fust open` signs a browser in.",
            )
        if scope not in identity.scopes:
            raise Denied(
                "The key has not the scope {scope!r}.",
                hint="Make one that has: `fust tokens new --scope {scope}`.",
                scope=scope,
            )

    def require_whole(self, identity: Identity, scope: Scope = "read") -> None:
        """As ``require``, for what belongs to the account itself: a fine-grained key is Denied."""
        self.require(identity, scope)
        if identity.grants is not None:
            raise fine_grained()

    def check_admin(self, identity: Identity) -> None:
        """Raises unless an administrator calls."""
        self.require(identity, "read")
        if not identity.is_admin:
            raise Denied("Only an administrator may do this.", hint="Ask one, or use an administrator's key.")

    def check(self, identity: Identity, action: Action, repo_id: str, repo_type: str = "model") -> None:
        """Raises unless the caller may do something with a repo (``rights.may``), and says what it lacks."""
        self.require(identity, "read" if action == "repo.read" else "write")
        if may(identity, action, repo_id, repo_type):
            return
        self.check_made_for(identity, repo_id, repo_type)
        owner = repo_id.partition("/")[0]
        role = role_in(identity, owner)
        if role is None:
            raise Denied(
                "{user} may not write to {owner}.",
                hint="Use a name of your own, or ask the owner of {owner}.",
                user=identity.user,
                owner=owner,
            )
        raise Denied(
            "This needs the role {needed} in {name}; {user} has {role}.",
            hint="Ask an owner of {name}.",
            needed=LEAST_ROLE[action],
            name=owner,
            user=identity.user,
            role=role,
        )

    def check_made_for(self, identity: Identity, repo_id: str, repo_type: str = "model") -> None:
        """Raises Denied when a fine-grained key does not name the repo; any other key passes."""
        if identity.grants is not None and not identity.grants.covers_repo(repo_type, repo_id):
            raise Denied(
                "This key was not made for {repo_id}.",
                hint="Use one that names it, or one without limits.",
                code="fine_grained",
                repo_id=repo_id,
            )

    # Signing

    def note(self, identity: Identity, action: str, subject: str, **detail: Value) -> None:
        """Adds an entry to the audit, for what has no transaction of its own."""
        with self._database.write() as session:
            note_action(session, identity, action, subject, **detail)

    def signing_key(self) -> bytes:
        """Returns the 32 bytes that sign short-lived tokens; made at first use, kept beside the database (0600)."""
        if self._signing_key is None:
            path = self._settings.home / "signing-key"
            if not path.exists():
                write_atomic(path, secrets.token_bytes(32), mode=0o600)
            self._signing_key = path.read_bytes()
        return self._signing_key


def _bad_token() -> Unauthenticated:
    return Unauthenticated(
        "Invalid credentials in Authorization header",
        hint="Make a new token with `fust tokens new` and use that one.",
    )
