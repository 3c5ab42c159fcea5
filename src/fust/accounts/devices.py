"""Signing a program in from a browser: the OAuth 2.0 device authorization grant (RFC 8628), as `hf auth login` uses it.

The program asks for a code, shows it, and polls; whoever is signed in looks at what asks, compares the code and allows
or denies it. What it gets is an ordinary key, made at the poll that fetches it, so that its secret is kept nowhere. A
code lives ten minutes and is spent at once; only hashes of device codes are kept.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from fust.accounts.audit import note_action
from fust.accounts.brake import Brake
from fust.accounts.proxies import caller_address, caller_agent
from fust.accounts.rights import SYSTEM, Identity, check_scope
from fust.accounts.service import Accounts
from fust.accounts.tokens import digest_of
from fust.core.clock import utc_naive
from fust.core.errors import Denied, FustError, InvalidInput, NotFound, RateLimited
from fust.store.database import Base, Database

LIFE = timedelta(minutes=10)
INTERVAL_S = 3
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628, 6.1: no vowels, so that no words come up
_LENGTH = 8
_PER_ADDRESS, _PENDING = 20, 1000


class DeviceCode(Base):
    """A program that waits to be let in."""

    __tablename__ = "device_codes"

    code_hash: Mapped[str] = mapped_column(primary_key=True)
    user_code: Mapped[str] = mapped_column(unique=True)
    client_id: Mapped[str]
    agent: Mapped[str]
    address: Mapped[str] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(default="pending")
    """`pending`, `allowed` or `denied`."""
    user: Mapped[str] = mapped_column(default="")
    """Who allowed it."""
    scope: Mapped[str] = mapped_column(default="")
    key_name: Mapped[str] = mapped_column(default="")
    key_ends: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(default=utc_naive)
    polled_at: Mapped[datetime | None] = mapped_column(default=None)
    expires_at: Mapped[datetime]


@dataclass(frozen=True, slots=True)
class Started:
    """What a program is given."""

    device_code: str
    user_code: str
    """`BCDF-GHJK`."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A program that asks, as it is shown to who may let it in."""

    user_code: str
    client_id: str
    agent: str
    address: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Granted:
    """The key that a program got."""

    secret: str
    scope: str
    expires_at: datetime | None


Refusal = Literal["authorization_pending", "slow_down", "access_denied", "expired_token"]


