"""Users: people and programs that act."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from fust.accounts import passwords
from fust.accounts.audit import note_action
from fust.accounts.models import BrowserSession, Member, Namespace, SignInCode, User
from fust.accounts.names import check_free, check_shown_name, oldest_admin, user_row
from fust.accounts.rights import SYSTEM, Identity
from fust.core.errors import Conflict, NotFound
from fust.core.ids import new_id
from fust.store.database import Database
from fust.store.outbox import emit

Language = Literal["en", "zh-CN"]
Theme = Literal["system", "light", "dark"]


class Users:
    """The users of a home."""

    def __init__(self, database: Database, changed: Callable[[], None]) -> None:
        self._database = database
        self._changed = changed
        self.count_repos: Callable[[Session, str], int] = lambda session, owner: 0
        """How many repos a name holds; the hub sets it."""

    def create(
        self,
        name: str,
        *,
        is_admin: bool = False,
        password: str | None = None,
        full_name: str = "",
        by: Identity = SYSTEM,
    ) -> User:
        """Makes a user and its namespace.

        Raises:
            InvalidInput: not a name, a reserved one, or a password that is too short.
            Conflict: the name is taken.

        """
        hashed = passwords.hash_password(password) if password is not None else None
        with self._database.write() as session:
            return self.add(
                session, name, is_admin=is_admin, password_hash=hashed, full_name=full_name, by=by
            )

    def add(
        self,
        session: Session,
        name: str,
        *,
        is_admin: bool = False,
        password_hash: str | None = None,
        full_name: str = "",
        by: Identity,
    ) -> User:
        """As ``create``, inside a transaction."""
        check_free(session, name, "user name")
        user = User(
            id=new_id("u"),
            name=name,
            full_name=full_name[:200],
            is_admin=is_admin,
            password_hash=password_hash,
        )
        session.add(user)
        session.flush()
        session.add(Namespace(key=name.lower(), name=name, kind="user", owner_id=user.id))
        session.flush()
        note_action(session, by, "user.create", f"user:{name}", is_admin=is_admin)
        return user

    def get(self, name: str) -> User:
        """Returns a user by name in any case.

        Raises:
            NotFound: there is none of that name.

        """
        with self._database.read() as session:
            return user_row(session, name)

    def find(self, name: str | None) -> User | None:
        """Returns a user by name in any case, or None."""
        if name is None:
            return None
        try:
            return self.get(name)
        except NotFound:
            return None

    def list(self, search: str = "", limit: int = 10_000) -> list[User]:
        """Returns users by name; ``search`` is looked for in both names."""
        query = select(User).order_by(User.name).limit(limit)
        if search:
            like = f"%{search.lower().replace('%', '').replace('_', '')}%"
            query = query.where(func.lower(User.name).like(like) | func.lower(User.full_name).like(like))
        with self._database.read() as session:
            return [*session.scalars(query)]

    def first_admin(self) -> User | None:
        """Returns the administrator who was first, if there is one that may act."""
        with self._database.read() as session:
            return oldest_admin(session)

    def update(
        self,
        name: str,
        *,
        full_name: str | None = None,
        is_admin: bool | None = None,
        suspended: bool | None = None,
        language: Language | None = None,
        theme: Theme | None = None,
        by: Identity = SYSTEM,
    ) -> User:
        """Changes a user; what is none stays. One who is suspended is refused everywhere within two seconds.

        Raises:
            NotFound: there is none of that name.
            Conflict: nobody would be left to administer.

        """
        with self._database.write() as session:
            user = user_row(session, name)
            if full_name is not None and full_name != user.full_name:
                user.full_name = check_shown_name(full_name)
                note_action(session, by, "user.rename", f"user:{user.name}", full_name=user.full_name)
            if is_admin is not None and is_admin != user.is_admin:
                user.is_admin = is_admin
                note_action(session, by, "user.admin", f"user:{user.name}", is_admin=is_admin)
            if suspended is not None and suspended != user.suspended:
                user.suspended = suspended
                if suspended:
                    session.execute(delete(BrowserSession).where(BrowserSession.user_id == user.id))
                note_action(session, by, "user.suspend" if suspended else "user.resume", f"user:{user.name}")
            # How the page looks is nobody else's business: the audit does not hear of it.
            user.language, user.theme = language or user.language, theme or user.theme
            session.flush()
            _check_admin_left(session)
        self._changed()
        return user

    def remove(self, name: str, *, by: Identity = SYSTEM) -> None:
        """Deletes a user with its keys; who keeps repos, or is the last owner somewhere, has to hand them on first.

        Raises:
            NotFound: there is none of that name.
            Conflict: it keeps repos, is the last owner of an organisation, or nobody would be left to administer.

        """
        with self._database.write() as session:
            user = user_row(session, name)
            count = self.count_repos(session, user.name)
            if count:
                raise Conflict(
                    "{name} keeps {count} repos.",
                    hint="Delete those first; or suspend the user, and the repos stay.",
                    code="not_empty",
                    name=user.name,
                    count=count,
                )
            _check_owners_left(session, user)
            session.delete(user)
            session.flush()
            _check_admin_left(session)
            note_action(session, by, "user.delete", f"user:{user.name}")
            emit(session, "user_removed", user=user.name, id=user.id)
        self._changed()

    def set_password(self, name: str, password: str, *, by: Identity = SYSTEM) -> None:
        """Sets a user's password and signs all of its browsers out, but for the one that asks for it."""
        hashed = passwords.hash_password(password)
        with self._database.write() as session:
            user = user_row(session, name)
            user.password_hash = hashed
            here = by.session_id if by.user == user.name else None
            theirs = delete(BrowserSession).where(BrowserSession.user_id == user.id)
            session.execute(theirs if here is None else theirs.where(BrowserSession.secret_hash != here))
            session.execute(delete(SignInCode).where(SignInCode.user_id == user.id))
            note_action(session, by, "user.password", f"user:{user.name}")
        self._changed()

    def has_admin_password(self) -> bool:
        """Returns whether some administrator can sign in by password."""
        with self._database.read() as session:
            query = select(User.id).where(User.is_admin, User.password_hash.is_not(None))
            return session.scalars(query).first() is not None


def _check_admin_left(session: Session) -> None:
    if oldest_admin(session) is None:
        raise Conflict("This is the last administrator.", hint="Make another one first.", code="last_admin")


def _check_owners_left(session: Session, user: User) -> None:
    """Raises when an organisation would be left without an owner."""
    owned = select(Member.organisation).where(Member.user_id == user.id, Member.role == "owner")
    others = select(Member.organisation).where(Member.user_id != user.id, Member.role == "owner")
    alone = session.scalars(owned.where(Member.organisation.not_in(others))).first()
    if alone is not None:
        raise Conflict(
            "{name} is the last owner of {organisation}.",
            hint="Make somebody else an owner first.",
            code="last_owner",
            name=user.name,
            organisation=alone,
        )
