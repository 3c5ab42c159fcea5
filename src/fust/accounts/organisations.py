"""Organisations: names that several people share, each with a role."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fust.accounts.audit import note_action
from fust.accounts.models import Member, Namespace, User
from fust.accounts.names import check_free, check_shown_name, oldest_admin, user_row
from fust.accounts.rights import SYSTEM, Identity, Role, check_role, may_in, role_in
from fust.core.errors import Conflict, Denied, NotFound, Unauthenticated
from fust.core.ids import check_name
from fust.store.database import Database
from fust.store.outbox import emit


@dataclass(frozen=True, slots=True)
class Organisation:
    """An organisation as a list shows it."""

    name: str
    display_name: str
    created_at: datetime
    members: int


@dataclass(frozen=True, slots=True)
class Membership:
    """A member of an organisation."""

    name: str
    full_name: str
    role: Role
    since: datetime


class Organisations:
    """The organisations of a home. Rights are checked here: rights.py says which role may what."""

    def __init__(self, database: Database, changed: Callable[[], None]) -> None:
        self._database = database
        self._changed = changed
        self.count_repos: Callable[[Session, str], int] = lambda session, owner: 0
        """How many repos a name holds; the hub sets it."""

    # Looking

    def list(self, names: list[str] | None = None) -> list[Organisation]:
        """Returns all organisations by name, or those of ``names`` (in lower case)."""
        count = select(func.count()).where(Member.organisation == Namespace.key).scalar_subquery()
        query = select(Namespace, count).where(Namespace.kind == "org").order_by(Namespace.key)
        if names is not None:
            query = query.where(Namespace.key.in_(names))
        with self._database.read() as session:
            return [
                Organisation(row.name, row.display_name, row.created_at, members or 0)
                for row, members in session.execute(query)
            ]

    def get(self, name: str) -> Organisation:
        """Returns an organisation, or raises NotFound."""
        found = self.list([name.lower()])
        if not found:
            raise _not_found(name)
        return found[0]

    def find_name(self, name: str) -> Namespace | None:
        """Returns a user's or an organisation's name as it is spelled, or None."""
        with self._database.read() as session:
            return session.get(Namespace, name.lower())

    def list_members(self, name: str) -> list[Membership]:
        """Returns who belongs to an organisation, by name, or raises NotFound."""
        self.get(name)
        query = (
            select(User.name, User.full_name, Member.role, Member.created_at)
            .join(Member, Member.user_id == User.id)
            .where(Member.organisation == name.lower())
            .order_by(User.name)
        )
        with self._database.read() as session:
            return [
                Membership(user, full_name, check_role(role), since)
                for user, full_name, role, since in session.execute(query)
            ]

    def list_of(self, user_id: str) -> list[Organisation]:
        """Returns the organisations that a user belongs to."""
        with self._database.read() as session:
            names = [*self.roles_of(session, user_id)]
        return self.list(names)

    def roles_of(self, session: Session, user_id: str) -> dict[str, Role]:
        """Returns a user's role in each organisation it belongs to, by the name in lower case."""
        query = select(Member.organisation, Member.role).where(Member.user_id == user_id)
        return {key: check_role(role) for key, role in session.execute(query)}

    # Changing

    def create(self, name: str, *, by: Identity, display_name: str = "", owner: str = "") -> Organisation:
        """Makes an organisation; the caller, or ``owner``, is its first owner.

        Raises:
            InvalidInput: not a name, or a reserved one.
            Conflict: it is taken.

        """
        shown = check_shown_name(display_name)
        with self._database.write() as session:
            if by is SYSTEM and not owner:
                check_name(name, "organisation")
                holder = oldest_admin(session)
                if holder is None:
                    raise NotFound("There is no administrator yet.", hint="Start the server once: `fust up`.")
            else:
                check_free(session, name, "organisation")
                holder = user_row(session, owner or by.user or "")
            row = Namespace(key=name.lower(), name=name, kind="org", display_name=shown, owner_id=None)
            session.add(row)
            session.flush()
            session.add(Member(organisation=row.key, user_id=holder.id, role="owner"))
            note_action(session, by, "org.create", f"org:{name}", owner=holder.name)
        self._changed()
        return Organisation(row.name, row.display_name, row.created_at, 1)

    def rename(self, name: str, display_name: str, *, by: Identity) -> Organisation:
        """Changes the name that is shown; the one in repo ids stays. Needs the role admin."""
        shown = check_shown_name(display_name)
        with self._database.write() as session:
            row = _row(session, name)
            _check(by, may_in(by, "org.settings", name), row.name, "admin")
            row.display_name = shown
            note_action(session, by, "org.rename", f"org:{row.name}", display_name=shown)
        return self.get(name)

    def remove(self, name: str, *, by: Identity) -> None:
        """Deletes an organisation that keeps no repos. Needs the role owner.

        Raises:
            Conflict: it keeps repos.

        """
        with self._database.write() as session:
            row = _row(session, name)
            _check(by, may_in(by, "org.delete", name), row.name, "owner")
            count = self.count_repos(session, row.name)
            if count:
                raise Conflict(
                    "{name} keeps {count} repos.",
                    hint="Delete those first.",
                    code="not_empty",
                    name=row.name,
                    count=count,
                )
            session.delete(row)
            note_action(session, by, "org.delete", f"org:{row.name}")
            emit(session, "organisation_removed", organisation=row.name)
        self._changed()

    def set_member(self, name: str, user_name: str, role: str, *, by: Identity) -> Membership:
        """Gives a user a role in an organisation, whether it belonged to it before or not.

        An admin gives and changes the roles read and write, an owner all.

        Raises:
            NotFound: no such organisation or user.
            Denied: the caller's role is not enough.
            Conflict: it would leave the organisation without an owner.

        """
        wanted = check_role(role)
        with self._database.write() as session:
            row = _row(session, name)
            user = user_row(session, user_name)
            member = session.get(Member, (row.key, user.id))
            self._check_member_change(by, row.name, wanted, member)
            if member is None:
                member = Member(organisation=row.key, user_id=user.id, role=wanted)
                session.add(member)
                note_action(session, by, "org.member", f"org:{row.name}", user=user.name, role=wanted)
            elif member.role != wanted:
                _check_owner_left(session, row, member)
                member.role = wanted
                note_action(session, by, "org.member", f"org:{row.name}", user=user.name, role=wanted)
            session.flush()
            made = Membership(user.name, user.full_name, wanted, member.created_at)
        self._changed()
        return made

    def remove_member(self, name: str, user_name: str, *, by: Identity) -> None:
        """Ends a membership; anybody may end its own.

        Raises:
            NotFound: no such organisation, or no such member of it.
            Denied: the caller's role is not enough.
            Conflict: it would leave the organisation without an owner.

        """
        with self._database.write() as session:
            row = _row(session, name)
            user = user_row(session, user_name)
            member = session.get(Member, (row.key, user.id))
            if member is None:
                raise NotFound(
                    "{user} does not belong to {organisation}.", user=user.name, organisation=row.name
                )
            leaves = user.name == by.user and by.grants is None and "write" in by.scopes
            if not leaves:
                self._check_member_change(by, row.name, "read", member)
            _check_owner_left(session, row, member)
            session.delete(member)
            note_action(session, by, "org.remove_member", f"org:{row.name}", user=user.name)
        self._changed()

    def _check_member_change(self, by: Identity, name: str, wanted: Role, member: Member | None) -> None:
        high = wanted in ("admin", "owner") or (member is not None and member.role in ("admin", "owner"))
        if high:
            _check(by, may_in(by, "org.owners", name), name, "owner")
        else:
            _check(by, may_in(by, "org.members", name), name, "admin")

    def ensure(self, name: str, *, by: Identity) -> str:
        """Returns the name as it is spelled, making an organisation of it when an administrator asks for a new one.

        Raises:
            NotFound: no such name, and the caller may not make it.

        """
        check_name(name, "owner")
        found = self.find_name(name)
        if found is not None:
            return found.name
        if not by.is_admin:
            raise NotFound(
                "There is no user or organisation {owner!r}.",
                hint="Use your own name, or make an organisation: `fust orgs new {owner}`.",
                owner=name,
            )
        return self.create(name, by=by).name

    def hold(self, session: Session, name: str) -> None:
        """Keeps a name from being deleted until the end of a transaction that puts a repo under it."""
        if session.get(Namespace, name.lower(), with_for_update=True) is None:
            raise _not_found(name)


