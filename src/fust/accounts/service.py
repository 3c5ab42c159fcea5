"""Who is calling, and what they may do."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.cookies import CookieError, SimpleCookie
from typing import Literal
from urllib.parse import urlsplit

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from fust.accounts import passwords
from fust.accounts.models import AuditRow, BrowserSession, Namespace, SignInCode, Token, User
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, Denied, FustError, InvalidInput, NotFound, Unauthenticated
from fust.core.files import write_atomic
from fust.core.ids import check_name, new_id
from fust.core.settings import Settings
from fust.store.database import Database

log = logging.getLogger(__name__)

Scope = Literal["read", "write", "admin"]
SCOPES: dict[str, frozenset[str]] = {
    "read": frozenset({"read"}),
    "write": frozenset({"read", "write"}),
    "admin": frozenset({"read", "write", "admin"}),
}
COOKIE = "fust_session"
SESSION_LIFE = timedelta(days=30)
CODE_LIFE = timedelta(minutes=10)
_CACHE_S = 1.0  # a revoked key is refused by every process within this time
_RESERVED = frozenset(
    [
        "api",
        "v1",
        "fust",
        "xet",
        "datasets",
        "models",
        "spaces",
        "assets",
        "static",
        "chat",
        "jobs",
        "keys",
        "settings",
        "runs",
        "healthz",
        "metrics",
        "docs",
        "collections",
        "new",
        "login",
        "join",
        "about",
        "people",
        "audit",
        "operate",
        "tune",
        "evaluate",
        "data",
        "none",
    ]
)


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: a user through a token or a browser session, or nobody."""

    user: str | None
    is_admin: bool
    scopes: frozenset[str]
    token_id: str | None
    via: Literal["anonymous", "token", "session"]


