"""Invitations: links by which people join this Fust, or an organisation of it. One use each."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from fust.accounts import passwords
from fust.accounts.audit import note_action
from fust.accounts.entry_models import Invitation
from fust.accounts.models import Member, Namespace, User
from fust.accounts.names import user_row
from fust.accounts.rights import ROLES, Identity, Role, allows, check_role, may_in
from fust.accounts.service import Accounts
from fust.accounts.sessions import acting
from fust.accounts.tokens import digest_of
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, Denied, InvalidInput, NotFound
from fust.core.ids import new_id
from fust.store.database import Database

MIN_LIFE_S, LIFE_S, MAX_LIFE_S = 60, 7 * 86400, 90 * 86400


@dataclass(frozen=True, slots=True)
class Invited:
    """An invitation as it is shown."""

    id: str
    organisation: str | None
    role: Role | None
    new_user: bool
    note: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    used_by: str

    @property
    def state(self) -> str:
        """`open`, `used` or `expired`."""
        if self.used_at is not None:
            return "used"
        return "open" if self.expires_at > utc_naive() else "expired"


class Invitations:
    """The invitations of a home."""

    def __init__(self, database: Database, accounts: Accounts) -> None:
        self._database = database
        self._accounts = accounts

    def create(
        self,
        by: Identity,
        *,
        organisation: str = "",
        role: str = "read",
        note: str = "",
        life_s: int = LIFE_S,
    ) -> tuple[Invited, str]:
        """Returns a new invitation and its code, which is kept nowhere.

        Raises:
            Denied: only administrators invite to this Fust; to an organisation who may add members with that role.
            InvalidInput: no such role, a life of less than a minute or more than 90 days.
            NotFound: no such organisation.

        """
        self._accounts.require_whole(by, "write")
        if not MIN_LIFE_S <= life_s <= MAX_LIFE_S:
            raise InvalidInput("An invitation lives between one minute and 90 days.", hint="Choose 7 days.")
        wanted = check_role(role) if organisation else None
        if wanted is None:
            self._accounts.check_admin(by)
        code = secrets.token_urlsafe(24)
        with self._database.write() as session:
            inviter = user_row(session, by.user or "")
            joined = _organisation(session, organisation) if organisation else None
            if joined is not None and wanted is not None:
                _check_may_invite(by, joined.name, wanted)
            row = Invitation(
                id=new_id("i_"),
                code_hash=digest_of(code),
                organisation=joined.key if joined else None,
                role=wanted,
                new_user=by.is_admin,
                note=note[:200],
                created_by=inviter.id,
                created_at=utc_naive(),
                expires_at=utc_naive() + timedelta(seconds=life_s),
            )
            session.add(row)
            name = joined.name if joined else None
            subject = f"invitation:{row.id}"
            note_action(session, by, "invitation.create", subject, organisation=name, role=wanted)
            session.flush()
            return _shown(session, row), code

    def list(self, by: Identity) -> list[Invited]:
        """Returns the invitations that the caller may look after, newest first."""
        self._accounts.require_whole(by, "write")
        with self._database.read() as session:
            rows = session.scalars(select(Invitation).order_by(Invitation.created_at.desc()).limit(1000))
            return [_shown(session, row) for row in rows if _may_see(by, row)]

    def withdraw(self, by: Identity, invitation_id: str) -> None:
        """Ends an invitation that nobody used.

        Raises:
            NotFound: none of that id that the caller may look after.
            Conflict: it was used.

        """
        self._accounts.require_whole(by, "write")
        with self._database.write() as session:
            row = session.get(Invitation, invitation_id, with_for_update=True)
            if row is None or not _may_see(by, row):
                raise NotFound(
                    "There is no invitation {id!r}.",
                    hint="`fust invite list` has them.",
                    id=invitation_id[:50],
                )
            if row.used_at is not None:
                raise Conflict("This invitation was used by {name}.", name=row.used_by)
            session.delete(row)
            note_action(session, by, "invitation.withdraw", f"invitation:{row.id}")

    def look(self, code: str) -> Invited:
        """Returns what a code invites to.

        Raises:
            NotFound: it is wrong, used, withdrawn or too old.

        """
        with self._database.read() as session:
            return _shown(session, _open_row(session, code))

    def accept(self, code: str, *, by: Identity, name: str = "", password: str = "") -> str:
        """Lets the invited in and returns the secret of a new session: as a new user, or as who calls.

        Raises:
            NotFound: the code is wrong, used, withdrawn or too old, or who invited may not do so any more.
            Denied: it makes no new users, and nobody is signed in.
            InvalidInput, Conflict: a name or a password that cannot be.

        """
        joins = by.user is not None and not name
        if joins:
            self._accounts.require_whole(by, "write")
        hashed = "" if joins else passwords.hash_password(password)
        with self._database.write() as session:
            row = _open_row(session, code)
            if joins:
                user = user_row(session, by.user or "")
            elif row.new_user:
                user = self._accounts.users.add(session, name, password_hash=hashed, by=acting(name))
            else:
                raise Denied(
                    "This invitation is for people who have an account here.",
                    hint="Sign in first and open the link again, or ask an administrator for an account.",
                )
            if row.organisation is not None and row.role is not None:
                _join(session, row.organisation, user, check_role(row.role))
            row.used_at, row.used_by = utc_naive(), user.name
            note_action(
                session, acting(user.name), "invitation.accept", f"invitation:{row.id}", user=user.name
            )
            secret = self._accounts.sessions.begin(session, user.id, "invitation")
        self._accounts.forget()
        return secret


def _check_may_invite(by: Identity, organisation: str, role: Role) -> None:
    if not may_in(by, "org.owners" if role in ("admin", "owner") else "org.members", organisation):
        raise Denied(
            "{user} may not invite to {organisation} with the role {role}.",
            hint="Ask an owner of {organisation}.",
            user=by.user,
            organisation=organisation,
            role=role,
        )


def _may_see(by: Identity, row: Invitation) -> bool:
    return by.is_admin or (row.organisation is not None and may_in(by, "org.members", row.organisation))


def _open_row(session: Session, code: str) -> Invitation:
    query = select(Invitation).where(Invitation.code_hash == digest_of(code)).with_for_update()
    row = session.scalars(query).first()
    if row is None or row.used_at is not None or row.expires_at <= utc_naive() or not _stands(session, row):
        raise NotFound(
            "This invitation is not valid: it was used, withdrawn, or is too old.",
            hint="Ask for a new one.",
            code="invitation_over",
        )
    return row


def _stands(session: Session, row: Invitation) -> bool:
    """Returns whether who invited could still do so: what somebody may not any more, their links may not either."""
    inviter = session.get(User, row.created_by)
    if inviter is None or inviter.suspended or (row.new_user and not inviter.is_admin):
        return False
    if row.organisation is None or inviter.is_admin:
        return True
    member = session.get(Member, (row.organisation, inviter.id))
    needed = "org.owners" if row.role in ("admin", "owner") else "org.members"
    return member is not None and allows(check_role(member.role), needed)


def _join(session: Session, key: str, user: User, role: Role) -> None:
    member = session.get(Member, (key, user.id))
    if member is not None and ROLES.index(check_role(member.role)) >= ROLES.index(role):
        return
    if member is None:
        session.add(Member(organisation=key, user_id=user.id, role=role))
    else:
        member.role = role
    note_action(
        session, acting(user.name), "org.member", f"org:{_name(session, key)}", user=user.name, role=role
    )


def _organisation(session: Session, name: str) -> Namespace:
    row = session.get(Namespace, name.lower())
    if row is None or row.kind != "org":
        raise NotFound("There is no organisation {name!r}.", hint="`fust orgs` lists them.", name=name[:100])
    return row


def _name(session: Session, key: str | None) -> str | None:
    row = session.get(Namespace, key) if key else None
    return row.name if row else None


def _shown(session: Session, row: Invitation) -> Invited:
    inviter = session.get(User, row.created_by)
    return Invited(
        row.id,
        _name(session, row.organisation),
        check_role(row.role) if row.role else None,
        row.new_user,
        row.note,
        inviter.name if inviter else "",
        row.created_at,
        row.expires_at,
        row.used_at,
        row.used_by,
    )
