"""Sign-in through a provider of one's own (OpenID Connect): whose account it is here, and what it may.

An account here belongs to a provider's (issuer, subject) and to nothing else: an e-mail address or a name that is the
same proves nothing (OIDC Core, 5.7). Somebody who has an account already links it from the page while signed in.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import threading
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fust.accounts.audit import note_action
from fust.accounts.entry_models import ProviderAccount, UsedState
from fust.accounts.models import User
from fust.accounts.names import user_row
from fust.accounts.rights import SYSTEM, Identity
from fust.accounts.seal import seal_for
from fust.accounts.service import Accounts
from fust.accounts.sessions import acting
from fust.accounts.tokens import digest_of
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, FustError, InvalidInput, NotFound
from fust.core.settings import Settings
from fust.store.database import Database

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

    from fust.accounts.oidc_provider import Provider

log = logging.getLogger(__name__)

COOKIE = "fust_oidc"
LIFE_S = 600
_NEXT = re.compile(r"[A-Za-z0-9._~%?&=+-][A-Za-z0-9._~%?&=+/-]{0,300}")


class SignInFailed(Exception):
    """Why nobody was signed in, as a code that the page has words for."""

    def __init__(self, code: str, reason: str = "") -> None:
        self.code = code
        super().__init__(reason or code)


class Kept(msgspec.Struct):
    """What the browser keeps, sealed, while it is at the provider."""

    state: str
    nonce: str
    verifier: str
    next: str
    link: str | None
    """Name of the user, signed in already, whose account is to be linked."""


@dataclass(frozen=True, slots=True)
class Started:
    """Where to send a browser, and the sealed cookie to send with it."""

    url: str
    cookie: str


class Oidc:
    """Sign-in through the provider that the section `oidc` of the settings names."""

    def __init__(self, database: Database, accounts: Accounts, settings: Settings) -> None:
        self._database = database
        self._accounts = accounts
        self._settings = settings
        self._lock = threading.Lock()
        self._provider: Provider | None = None

    @property
    def label(self) -> str | None:
        """What the provider is called; None when there is none."""
        settings = self._settings.oidc
        return (settings.name or settings.issuer) if settings.issuer and settings.client_id else None

    def start(self, *, by: Identity, next_path: str = "", link: bool = False) -> Started:
        """Begins a sign-in.

        Raises:
            NotFound: no provider is set.
            UpstreamFailed, InvalidInput: it does not answer as one, or is set wrongly.

        """
        from fust.accounts.oidc_provider import Attempt

        kept = Kept(
            state=secrets.token_urlsafe(24),
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            next=next_path if _NEXT.fullmatch(next_path) else "",
            link=by.user if link and by.via == "session" else None,
        )
        url = self._the_provider().authorization_url(Attempt(kept.state, kept.nonce, kept.verifier))
        return Started(url, self._seal().encrypt(msgspec.json.encode(kept)).decode())

    def finish(self, query: dict[str, str], cookie: str) -> tuple[str, str]:
        """Returns the secret of a new session and the path below the root to go on to.

        Raises:
            SignInFailed: says by a code why not; the reason is logged, and noted in the audit.

        """
        try:
            return self._finish(query, cookie)
        except SignInFailed as error:
            log.warning("a sign-in by the provider failed", extra={"code": error.code, "reason": str(error)})
            try:
                with self._database.write() as session:
                    note_action(session, None, "session.refuse", "user:", how="oidc", reason=error.code)
            except FustError as failure:
                log.warning("a failed sign-in was not noted", extra={"reason": failure.message()})
            raise

    def _finish(self, query: dict[str, str], cookie: str) -> tuple[str, str]:
        from fust.accounts.oidc_provider import Attempt, BadToken

        kept = self._open(cookie)
        if kept is None or not hmac.compare_digest(kept.state.encode(), query.get("state", "").encode()):
            raise SignInFailed("state")
        if query.get("iss", self._settings.oidc.issuer) != self._settings.oidc.issuer:  # RFC 9207
            raise SignInFailed("token", "the answer is another provider's")
        self._spend(kept.state)
        if "error" in query or not query.get("code"):
            raise SignInFailed("denied", query.get("error", "")[:100])
        attempt = Attempt(kept.state, kept.nonce, kept.verifier)
        try:
            claims = self._the_provider().redeem(query["code"][:4000], attempt)
        except BadToken as error:
            raise SignInFailed("token", str(error)) from error
        except FustError as error:
            raise SignInFailed("provider", error.message()) from error
        self._check_domain(claims)
        with self._database.write() as session:
            user = self._account_of(session, claims, kept.link)
            if user.suspended:
                raise SignInFailed("suspended")
            secret = self._accounts.sessions.begin(session, user.id, "oidc")
        self._follow_admin(user, claims)
        return secret, kept.next

    # The way there and back

    def _the_provider(self) -> Provider:
        from fust.accounts.oidc_provider import Provider

        settings = self._settings.oidc
        if self.label is None:
            raise NotFound(
                "This Fust has no sign-in provider.",
                hint="Set oidc.issuer and oidc.client_id (docs/sign-in.md).",
            )
        with self._lock:
            if self._provider is None:
                redirect = f"{self._settings.public_url}/fust/v1/oidc/callback"
                self._provider = Provider(
                    settings, _read_secret(settings.client_secret, settings.client_secret_file), redirect
                )
            return self._provider

    def _seal(self) -> Fernet:
        return seal_for(self._accounts.signing_key(), b"fust oidc state")

    def _open(self, cookie: str) -> Kept | None:
        from cryptography.fernet import InvalidToken

        try:
            return msgspec.json.decode(self._seal().decrypt(cookie.encode(), ttl=LIFE_S), type=Kept)
        except (InvalidToken, msgspec.MsgspecError):
            return None

    def _spend(self, state: str) -> None:
        """Lets a state pass once, whichever process it comes back to."""
        moment = utc_naive()
        try:
            with self._database.write() as session:
                session.execute(delete(UsedState).where(UsedState.expires_at < moment))
                session.add(
                    UsedState(state_hash=digest_of(state), expires_at=moment + timedelta(seconds=LIFE_S))
                )
        except IntegrityError as error:
            raise SignInFailed("state", "it came back before") from error

    # Whose account

    def _check_domain(self, claims: dict[str, Any]) -> None:
        allowed = [domain.lower().lstrip("@") for domain in self._settings.oidc.allowed_domains]
        if not allowed:
            return
        email = str(claims.get("email") or "")
        if claims.get("email_verified") is not True or email.rpartition("@")[2].lower() not in allowed:
            raise SignInFailed("domain", "the address is not verified, or of another domain")

    def _account_of(self, session: Session, claims: dict[str, Any], link: str | None) -> User:
        issuer, subject = self._settings.oidc.issuer, str(claims["sub"])
        known = session.get(ProviderAccount, (issuer, subject))
        user = session.get(User, known.user_id) if known else None
        if user is not None:
            if link is not None and user.name != link:
                raise SignInFailed("linked", "the provider's account belongs to another user here")
            return user
        if link is not None:
            user = user_row(session, link)
        elif self._settings.oidc.auto_create:
            user = self._new_user(session, claims)
        else:
            raise SignInFailed("no_account")
        email = str(claims.get("email") or "")[:300]
        session.add(ProviderAccount(issuer=issuer, subject=subject, user_id=user.id, email=email))
        note_action(session, acting(user.name), "user.link", f"user:{user.name}", issuer=issuer)
        session.flush()
        return user

    def _new_user(self, session: Session, claims: dict[str, Any]) -> User:
        name = name_from(str(claims.get(self._settings.oidc.name_claim) or claims.get("email") or ""))
        full_name = "".join(c for c in str(claims.get("name") or "") if c.isprintable())[:200].strip()
        try:
            return self._accounts.users.add(session, name, full_name=full_name, by=acting(name))
        except (Conflict, InvalidInput) as error:
            raise SignInFailed("name", error.message()) from error

    def _follow_admin(self, user: User, claims: dict[str, Any]) -> None:
        """Makes somebody an administrator, or ends it, as the provider's claim says; without a claim nothing changes."""
        settings = self._settings.oidc
        if not settings.admin_claim:
            return
        told = claims.get(settings.admin_claim)
        values = cast("list[Any]", told) if isinstance(told, list) else [told]
        wanted = any(value is True or str(value) in settings.admin_values for value in values)
        if wanted == user.is_admin:
            return
        try:
            self._accounts.users.update(user.name, is_admin=wanted, by=SYSTEM)
        except Conflict as error:  # the last administrator stays one
            log.warning(
                "an administrator's rights were kept", extra={"user": user.name, "reason": error.message()}
            )

    def is_linked(self, user_name: str) -> bool:
        """Returns whether a user has an account at the provider."""
        query = select(ProviderAccount.subject).join(User, User.id == ProviderAccount.user_id)
        query = query.where(User.name == user_name, ProviderAccount.issuer == self._settings.oidc.issuer)
        with self._database.read() as session:
            return session.scalars(query).first() is not None


def name_from(told: str) -> str:
    """Returns a user name out of what a provider calls somebody: the part before an @, other signs as `-`."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", told.partition("@")[0])
    name = re.sub(r"\.{2,}", ".", re.sub(r"-{2,}", "-", name))
    return name.strip(".-")[:96].strip(".-")


def _read_secret(secret: str, path: str) -> str:
    if not path:
        return secret
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            "The file of oidc.client_secret_file cannot be read: {reason}.",
            hint="Write the client's secret into {path}, readable by Fust only.",
            reason=str(error),
            path=path,
        ) from None
