"""Who follows which people and organisations."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from fust.accounts.models import Namespace, User
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import InvalidInput, NotFound
from fust.hub.models import Follow
from fust.store.database import Database

Kind = Literal["user", "org"]


class Follows:
    """Who follows whom. Rows hold an account's own keys, so they end with the account."""

    def __init__(self, database: Database, accounts: Accounts) -> None:
        self._database = database
        self._accounts = accounts

    def set(self, identity: Identity, name: str, kind: Kind, *, follows: bool) -> None:
        """Says whether the caller follows a person or an organisation.

        Raises:
            NotFound: there is none of that name.
            InvalidInput: it is the caller.
            Unauthenticated, Denied: nobody signed in, or the key is not for the whole account.

        """
        self._accounts.require_whole(identity, "write")
        user = self._accounts.users.get(identity.user or "")
        self._check(name, kind)
        if name.lower() == user.name.lower():
            raise InvalidInput("You cannot follow yourself.", hint="Follow somebody else.")
        try:
            with self._database.write() as session:
                here = session.get(Follow, (user.id, name.lower()))
                if follows and here is None:
                    session.add(Follow(follower=user.id, followed=name.lower()))
                elif not follows and here is not None:
                    session.delete(here)
        except IntegrityError:
            self._check(name, kind)  # gone meanwhile; else another request said the same

    def _check(self, name: str, kind: Kind) -> None:
        found = self._accounts.organisations.find_name(name)
        if found is None or found.kind != kind:
            raise NotFound("There is no {name!r}.", hint="Check the name.", name=name[:100])

    def is_followed_by(self, identity: Identity, name: str) -> bool:
        """Returns whether the caller follows a name."""
        query = select(Follow).join(User, User.id == Follow.follower)
        query = query.where(User.name == identity.user, Follow.followed == name.lower())
        with self._database.read() as session:
            return session.scalars(query).first() is not None

    def followers(self, name: str, kind: Kind, *, limit: int, skip: int = 0) -> list[User]:
        """Returns the people who follow a name, the newest first.

        Raises:
            NotFound: there is none of that name.

        """
        self._check(name, kind)
        query = select(User).join(Follow, Follow.follower == User.id).where(Follow.followed == name.lower())
        query = query.order_by(Follow.created_at.desc(), User.name).offset(skip).limit(limit)
        with self._database.read() as session:
            return list(session.scalars(query))

    def following(self, name: str, *, limit: int, skip: int = 0) -> list[User]:
        """Returns the people whom a person follows, the newest first.

        Raises:
            NotFound: there is no such person.

        """
        user = self._accounts.users.get(name)
        query = select(User).join(Namespace, Namespace.owner_id == User.id)
        query = query.join(Follow, Follow.followed == Namespace.key).where(Follow.follower == user.id)
        query = query.order_by(Follow.created_at.desc(), User.name).offset(skip).limit(limit)
        with self._database.read() as session:
            return list(session.scalars(query))

    def count_followers(self, name: str) -> int:
        """Returns how many people follow a name."""
        with self._database.read() as session:
            return session.scalar(select(func.count()).where(Follow.followed == name.lower())) or 0

    def count_following(self, name: str) -> int:
        """Returns how many people a person follows; organisations are not counted, as they are not listed."""
        query = select(func.count()).select_from(Follow).join(User, User.id == Follow.follower)
        query = query.join(Namespace, Namespace.key == Follow.followed)
        query = query.where(User.name == name, Namespace.owner_id.is_not(None))
        with self._database.read() as session:
            return session.scalar(query) or 0