class Devices:
    """Programs that wait to be let in."""

    def __init__(self, database: Database, accounts: Accounts) -> None:
        self._database = database
        self._accounts = accounts
        self._brake = Brake()

    def start(self, client_id: str) -> Started:
        """Gives a program a code.

        Raises:
            InvalidInput: it does not say what it is.
            RateLimited: this address, or everybody together, has too many that wait.

        """
        if not 0 < len(client_id) <= 200 or not client_id.isprintable():
            raise InvalidInput("client_id is missing.", hint="Send it as a form field (RFC 8628, 3.1).")
        code, moment, address = secrets.token_urlsafe(32), utc_naive(), caller_address()
        with self._database.write() as session:
            session.execute(delete(DeviceCode).where(DeviceCode.expires_at < moment))
            waiting = select(func.count()).select_from(DeviceCode)
            here = session.scalar(waiting.where(DeviceCode.address == address)) or 0
            if here >= _PER_ADDRESS or (session.scalar(waiting) or 0) >= _PENDING:
                raise RateLimited(
                    "Too many programs wait to be let in.",
                    hint="Try again in some minutes.",
                    retry_after_s=60,
                )
            user_code = self._free_code(session)
            session.add(
                DeviceCode(
                    code_hash=digest_of(code),
                    user_code=user_code,
                    client_id=client_id,
                    agent=caller_agent(),
                    address=address,
                    expires_at=moment + LIFE,
                )
            )
        return Started(code, _shown(user_code))

    def _free_code(self, session: Session) -> str:
        while True:
            code = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
            if (
                session.scalars(select(DeviceCode.code_hash).where(DeviceCode.user_code == code)).first()
                is None
            ):
                return code

    def poll(self, device_code: str, client_id: str) -> Granted | Refusal:
        """Returns the key once somebody allowed it, else why there is none; a code gives one key."""
        with self._database.write() as session:
            row = session.get(DeviceCode, digest_of(device_code))
            moment = utc_naive()
            if row is None or row.client_id != client_id or row.expires_at <= moment:
                return "expired_token"
            if row.state == "denied":
                session.delete(row)
                return "access_denied"
            if row.state == "pending":
                early = row.polled_at is not None and moment - row.polled_at < timedelta(
                    seconds=INTERVAL_S * 0.8
                )
                row.polled_at = moment
                return "slow_down" if early else "authorization_pending"
            session.delete(row)  # spent, whatever comes now
            user, scope, name, ends = row.user, row.scope, row.key_name, row.key_ends
        try:
            made = self._accounts.tokens.create(user, name, scope, expires_at=ends, by=self._by(user))
        except FustError:  # the user is gone or lost the right since
            return "access_denied"
        return Granted(made.secret, scope, ends)

    def _by(self, user: str) -> Identity:
        return Identity(user, False, frozenset(), None, "session") if user else SYSTEM

    def look(self, identity: Identity, user_code: str) -> Asking:
        """Returns what asks under a code.

        Raises:
            NotFound: no such code, or it is over.
            RateLimited: too many wrong ones from this user.

        """
        self._check_browser(identity)
        row = self._find(identity, user_code)
        return Asking(
            _shown(row.user_code), row.client_id, row.agent, row.address, row.created_at, row.expires_at
        )

    def allow(
        self, identity: Identity, user_code: str, *, scope: str, name: str, ends: datetime | None
    ) -> None:
        """Lets a program in with a key of the caller's; raises as ``look``, and Denied for more than the caller may."""
        self._check_browser(identity)
        wanted = check_scope(scope)
        if wanted not in identity.scopes:
            raise Denied("Only an administrator can have a token with the scope admin.", hint="Use write.")
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise InvalidInput("A token needs a name of 1 to 100 characters.", hint="Say what it is for.")
        found = self._find(identity, user_code)
        with self._database.write() as session:
            row = session.get(DeviceCode, found.code_hash)
            if row is None or row.state != "pending":
                raise _no_code()
            row.state, row.user, row.scope, row.key_name, row.key_ends = (
                "allowed",
                identity.user or "",
                wanted,
                name,
                ends,
            )
            note_action(
                session, identity, "device.allow", f"user:{identity.user}", scope=wanted, address=row.address
            )

    def deny(self, identity: Identity, user_code: str) -> None:
        """Turns a program away; raises as ``look``."""
        self._check_browser(identity)
        found = self._find(identity, user_code)
        with self._database.write() as session:
            row = session.get(DeviceCode, found.code_hash)
            if row is None or row.state != "pending":
                raise _no_code()
            row.state = "denied"
            note_action(session, identity, "device.deny", f"user:{identity.user}", address=row.address)

    def _check_browser(self, identity: Identity) -> None:
        self._accounts.require_whole(identity, "write")
        if identity.via != "session":
            raise Denied(
                "A program is let in by a person in a browser.",
                hint="Open {path} and sign in.",
                path="/device",
            )

    def _find(self, identity: Identity, user_code: str) -> DeviceCode:
        plain = "".join(letter for letter in user_code.upper() if letter.isalnum())[:_LENGTH]
        query = select(DeviceCode).where(
            DeviceCode.user_code == plain, DeviceCode.state == "pending", DeviceCode.expires_at > utc_naive()
        )
        guesser, address = f"device code of {identity.user}", caller_address()
        with self._database.write() as session:
            try:
                self._brake.check(session, guesser, address)
            except RateLimited as error:
                raise RateLimited(
                    "Too many wrong codes.",
                    hint="Wait a minute, then look at the code again.",
                    retry_after_s=error.retry_after_s,
                ) from None
            row = session.scalars(query).first()
            if row is not None:
                return row
            self._brake.count(session, guesser, address)
        raise _no_code()


def _shown(user_code: str) -> str:
    return f"{user_code[:4]}-{user_code[4:]}"


def _no_code() -> NotFound:
    return NotFound(
        "No program waits under this code, or no longer.",
        hint="Compare it with the one in your terminal; a code lives ten minutes. Start again there for a new one.",
    )
