"""Likes, and collections: lists of repos that somebody put together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from fust.accounts.rights import Identity, may, may_in
from fust.accounts.service import Accounts
from fust.core.clock import utc_naive
from fust.core.errors import Conflict, Denied, InvalidInput, NotFound
from fust.core.ids import RepoType, check_repo_type, new_id
from fust.hub.models import Collection, CollectionItem, Like, Repo
from fust.hub.repos import Repos, to_info
from fust.hub.types import RepoInfo
from fust.store.database import Database

MAX_ITEMS = 1000
THEMES = ("orange", "blue", "green", "purple", "pink", "indigo")


@dataclass(frozen=True, slots=True)
class Item:
    """A repo or a collection in a collection."""

    id: str
    type: str
    name: str
    """`owner/name`, or the slug of a collection."""
    note: str
    position: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A collection with the items that the caller may see."""

    id: str
    slug: str
    owner: str
    title: str
    description: str
    private: bool
    theme: str
    position: int
    updated_at: datetime
    items: list[Item]


class Likes:
    """Who likes which repos."""

    def __init__(self, database: Database, repos: Repos, accounts: Accounts) -> None:
        self._database = database
        self._repos = repos
        self._accounts = accounts

    def set(self, identity: Identity, info: RepoInfo, *, likes: bool) -> int:
        """Says whether the caller likes a repo; returns how many do."""
        self._accounts.require(identity, "write")
        user = identity.user or ""
        with self._database.write() as session:
            row = self._repos.locked_row(session, info)
            here = session.get(Like, (user, info.id))
            if likes and here is None:
                session.add(Like(user=user, repo_id=info.id))
            elif not likes and here is not None:
                session.delete(here)
            session.flush()
            row.likes = session.scalar(select(func.count()).where(Like.repo_id == info.id)) or 0
            count = row.likes
        self._repos.forget()
        return count

    def is_liked_by(self, identity: Identity, info: RepoInfo) -> bool:
        """Returns whether the caller likes a repo."""
        with self._database.read() as session:
            return session.get(Like, (identity.user or "", info.id)) is not None

    def of_repo(self, info: RepoInfo, *, limit: int, skip: int) -> list[str]:
        """Returns users who like a repo, the newest first."""
        query = select(Like.user).where(Like.repo_id == info.id).order_by(Like.created_at.desc(), Like.user)
        with self._database.read() as session:
            return list(session.scalars(query.offset(skip).limit(limit)))

    def of_user(self, identity: Identity, user: str) -> list[tuple[RepoInfo, datetime]]:
        """Returns the repos that a user likes, as far as the caller may see them, the newest first."""
        query = select(Repo, Like.created_at).join(Like, Like.repo_id == Repo.id)
        query = query.where(func.lower(Like.user) == user.lower()).order_by(Like.created_at.desc())
        with self._database.read() as session:
            rows = [(to_info(row), when) for row, when in session.execute(query).tuples()]
        return [(info, when) for info, when in rows if _sees(identity, info)]


def _sees(identity: Identity, info: RepoInfo) -> bool:
    return may(identity, "repo.read", info.repo_id, info.type, private=info.private)


