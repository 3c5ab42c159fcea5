"""Browsers: sign-in by link, token or password, and the sessions that follow."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from http.cookies import CookieError, SimpleCookie
from typing import Literal
from urllib.parse import urlsplit

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from fust.accounts import passwords
from fust.accounts.audit import note_action
from fust.accounts.brake import Brake
from fust.accounts.models import BrowserSession, SignInCode, User
from fust.accounts.names import user_row
from fust.accounts.proxies import caller_address, caller_agent
from fust.accounts.rights import SYSTEM, Identity
from fust.accounts.tokens import digest_of
from fust.accounts.users import Users
from fust.core.clock import utc_naive
from fust.core.errors import Denied, FustError, NotFound, Unauthenticated
from fust.core.ids import new_id
from fust.core.settings import Settings
from fust.store.database import Database

log = logging.getLogger(__name__)

How = Literal["password", "link", "token", "oidc", "invitation"]
COOKIE = "fust_session"
SESSION_LIFE = timedelta(days=30)
CODE_LIFE = timedelta(minutes=10)


class Sessions:
    """The signed-in browsers of a home."""

    def __init__(
        self,
        database: Database,
        users: Users,
        identify_token: Callable[[str], Identity | None],
        changed: Callable[[], None],
    ) -> None:
        self._database = database
        self._users = users
        self._identify_token = identify_token
        self._changed = changed
        self._brake = Brake()

    def create_code(self, user_name: str, *, by: Identity = SYSTEM) -> tuple[str, float]:
        """Returns a sign-in code (one use) and the seconds it lives."""
        code = secrets.token_urlsafe(24)
        with self._database.write() as session:
            user = user_row(session, user_name)
            session.execute(delete(SignInCode).where(SignInCode.expires_at < utc_naive()))
            session.add(
                SignInCode(code_hash=digest_of(code), user_id=user.id, expires_at=utc_naive() + CODE_LIFE)
            )
            note_action(session, by, "link.create", f"user:{user.name}")
        return code, CODE_LIFE.total_seconds()

    def redeem_code(self, code: str) -> str:
        """Returns a new session secret for a code, which is then spent.

        Raises:
            Unauthenticated: the code is not known, was used, or is older than ten minutes.

        """
        with self._database.write() as session:
            row = session.get(SignInCode, digest_of(code))
            if row is None or row.expires_at < utc_naive():
                raise Unauthenticated(
                    "This sign-in link was used already or is older than ten minutes.",
                    hint="Run `fust open` for a new one.",
                )
            session.delete(row)
            return self.begin(session, row.user_id, "link")

    def sign_in_by_token(self, secret: str) -> str:
        """Returns a new session secret for the owner of a token."""
        identity = self._identify_token(digest_of(secret))
        if identity is None or identity.user is None:
            raise Unauthenticated(
                "This token is not valid.", hint="`fust open` prints a link that signs you in."
            )
        user = self._users.get(identity.user)
        if user.is_admin and not identity.is_admin:
            raise Denied(
                "This token cannot sign a browser in: it has less rights than the page would get.",
                hint="Use a token with the scope admin, or a link from `fust open`.",
            )
        if "write" not in identity.scopes or identity.grants is not None:
            raise Denied(
                "This token cannot sign a browser in: it has less rights than the page would get.",
                hint="Use a token with the scope write, or your password.",
            )
        with self._database.write() as session:
            return self.begin(session, user.id, "token")

    def sign_in_by_password(self, name: str, password: str) -> str:
        """Returns a new session secret.

        Raises:
            Unauthenticated: name or password wrong; takes the same time for either.
            RateLimited: too many wrong passwords from there lately, for this name or for many.

        """
        address = caller_address()
        with self._database.read() as session:
            self._brake.check(session, name, address)
        user = self._users.find(name)
        if not passwords.verify_password(user.password_hash if user else None, password) or user is None:
            # What was typed as a name may be a password: only names that exist are written down.
            known = user.name if user else ""
            log.warning("a sign-in failed", extra={"user": known, "client": address})
            # A try that cannot be counted, on a full disk, is answered as a right password would be: not at all.
            with self._database.write() as session:
                stopped = self._brake.count(session, name, address) or None
                note_action(session, None, "session.refuse", f"user:{known}", how="password", stopped=stopped)
            raise Unauthenticated(
                "Name or password is wrong.", hint="`fust passwd` on the server sets a new password."
            )
        with self._database.write() as session:
            return self.begin(session, user.id, "password")

    def begin(self, session: Session, user_id: str, how: How) -> str:
        """Returns the secret of a new session, inside a transaction.

        Raises:
            Denied: the user is suspended.

        """
        user = session.get(User, user_id)
        if user is None or user.suspended:
            raise suspended(user.name if user else "")
        secret = secrets.token_urlsafe(32)
        session.execute(delete(BrowserSession).where(BrowserSession.expires_at < utc_naive()))
        session.add(
            BrowserSession(
                secret_hash=digest_of(secret),
                id=new_id("s_"),
                user_id=user_id,
                how=how,
                address=caller_address(),
                agent=caller_agent(),
                last_used_at=utc_naive(),
                expires_at=utc_naive() + SESSION_LIFE,
            )
        )
        note_action(session, acting(user.name), "session.create", f"user:{user.name}", how=how)
        return secret

    def note_use(self, row: BrowserSession) -> None:
        """Keeps when a session was used, and from where; once a minute."""
        moment = utc_naive()
        if row.last_used_at is not None and moment - row.last_used_at < timedelta(minutes=1):
            return
        values = {"last_used_at": moment, "address": caller_address() or row.address}
        try:
            with self._database.write() as session:
                known = BrowserSession.secret_hash == row.secret_hash
                session.execute(update(BrowserSession).where(known).values(**values))
        except FustError as error:
            # A full disk must not keep anyone from reading what is there.
            log.warning("the use of a session was not noted", extra={"reason": error.message()})

    def list(self, user_name: str) -> list[BrowserSession]:
        """Returns a user's sessions, the one that was used last first."""
        with self._database.read() as session:
            query = select(BrowserSession).join(User, User.id == BrowserSession.user_id)
            query = query.where(User.name == user_name, BrowserSession.expires_at > utc_naive())
            order = (BrowserSession.last_used_at.desc(), BrowserSession.created_at.desc())
            return [*session.scalars(query.order_by(*order))]

    def end(self, identity: Identity, session_id: str) -> None:
        """Ends one of the caller's own sessions.

        Raises:
            NotFound: it has none of that id.

        """
        with self._database.write() as session:
            query = select(BrowserSession).join(User, User.id == BrowserSession.user_id)
            row = session.scalars(
                query.where(BrowserSession.id == session_id, User.name == identity.user)
            ).first()
            if row is None:
                raise NotFound(
                    "There is no session {id!r}.", hint="The page Settings lists yours.", id=session_id[:50]
                )
            session.delete(row)
            note_action(session, identity, "session.end", f"user:{identity.user}", session=row.id)
        self._changed()

    def end_all(self, user_name: str, *, by: Identity, keep: str | None = None) -> int:
        """Signs a user out everywhere, but for the session that ``keep`` is the digest of; returns how many ended.

        Raises:
            NotFound: there is no such user.

        """
        with self._database.write() as session:
            user = user_row(session, user_name)
            count = end_sessions(session, user.id, keep=keep)
            session.execute(delete(SignInCode).where(SignInCode.user_id == user.id))
            note_action(session, by, "session.end_all", f"user:{user.name}", ended=count)
        self._changed()
        return count

    def sign_out(self, headers: Mapping[str, str]) -> None:
        """Ends the browser session that the cookie names."""
        cookie = cookie_in(headers)
        if cookie:
            with self._database.write() as session:
                row = session.get(BrowserSession, digest_of(cookie))
                user = session.get(User, row.user_id) if row else None
                if row is not None and user is not None:
                    session.delete(row)
                    note_action(
                        session, acting(user.name), "session.end", f"user:{user.name}", session=row.id
                    )
            self._changed()


