"""Browsers: sign-in by link, token or password, and the sessions that follow."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from sqlalchemy import delete
from sqlalchemy.orm import Session

from fust.accounts import passwords
from fust.accounts.models import BrowserSession, SignInCode, User
from fust.accounts.names import user_row
from fust.accounts.rights import Identity
from fust.accounts.tokens import digest_of
from fust.accounts.users import Users
from fust.core.clock import utc_naive
from fust.core.errors import Denied, Unauthenticated
from fust.core.settings import Settings
from fust.store.database import Database

log = logging.getLogger(__name__)

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
        self._limiter = passwords.Limiter()

    def create_code(self, user_name: str) -> tuple[str, float]:
        """Returns a sign-in code (one use) and the seconds it lives."""
        code = secrets.token_urlsafe(24)
        with self._database.write() as session:
            user = user_row(session, user_name)
            session.execute(delete(SignInCode).where(SignInCode.expires_at < utc_naive()))
            session.add(
                SignInCode(code_hash=digest_of(code), user_id=user.id, expires_at=utc_naive() + CODE_LIFE)
            )
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
            return self.begin(session, row.user_id)

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
            return self.begin(session, user.id)

    def sign_in_by_password(self, name: str, password: str, *, address: str = "") -> str:
        """Returns a new session secret. ``address`` is the client's, for the brake on guessing.

        Raises:
            Unauthenticated: name or password wrong; takes the same time for either.
            RateLimited: too many wrong passwords for this name from there lately.

        """
        guesser = f"{name}@{address}"
        self._limiter.check(guesser)
        user = self._users.find(name)
        if not passwords.verify_password(user.password_hash if user else None, password) or user is None:
            self._limiter.failed(guesser)
            # A name that nobody has is often a password typed one field too early: it is not written down.
            log.warning("a sign-in failed", extra={"user": user.name if user else "", "client": address})
            raise Unauthenticated(
                "Name or password is wrong.", hint="`fust passwd` on the server sets a new password."
            )
        with self._database.write() as session:
            return self.begin(session, user.id)

    def begin(self, session: Session, user_id: str) -> str:
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
                secret_hash=digest_of(secret), user_id=user_id, expires_at=utc_naive() + SESSION_LIFE
            )
        )
        return secret

    def sign_out(self, headers: Mapping[str, str]) -> None:
        """Ends the browser session that the cookie names."""
        cookie = cookie_in(headers)
        if cookie:
            with self._database.write() as session:
                session.execute(delete(BrowserSession).where(BrowserSession.secret_hash == digest_of(cookie)))
            self._changed()


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
    site = headers.get("sec-fetch-site")
    if site in ("same-origin", "none"):
        return
    origin = headers.get("origin")
    hosts = {urlsplit(settings.public_url).netloc, headers.get("host", "")}
    if site is None and origin and urlsplit(origin).netloc in hosts:
        return
    raise Denied(
        "A request that changes something came from another site and was refused.",
        hint="Open the page at {url} and try again there.",
        url=settings.public_url,
    )