class Collections:
    """Collections of a home."""

    def __init__(self, database: Database, repos: Repos, accounts: Accounts) -> None:
        self._database = database
        self._repos = repos
        self._accounts = accounts

    # Reading

    def list(
        self,
        identity: Identity,
        *,
        owners: Sequence[str] = (),
        item: str = "",
        search: str = "",
        limit: int = 100,
        skip: int = 0,
    ) -> list[Listed]:
        """Returns collections, the newest change first; of ``owners`` only, or with ``item`` (`models/owner/name`)."""
        query = select(Collection).order_by(Collection.updated_at.desc(), Collection.id)
        if owners:
            query = query.where(func.lower(Collection.owner).in_([owner.lower() for owner in owners]))
        if search:
            query = query.where(func.lower(Collection.title).contains(search.lower()[:200], autoescape=True))
        if not identity.is_admin:
            mine = [name for name in (identity.user or "", *identity.roles) if name]
            query = query.where(
                or_(
                    Collection.private.is_(False),
                    func.lower(Collection.owner).in_([name.lower() for name in mine]),
                )
            )
        with self._database.read() as session:
            if item:
                key = self._key_of_item(identity, item)
                holding = select(CollectionItem.collection_id).where(CollectionItem.key == key)
                query = query.where(Collection.id.in_(holding))
            rows = session.scalars(query.offset(skip).limit(limit)).all()
            return [self._listed(session, identity, row) for row in rows]

    def _key_of_item(self, identity: Identity, item: str) -> str:
        plural, _, repo_id = item.partition("/")
        if plural not in ("models", "datasets", "spaces"):
            return ""
        info = self._repos.find(identity, check_repo_type(plural), repo_id)
        return info.id if info else ""

    def get(self, identity: Identity, slug: str) -> Listed:
        """Returns a collection by its slug; its last part, the id, is what counts.

        Raises:
            NotFound: none, or a private one of others.

        """
        with self._database.read() as session:
            return self._listed(session, identity, self._find(session, identity, slug))

    def _find(self, session: Session, identity: Identity, slug: str) -> Collection:
        row = session.get(Collection, slug.rpartition("-")[2])
        if row is None or (row.private and not self._is_theirs(identity, row.owner)):
            raise NotFound("There is no collection {slug!r}.", hint="Check its address.", slug=slug[:200])
        return row

    def _is_theirs(self, identity: Identity, owner: str) -> bool:
        own = identity.user is not None and identity.user.lower() == owner.lower()
        return own or identity.is_admin or owner.lower() in identity.roles

    def _listed(self, session: Session, identity: Identity, row: Collection) -> Listed:
        query = select(CollectionItem).where(CollectionItem.collection_id == row.id)
        items: list[Item] = []
        for item in session.scalars(query.order_by(CollectionItem.position, CollectionItem.id)):
            name = self._name_of(session, identity, item)
            if name:
                items.append(Item(item.id, item.type, name, item.note, len(items)))
        return Listed(
            row.id,
            slug_of(row.owner, row.title, row.id),
            row.owner,
            row.title,
            row.description,
            row.private,
            row.theme,
            row.position,
            row.updated_at,
            items,
        )

    def _name_of(self, session: Session, identity: Identity, item: CollectionItem) -> str:
        """Returns the name of an item; empty when it is gone or the caller may not see it."""
        if item.type == "collection":
            other = session.get(Collection, item.key)
            hidden = other is None or (other.private and not self._is_theirs(identity, other.owner))
            return "" if hidden or other is None else slug_of(other.owner, other.title, other.id)
        row = session.get(Repo, item.key)
        return "" if row is None or not _sees(identity, to_info(row)) else f"{row.owner}/{row.name}"

    # Writing

    def create(
        self, identity: Identity, owner: str, title: str, *, description: str, private: bool
    ) -> tuple[Listed, bool]:
        """Returns a new collection, and True; or the owner's of that title that is there already, and False.

        Raises:
            Denied: not the caller's name.

        """
        self._check(identity, owner)
        title = _title(title)
        with self._database.write() as session:
            known = session.scalars(
                select(Collection).where(Collection.owner == owner, Collection.title == title)
            ).first()
            if known is not None:
                return self._listed(session, identity, known), False
            row = Collection(
                id=new_id("c"), owner=owner, title=title, description=description[:150], private=private
            )
            session.add(row)
            session.flush()
            return self._listed(session, identity, row), True

    def _check(self, identity: Identity, owner: str) -> None:
        self._accounts.require_whole(identity, "write")
        own = identity.user is not None and identity.user.lower() == owner.lower()
        if not (own or may_in(identity, "org.settings", owner)):
            raise Denied(
                "{user} may not write to {owner}.",
                hint="Use a name of your own, or ask the owner of {owner}.",
                user=identity.user,
                owner=owner,
            )

    def update(
        self,
        identity: Identity,
        slug: str,
        *,
        title: str | None = None,
        description: str | None = None,
        private: bool | None = None,
        theme: str | None = None,
        position: int | None = None,
    ) -> Listed:
        """Changes what a collection says of itself."""
        if theme is not None and theme not in THEMES:
            raise InvalidInput(
                "{theme!r} is not a theme.",
                hint="Use orange, blue, green, purple, pink or indigo.",
                theme=theme[:50],
            )
        with self._database.write() as session:
            row = self._writable(session, identity, slug)
            row.title = row.title if title is None else _title(title)
            row.description = row.description if description is None else description[:150]
            row.private = row.private if private is None else private
            row.theme = row.theme if theme is None else theme
            row.position = row.position if position is None else position
            row.updated_at = utc_naive()
            return self._listed(session, identity, row)

    def _writable(self, session: Session, identity: Identity, slug: str) -> Collection:
        row = self._find(session, identity, slug)
        self._check(identity, row.owner)
        return row

    def delete(self, identity: Identity, slug: str) -> None:
        """Removes a collection; what is in it stays."""
        with self._database.write() as session:
            session.delete(self._writable(session, identity, slug))

    def add_item(self, identity: Identity, slug: str, kind: str, name: str, note: str) -> Listed:
        """Puts a repo or another collection into a collection, at its end.

        Raises:
            Conflict: it is in it already.
            RepoNotFound, NotFound: no such thing that the caller may see.

        """
        with self._database.write() as session:
            row = self._writable(session, identity, slug)
            key = (
                self._find(session, identity, name).id
                if kind == "collection"
                else self._repo(identity, kind, name).id
            )
            items = session.scalars(
                select(CollectionItem).where(CollectionItem.collection_id == row.id)
            ).all()
            if any(item.type == kind and item.key == key for item in items):
                raise Conflict("{name} is in the collection already.", name=name[:200])
            if len(items) >= MAX_ITEMS:
                raise InvalidInput(
                    "A collection may hold {limit} items.", hint="Make another.", limit=MAX_ITEMS
                )
            place = max((item.position for item in items), default=-1) + 1
            session.add(
                CollectionItem(
                    id=new_id("i"), collection_id=row.id, type=kind, key=key, note=note[:500], position=place
                )
            )
            row.updated_at = utc_naive()
            session.flush()
            return self._listed(session, identity, row)

    def _repo(self, identity: Identity, kind: str, name: str) -> RepoInfo:
        repo_type: RepoType = check_repo_type(kind)
        return self._repos.get(identity, repo_type, name)

    def update_item(
        self, identity: Identity, slug: str, item_id: str, *, note: str | None, position: int | None
    ) -> None:
        """Changes an item's note or its place, counted from 0."""
        with self._database.write() as session:
            row = self._writable(session, identity, slug)
            item = self._item(session, row, item_id)
            if note is not None:
                item.note = note[:500]
            if position is not None:
                query = select(CollectionItem).where(CollectionItem.collection_id == row.id)
                items = list(session.scalars(query.order_by(CollectionItem.position, CollectionItem.id)))
                items.remove(item)
                items.insert(max(0, position), item)
                for place, other in enumerate(items):
                    other.position = place
            row.updated_at = utc_naive()

    def remove_item(self, identity: Identity, slug: str, item_id: str) -> None:
        """Takes an item out."""
        with self._database.write() as session:
            row = self._writable(session, identity, slug)
            session.delete(self._item(session, row, item_id))
            row.updated_at = utc_naive()

    def _item(self, session: Session, row: Collection, item_id: str) -> CollectionItem:
        item = session.get(CollectionItem, item_id)
        if item is None or item.collection_id != row.id:
            raise NotFound("The collection has no item {id!r}.", hint="Look at it again.", id=item_id[:50])
        return item


def _title(title: str) -> str:
    title = title.strip()
    if not 0 < len(title) <= 60:
        raise InvalidInput("A collection needs a title of 1 to 60 characters.", hint="Say what is in it.")
    return title


def slug_of(owner: str, title: str, row_id: str) -> str:
    """Returns `owner/words-of-the-title-id`."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
    return f"{owner}/{words}-{row_id}" if words else f"{owner}/{row_id}"