ANONYMOUS = Identity(None, False, frozenset(), None, "anonymous")
SYSTEM = Identity("fust", True, SCOPES["admin"], None, "session")


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made; ``secret`` is not kept anywhere."""

    id: str
    name: str
    scope: str
    secret: str


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Accounts:
    """Users, names, keys, sessions and rights of one home."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._cache: dict[str, tuple[float, Identity]] = {}
        self._cache_lock = threading.Lock()
        self._signing_key: bytes | None = None
        self._limiter = passwords.Limiter()

    # Identity

    def identify(self, headers: Mapping[str, str], *, method: str = "GET") -> Identity:
        """Returns who calls, by bearer token, `x-api-key`, basic password (git) or session cookie.

        Raises:
            Unauthenticated: a token that is not valid; no token at all is nobody, not an error.
            Denied: a browser session used from another site for a method that changes something.

        """
        secret = token_in(headers)
        if secret:
            identity = self._cached(_digest(secret), self._token_identity)
            if identity is None:
                raise Unauthenticated(
                    "Invalid credentials in Authorization header",
                    hint="Make a new token with `fust tokens new` and use that one.",
                )
            return identity
        cookie = _cookie(headers)
        if cookie:
            identity = self._cached(_digest(cookie), self._session_identity)
            if identity is not None:
                self._check_same_origin(headers, method)
                return identity
        return ANONYMOUS

    def _cached(self, digest: str, load: Callable[[str], Identity | None]) -> Identity | None:
        moment = time.monotonic()
        with self._cache_lock:
            entry = self._cache.get(digest)
        if entry and moment - entry[0] < _CACHE_S:
            return entry[1]
        identity = load(digest)
        with self._cache_lock:
            if len(self._cache) > 10_000:
                self._cache.clear()
            if identity is None:
                self._cache.pop(digest, None)
            else:
                self._cache[digest] = (moment, identity)
        return identity

    def cached_identity(self, headers: Mapping[str, str]) -> Identity | None:
        """Returns the caller when it was looked up within the last second, else None; never touches the database."""
        secret = token_in(headers)
        if not secret:
            return None
        entry = self._cache.get(_digest(secret))
        return entry[1] if entry and time.monotonic() - entry[0] < _CACHE_S else None

    def forget(self) -> None:
        """Drops what is remembered of keys, so that a change holds at once in this process."""
        with self._cache_lock:
            self._cache.clear()

    def _token_identity(self, digest: str) -> Identity | None:
        with self._database.read() as session:
            query = (
                select(Token, User).join(User, User.id == Token.user_id).where(Token.secret_hash == digest)
            )
            found = session.execute(query).first()
        if found is None:
            return None
        token, user = found
        self._note_use(token)
        scopes = SCOPES[token.scope]
        return Identity(user.name, user.is_admin and "admin" in scopes, scopes, token.id, "token")

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
            query = (
                select(User)
                .join(BrowserSession, BrowserSession.user_id == User.id)
                .where(BrowserSession.secret_hash == digest, BrowserSession.expires_at > utc_naive())
            )
            user = session.scalars(query).first()
        if user is None:
            return None
        scopes = SCOPES["admin"] if user.is_admin else SCOPES["write"]
        return Identity(user.name, user.is_admin, scopes, None, "session")

    def _check_same_origin(self, headers: Mapping[str, str], method: str) -> None:
        if method in ("GET", "HEAD", "OPTIONS"):
            return
        site = headers.get("sec-fetch-site")
        if site in ("same-origin", "none"):
            return
        origin = headers.get("origin")
        public = urlsplit(self._settings.public_url)
        hosts = {public.netloc, headers.get("host", "")}
        if site is None and origin and urlsplit(origin).netloc in hosts:
            return
        raise Denied(
            "A request that changes something came from another site and was refused.",
            hint="Open the page at {url} and try again there.",
            url=self._settings.public_url,
        )

    # Rights

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

    def check_admin(self, identity: Identity) -> None:
        """Raises unless an administrator calls."""
        self.require(identity, "read")
        if not identity.is_admin:
            raise Denied("Only an administrator may do this.", hint="Ask one, or use an administrator's key.")

    def may_read(self, identity: Identity, owner: str, *, private: bool) -> bool:
        """Returns whether the caller may see and read a repo of ``owner``."""
        return not private or self.owns(identity, owner)

    def owns(self, identity: Identity, owner: str) -> bool:
        """Returns whether the caller acts for ``owner``: its user, its organisation's owner, or an administrator."""
        if identity.is_admin:
            return True
        if identity.user is None:
            return False
        if identity.user.lower() == owner.lower():
            return True
        with self._database.read() as session:
            namespace = session.get(Namespace, owner.lower())
            user = namespace and session.get(User, namespace.owner_id)
        return user is not None and user.name == identity.user

    def check_write(self, identity: Identity, owner: str) -> None:
        """Raises unless the caller may change repos of ``owner``."""
        self.require(identity, "write")
        if not self.owns(identity, owner):
            raise Denied(
                "{user} may not write to {owner}.",
                hint="Use a name of your own, or ask the owner of {owner}.",
                user=identity.user,
                owner=owner,
            )

    # Names

    def namespaces_of(self, identity: Identity) -> list[Namespace]:
        """Returns the names under which the caller may keep repos, its own first."""
        if identity.user is None:
            return []
        with self._database.read() as session:
            user = session.scalars(select(User).where(User.name == identity.user)).first()
            query = select(Namespace).order_by(Namespace.kind.desc(), Namespace.name)
            if not identity.is_admin:
                query = query.where(Namespace.owner_id == (user.id if user else ""))
            return list(session.scalars(query))

    def ensure_namespace(self, owner: str, identity: Identity) -> str:
        """Returns the name as it is spelled, making an organisation of it when an administrator asks for a new one.

        Raises:
            NotFound: no such name, and the caller may not make it.

        """
        check_name(owner, "owner")
        with self._database.read() as session:
            found = session.get(Namespace, owner.lower())
        if found is not None:
            return found.name
        if not identity.is_admin:
            raise NotFound(
                "There is no user or organisation {owner!r}.",
                hint="Use your own name, or ask an administrator to make it.",
                owner=owner,
            )
        if identity is not SYSTEM:
            _check_free(owner)
        with self._database.write() as session:
            holder = session.scalars(select(User).where(User.name == identity.user)).first()
            holder = (
                holder or session.scalars(select(User).where(User.is_admin).order_by(User.created_at)).first()
            )
            if holder is None:
                raise NotFound("There is no administrator yet.", hint="Start the server once: `fust up`.")
            session.add(Namespace(key=owner.lower(), name=owner, kind="org", owner_id=holder.id))
        return owner

    # Users

    def create_user(self, name: str, *, is_admin: bool = False, password: str | None = None) -> User:
        """Makes a user and its namespace.

        Raises:
            InvalidInput: not a name, a reserved one, or a password that is too short.
            Conflict: the name is taken.

        """
        check_name(name, "user name")
        _check_free(name)
        hashed = passwords.hash_password(password) if password is not None else None
        user = User(id=new_id("u"), name=name, is_admin=is_admin, password_hash=hashed)
        with self._database.write() as session:
            if session.get(Namespace, name.lower()) is not None:
                raise Conflict("The name {name!r} is taken.", hint="Choose another.", name=name)
            session.add(user)
            session.flush()
            session.add(Namespace(key=name.lower(), name=name, kind="user", owner_id=user.id))
        return user

    def get_user(self, name: str) -> User:
        """Returns a user.

        Raises:
            NotFound: there is none of that name.

        """
        user = self.find_user(name)
        if user is None:
            raise NotFound("There is no user {name!r}.", hint="`fust users` lists them.", name=name[:100])
        return user

    def find_user(self, name: str) -> User | None:
        """Returns a user by name in any case, or None."""
        with self._database.read() as session:
            return session.scalars(select(User).where(func.lower(User.name) == name.lower())).first()

    def find_namespace(self, name: str) -> Namespace | None:
        """Returns a namespace by name in any case, or None."""
        with self._database.read() as session:
            return session.get(Namespace, name.lower())

    def list_users(self) -> list[User]:
        """Returns all users by name."""
        with self._database.read() as session:
            return list(session.scalars(select(User).order_by(User.name)))

    def set_password(self, name: str, password: str) -> None:
        """Sets a user's password and signs all of its browsers out."""
        hashed = passwords.hash_password(password)
        with self._database.write() as session:
            user = session.scalars(select(User).where(User.name == name)).first()
            if user is None:
                raise NotFound("There is no user {name!r}.", hint="`fust users` lists them.", name=name[:100])
            user.password_hash = hashed
            session.execute(delete(BrowserSession).where(BrowserSession.user_id == user.id))
        self.forget()

    def has_admin_password(self) -> bool:
        """Returns whether some administrator can sign in by password."""
        with self._database.read() as session:
            query = select(User.id).where(User.is_admin, User.password_hash.is_not(None))
            return session.scalars(query).first() is not None

    # Tokens

    def create_token(self, user_name: str, name: str, scope: str) -> NewToken:
        """Makes a token; its secret is in the answer and nowhere else.

        Raises:
            InvalidInput: a scope that does not exist, or an empty or long name.

        """
        if scope not in SCOPES:
            raise InvalidInput(
                "{scope!r} is not a scope.", hint="Use read, write or admin.", scope=scope[:50]
            )
        if not 0 < len(name) <= 100:
            raise InvalidInput("A token needs a name of 1 to 100 characters.", hint="Say what it is for.")
        secret = "fust_" + "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(32))
        with self._database.write() as session:
            user = session.scalars(select(User).where(User.name == user_name)).first()
            if user is None:
                raise NotFound(
                    "There is no user {name!r}.", hint="`fust users` lists them.", name=user_name[:100]
                )
            if scope == "admin" and not user.is_admin:
                raise Denied(
                    "Only an administrator can have a token with the scope admin.", hint="Use write."
                )
            row = Token(
                id=new_id("t"),
                user_id=user.id,
                name=name,
                scope=scope,
                prefix=secret[:13],
                secret_hash=_digest(secret),
            )
            session.add(row)
        return NewToken(row.id, name, scope, secret)

    def list_tokens(self, user_name: str) -> list[Token]:
        """Returns a user's tokens, newest first; never their secrets."""
        with self._database.read() as session:
            query = select(Token).join(User, User.id == Token.user_id).where(User.name == user_name)
            return list(session.scalars(query.order_by(Token.created_at.desc())))

    def find_token(self, token_id: str | None) -> Token | None:
        """Returns a token's row, or None."""
        if token_id is None:
            return None
        with self._database.read() as session:
            return session.get(Token, token_id)

    def revoke_token(self, identity: Identity, token_id: str) -> None:
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
        self.forget()

    # Browsers

    def create_code(self, user_name: str) -> tuple[str, float]:
        """Returns a sign-in code (one use) and the seconds it lives."""
        code = secrets.token_urlsafe(24)
        with self._database.write() as session:
            user = session.scalars(select(User).where(User.name == user_name)).first()
            if user is None:
                raise NotFound(
                    "There is no user {name!r}.", hint="`fust users` lists them.", name=user_name[:100]
                )
            session.execute(delete(SignInCode).where(SignInCode.expires_at < utc_naive()))
            session.add(
                SignInCode(code_hash=_digest(code), user_id=user.id, expires_at=utc_naive() + CODE_LIFE)
            )
        return code, CODE_LIFE.total_seconds()

    def redeem_code(self, code: str) -> str:
        """Returns a new session secret for a code, which is then spent.

        Raises:
            Unauthenticated: the code is not known, was used, or is older than ten minutes.

        """
        with self._database.write() as session:
            row = session.get(SignInCode, _digest(code))
            if row is None or row.expires_at < utc_naive():
                raise Unauthenticated(
                    "This sign-in link was used already or is older than ten minutes.",
                    hint="Run `fust open` for a new one.",
                )
            session.delete(row)
            return self._new_session(session, row.user_id)

    def sign_in_by_token(self, secret: str) -> str:
        """Returns a new session secret for the owner of a token."""
        identity = self._token_identity(_digest(secret))
        if identity is None or identity.user is None:
            raise Unauthenticated(
                "This token is not valid.", hint="`fust open` prints a link that signs you in."
            )
        user = self.get_user(identity.user)
        if user.is_admin and not identity.is_admin:
            raise Denied(
                "This token cannot sign a browser in: it has less rights than the page would get.",
                hint="Use a token with the scope admin, or a link from `fust open`.",
            )
        if "write" not in identity.scopes:
            raise Denied(
                "This token cannot sign a browser in: it has less rights than the page would get.",
                hint="Use a token with the scope write, or your password.",
            )
        with self._database.write() as session:
            return self._new_session(session, user.id)

    def sign_in_by_password(self, name: str, password: str, *, address: str = "") -> str:
        """Returns a new session secret. ``address`` is the client's, for the brake on guessing.

        Raises:
            Unauthenticated: name or password wrong; takes the same time for either.
            RateLimited: too many wrong passwords for this name from there lately.

        """
        guesser = f"{name}@{address}"
        self._limiter.check(guesser)
        user = self.find_user(name)
        if not passwords.verify_password(user.password_hash if user else None, password) or user is None:
            self._limiter.failed(guesser)
            log.warning("a sign-in failed", extra={"user": name[:100], "client": address})
            raise Unauthenticated(
                "Name or password is wrong.", hint="`fust passwd` on the server sets a new password."
            )
        with self._database.write() as session:
            return self._new_session(session, user.id)

    def _new_session(self, session: Session, user_id: str) -> str:
        secret = secrets.token_urlsafe(32)
        session.execute(delete(BrowserSession).where(BrowserSession.expires_at < utc_naive()))
        session.add(
            BrowserSession(
                secret_hash=_digest(secret), user_id=user_id, expires_at=utc_naive() + SESSION_LIFE
            )
        )
        return secret

    def sign_out(self, headers: Mapping[str, str]) -> None:
        """Ends the browser session that the cookie names."""
        cookie = _cookie(headers)
        if cookie:
            with self._database.write() as session:
                session.execute(delete(BrowserSession).where(BrowserSession.secret_hash == _digest(cookie)))
            self.forget()

    # Audit and signing

    def audit(
        self, session: Session, identity: Identity, action: str, subject: str, detail: str = ""
    ) -> None:
        """Adds a line to the audit in the transaction of what it tells of."""
        session.add(AuditRow(actor=identity.user or "", action=action, subject=subject, detail=detail))

    def signing_key(self) -> bytes:
        """Returns the 32 bytes that sign short-lived tokens; made at first use, kept beside the database (0600)."""
        if self._signing_key is None:
            path = self._settings.home / "signing-key"
            if not path.exists():
                write_atomic(path, secrets.token_bytes(32), mode=0o600)
            self._signing_key = path.read_bytes()
        return self._signing_key


_SECRET_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"


def token_in(headers: Mapping[str, str]) -> str | None:
    """Returns the token of a request: bearer, `x-api-key`, or the password of a basic login (git)."""
    authorization = headers.get("authorization", "")
    kind, _, rest = authorization.partition(" ")
    if kind.lower() == "bearer":
        return rest.strip() or None
    if kind.lower() == "basic":
        return passwords.password_of_basic(rest)
    return headers.get("x-api-key") or None


def _cookie(headers: Mapping[str, str]) -> str | None:
    header = headers.get("cookie")
    if not header or COOKIE not in header:
        return None
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel else None


def _check_free(name: str) -> None:
    if name.lower() in _RESERVED:
        raise InvalidInput("The name {name!r} is reserved.", hint="Choose another.", name=name)