def end_sessions(session: Session, user_id: str, *, keep: str | None = None) -> int:
    """Ends a user's sessions inside a transaction; returns how many there were."""
    query = delete(BrowserSession).where(BrowserSession.user_id == user_id)
    if keep is not None:
        query = query.where(BrowserSession.secret_hash != keep)
    return session.connection().execute(query).rowcount


def acting(name: str) -> Identity:
    """Returns who signs in, for the audit: the session that it gets does not act yet."""
    return Identity(name, False, frozenset(), None, "session")


def suspended(name: str) -> Denied:
    """Returns the error for a user who may not act any more."""
    return Denied(
        "The account {name} is suspended.", hint="Ask an administrator.", code="suspended", name=name[:100]
    )


def cookie_in(headers: Mapping[str, str]) -> str | None:
    """Returns the session's secret in a request, or None."""
    header = headers.get("cookie")
    if not header or COOKIE not in header:
        return None
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel else None


def check_same_origin(settings: Settings, headers: Mapping[str, str], method: str) -> None:
    """Raises Denied when a request by cookie that changes something came from another site."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site in ("same-origin", "none"):
        return
    if site is None and origin and _is_own(settings, headers, origin):
        return
    raise _cross_site(settings)


def check_not_cross_site(settings: Settings, headers: Mapping[str, str]) -> None:
    """Raises Denied when a browser says that another site sends a sign-in: nobody is signed in behind their back.

    A program that says nothing of where it comes from (curl, the command line) is no browser and passes.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        raise _cross_site(settings)
    if site is None and origin is not None and not _is_own(settings, headers, origin):
        raise _cross_site(settings)


def _is_own(settings: Settings, headers: Mapping[str, str], origin: str) -> bool:
    """Returns whether an Origin (RFC 6454) is ours: the public URL's, or that of the host which was asked."""
    given, public = urlsplit(origin), urlsplit(settings.public_url)
    if given.netloc == public.netloc:
        return given.scheme == public.scheme
    return given.scheme in ("http", "https") and bool(given.netloc) and given.netloc == headers.get("host")


def _cross_site(settings: Settings) -> Denied:
    return Denied(
        "A request that changes something came from another site and was refused.",
        hint="Open the page at {url} and try again there.",
        url=settings.public_url,
    )