def _row(session: Session, name: str) -> Namespace:
    row = session.get(Namespace, name.lower(), with_for_update=True)
    if row is None or row.kind != "org":
        raise _not_found(name)
    return row


def _not_found(name: str) -> NotFound:
    return NotFound("There is no organisation {name!r}.", hint="`fust orgs` lists them.", name=name[:100])


def _check(by: Identity, allowed: bool, name: str, needed: Role) -> None:
    if allowed:
        return
    if by.user is None:
        raise Unauthenticated("This needs a key.")
    if by.grants is not None:
        raise fine_grained()
    if role_in(by, name) is not None and "write" not in by.scopes:
        raise Denied(
            "The key has not the scope {scope!r}.",
            hint="Make one that has: `fust tokens new --scope {scope}`.",
            scope="write",
        )
    raise Denied(
        "This needs the role {needed} in {name}; {user} has {role}.",
        hint="Ask an owner of {name}.",
        needed=needed,
        name=name,
        user=by.user,
        role=role_in(by, name) or "-",
    )


def fine_grained() -> Denied:
    """Returns the error for a fine-grained key on a person's account."""
    return Denied(
        "This key is for certain repos and models only; it cannot look after keys, people or organisations.",
        hint="Sign in, or use a key without such limits.",
        code="fine_grained",
    )


def _check_owner_left(session: Session, row: Namespace, member: Member) -> None:
    if member.role != "owner":
        return
    owners = select(func.count()).where(Member.organisation == row.key, Member.role == "owner")
    if (session.scalar(owners) or 0) < 2:
        raise Conflict(
            "{organisation} would be left without an owner.",
            hint="Make somebody else an owner first.",
            code="last_owner",
            organisation=row.name,
        )
