"""Repos as rows: making, finding, listing and removing them, and who may see them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fust.accounts.audit import note_action
from fust.accounts.rights import Action, Identity, allows, may
from fust.accounts.service import Accounts
from fust.core.errors import InvalidInput
from fust.core.ids import REPO_TYPES, RepoType, check_repo_type, new_id, split_repo_id
from fust.core.locks import FileLock
from fust.hub.attributes import initial_attributes
from fust.hub.errors import RepoExists, repo_not_found
from fust.hub.git_store import GitStore
from fust.hub.models import OldName, Repo, RepoFile
from fust.hub.types import RepoInfo, RepoPage, Sort
from fust.store.database import Database
from fust.store.outbox import emit

MAX_WORDS = 20
"""Words of a search that are looked for; more are ignored (SQLite takes no expression of 1000 parts)."""
_CACHE_S = 1.0  # another process's change of a repo's row is seen within this time


def to_info(row: Repo) -> RepoInfo:
    """Returns a row as a value."""
    return RepoInfo(
        id=row.id,
        type=row.type,  # pyright: ignore[reportArgumentType] checked when the row was made
        owner=row.owner,
        name=row.name,
        private=row.private,
        gated=row.gated,
        agree_since=row.agree_since,
        created_at=row.created_at,
        updated_at=row.updated_at,
        head_oid=row.head_oid,
        size_bytes=row.size_bytes,
        downloads=row.downloads,
        likes=row.likes,
        licence=row.licence,
        languages=list(row.languages),
        task=row.task,
        library=row.library,
        tags=list(row.tags),
        formats=list(row.formats),
        smallest_gguf_bytes=row.smallest_gguf_bytes,
        largest_gguf_bytes=row.largest_gguf_bytes,
        description=row.description,
        sdk=row.sdk,
        protected=["main"] if row.protected is None else list(row.protected),
    )


class Repos:
    """The index of repos of a home."""

    def __init__(self, database: Database, accounts: Accounts, git: GitStore) -> None:
        self._database = database
        self._accounts = accounts
        self._git = git
        self._cache: dict[tuple[str, str], tuple[float, RepoInfo]] = {}
        self._lock = threading.Lock()
        self.generation = 0
        """Grows with every change made by this process; caches above are void when it does."""

    # Finding

    def find_row(self, repo_type: RepoType, repo_id: str) -> RepoInfo | None:
        """Returns a repo whatever the rights; at most one second old when another process changed it."""
        key = (repo_type, repo_id.lower())
        entry = self._cache.get(key)
        if entry and time.monotonic() - entry[0] < _CACHE_S:
            return entry[1]
        with self._database.read() as session:
            row = session.scalars(select(Repo).where(Repo.type == repo_type, Repo.key == key[1])).first()
        if row is None:
            return None
        info = to_info(row)
        with self._lock:
            if len(self._cache) > 5000:
                self._cache.clear()
            self._cache[key] = (time.monotonic(), info)
        return info

    def find_moved(self, repo_type: RepoType, repo_id: str) -> RepoInfo | None:
        """Returns the repo that once had a name, or None."""
        with self._database.read() as session:
            old = session.get(OldName, (repo_type, repo_id.lower()))
            row = session.get(Repo, old.repo_id) if old else None
        return to_info(row) if row else None

    def find_by_row_id(self, row_id: str) -> RepoInfo | None:
        """Returns a repo by its row's id, whatever the rights; remembered as in ``find_row``."""
        key = ("", row_id)
        entry = self._cache.get(key)
        if entry and time.monotonic() - entry[0] < _CACHE_S:
            return entry[1]
        with self._database.read() as session:
            row = session.get(Repo, row_id)
        if row is None:
            return None
        info = to_info(row)
        with self._lock:
            self._cache[key] = (time.monotonic(), info)
        return info

    def forget(self) -> None:
        """Drops what is remembered, so that a change holds at once in this process."""
        with self._lock:
            self.generation += 1
            self._cache.clear()

    def find(self, identity: Identity, repo_type: RepoType, repo_id: str) -> RepoInfo | None:
        """Returns a repo that the caller may read, or None: a private one looks like a missing one."""
        info = self.find_row(repo_type, repo_id)
        if info is None or not may(identity, "repo.read", info.repo_id, info.type, private=info.private):
            return None
        return info

    def get(self, identity: Identity, repo_type: RepoType, repo_id: str) -> RepoInfo:
        """Returns a repo that the caller may read.

        Raises:
            RepoNotFound: none, or the caller may not know of it.

        """
        info = self.find(identity, repo_type, repo_id)
        if info is None:
            raise repo_not_found(repo_id)
        return info

    def get_for(self, identity: Identity, action: Action, repo_type: RepoType, repo_id: str) -> RepoInfo:
        """Returns a repo with which the caller may do what ``action`` says.

        Raises:
            RepoNotFound: none, or the caller may not know of it.
            Unauthenticated, Denied: it may be read, and no more.

        """
        info = self.get(identity, repo_type, repo_id)
        self._accounts.check(identity, action, info.repo_id, info.type)
        return info

    # Listing

    def list_page(
        self,
        identity: Identity,
        repo_type: RepoType | None,
        *,
        search: str = "",
        author: str = "",
        tags: Sequence[str] = (),
        sort: Sort = "updated",
        limit: int = 50,
        cursor: str | None = None,
        gated: bool | None = None,
        keep: Callable[[RepoInfo], bool] | None = None,
    ) -> RepoPage:
        """Returns repos that the caller may see. ``keep`` is asked of each when a filter needs more than the row.

        Raises:
            InvalidInput: the cursor is not one of ours.

        """
        if cursor is not None and not re.fullmatch(r"[0-9]{1,9}", cursor):
            raise InvalidInput(
                "{cursor!r} is not a cursor.", hint="Start at the first page.", cursor=cursor[:50]
            )
        offset = int(cursor or 0)
        query = self._visible(identity, select(Repo))
        if repo_type:
            query = query.where(Repo.type == repo_type)
        if author:
            query = query.where(func.lower(Repo.owner) == author.lower())
        if gated is not None:
            query = query.where(Repo.gated != "" if gated else Repo.gated == "")
        for word in search.lower().split()[:MAX_WORDS]:
            like = "%" + word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            query = query.where(Repo.key.like(like, escape="\\"))
        orders = {
            "updated": Repo.updated_at.desc(),
            "created": Repo.created_at.desc(),
            "name": Repo.key,
            "size": Repo.size_bytes.desc(),
            "downloads": Repo.downloads.desc(),
            "likes": Repo.likes.desc(),
            "trending": (Repo.likes * 10 + Repo.downloads).desc(),
        }
        query = query.order_by(orders[sort], Repo.id)
        with self._database.read() as session:
            if tags or keep:  # JSON columns: matched here, so that both databases agree
                rows = [row for row in session.scalars(query) if all(_has_tag(row, tag) for tag in tags)]
                rows = [row for row in rows if keep is None or keep(to_info(row))]
                total, page = len(rows), rows[offset : offset + limit]
            else:
                total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
                page = list(session.scalars(query.offset(offset).limit(limit)))
        following = str(offset + limit) if offset + limit < total else None
        return RepoPage([to_info(row) for row in page], following, total)

    def _visible(self, identity: Identity, query: Select[Repo]) -> Select[Repo]:
        if identity.is_admin:
            return query
        return query.where(or_(Repo.private.is_(False), *_readable(identity)))

    def count_of(self, session: Session, owner: str) -> int:
        """Returns how many repos a name holds."""
        query = select(func.count()).where(func.lower(Repo.owner) == owner.lower())
        return session.scalar(query) or 0

    def may_read_large(self, identity: Identity, sha256: str) -> bool:
        """Returns whether some repo whose files the caller may read holds a large file."""
        query = select(Repo.id).join(RepoFile, RepoFile.repo_id == Repo.id).where(RepoFile.sha256 == sha256)
        if not identity.is_admin:
            is_public = and_(Repo.private.is_(False), Repo.gated == "")
            is_mine = [and_(Repo.gated == "", mine) for mine in _readable(identity)]
            query = query.where(or_(is_public, *is_mine, *_readable(identity, "repo.open")))
        with self._database.read() as session:
            return session.scalars(query.limit(1)).first() is not None

    def counts(self) -> dict[str, int]:
        """Returns how many repos there are of each type."""
        with self._database.read() as session:
            return dict(session.execute(select(Repo.type, func.count()).group_by(Repo.type)).tuples())

    # Changing

    def create(
        self, identity: Identity, repo_type: RepoType, repo_id: str, *, private: bool, sdk: str = ""
    ) -> RepoInfo:
        """Makes a repo with one commit on `main`.

        Raises:
            RepoExists: the name is taken.
            Unauthenticated, Denied, NotFound: the caller may not, or there is no such owner.

        """
        owner, name = split_repo_id(repo_id)
        self._accounts.require(identity, "write")
        owner = self._accounts.organisations.ensure(owner, by=identity)
        self._accounts.check(identity, "repo.create", f"{owner}/{name}", repo_type)
        key = f"{owner}/{name}".lower()
        with FileLock(self._git.root / ".create.lock"):
            with self._database.read() as session:
                if session.scalars(select(Repo.id).where(Repo.type == repo_type, Repo.key == key)).first():
                    raise _exists(repo_type, owner, name)
            head = self._git.create(
                repo_type,
                owner,
                name,
                {".gitattributes": initial_attributes(repo_type)},
                identity.user or "fust",
            )
            row = Repo(
                id=new_id("r"), type=repo_type, key=key, owner=owner, name=name, private=private, sdk=sdk
            )
            row.head_oid = head
            row.languages, row.tags, row.formats = [], [], []
            try:
                with self._database.write() as session:
                    self._accounts.organisations.hold(session, owner)
                    session.add(row)
                    session.execute(delete(OldName).where(OldName.type == repo_type, OldName.key == key))
                    session.flush()
                    emit(session, "repo_created", **to_info(row).told)
                    subject = f"{repo_type}:{owner}/{name}"
                    note_action(session, identity, "repo.create", subject, private=private)
            except IntegrityError as error:
                raise _exists(repo_type, owner, name) from error
        self.forget()
        return to_info(row)

    def remove(self, identity: Identity, info: RepoInfo) -> None:
        """Deletes a repo: row first, so that no row ever points to a repository that is gone."""
        with self._database.write() as session:
            session.execute(delete(Repo).where(Repo.id == info.id))
            emit(session, "repo_deleted", **info.told)
            note_action(session, identity, "repo.delete", f"{info.type}:{info.repo_id}")
        self._git.remove(info.type, info.owner, info.name)
        self.forget()

    def update(
        self,
        identity: Identity,
        info: RepoInfo,
        *,
        private: bool | None = None,
        gated: str | None = None,
        protected: list[str] | None = None,
    ) -> RepoInfo:
        """Changes who may see or download a repo, or which branches are protected."""
        with self._database.write() as session:
            row = self.locked_row(session, info)
            if private is not None:
                row.private = private
            if gated is not None:
                row.gated = gated
            if protected is not None:
                row.protected = protected
            changed = {"private": private, "gated": gated}
            emit(
                session,
                "repo_settings",
                **to_info(row).told,
                changed={k: v for k, v in changed.items() if v is not None and v != getattr(info, k)},
            )
            note_action(
                session,
                identity,
                "repo.settings",
                f"{info.type}:{info.repo_id}",
                private=private,
                gated=gated,
                protected=None if protected is None else " ".join(protected),
            )
        self.forget()
        return to_info(row)

    def locked_row(self, session: Session, info: RepoInfo) -> Repo:
        """Returns a repo's row inside a transaction.

        Raises:
            RepoNotFound: it was deleted meanwhile.

        """
        row = session.get(Repo, info.id)
        if row is None:
            raise repo_not_found(info.repo_id)
        return row

    def touch_downloads(self, counts: dict[str, int]) -> None:
        """Adds downloads, by row id."""
        with self._database.write() as session:
            for row_id, count in counts.items():
                row = session.get(Repo, row_id)
                if row is not None:
                    row.downloads += count

    def remove_orphans(self) -> int:
        """Deletes repositories that no row names (a server died between the two); returns how many."""
        removed = 0
        with FileLock(self._git.root / ".create.lock"), self._database.read() as session:
            known = {(f"{row.type}s", row.owner, row.name) for row in session.scalars(select(Repo))}
            for plural, owner, name in list(self._git.iter_repos()):
                if (plural, owner, name) not in known:
                    self._git.remove(check_repo_type(plural), owner, name)
                    removed += 1
        return removed

    def pending(self) -> list[RepoInfo]:
        """Returns repos whose ref may have moved without their row."""
        with self._database.read() as session:
            return [to_info(row) for row in session.scalars(select(Repo).where(Repo.pending))]


def _readable(identity: Identity, action: Action = "repo.read") -> list[ColumnElement[bool]]:
    """Returns the conditions under which the caller sees private repos, as ``rights.may`` decides for one."""
    if identity.user is None:
        return []
    owners = [owner for owner, role in identity.roles.items() if allows(role, action)]
    readable = func.lower(Repo.owner).in_([identity.user.lower(), *owners])
    if identity.grants is None:
        return [readable]
    covered: list[ColumnElement[bool]] = []
    for repo_type in REPO_TYPES:
        for pattern in identity.grants.patterns_for(repo_type):
            owner, _, name = pattern.partition("/")
            of_type = Repo.type == repo_type
            if pattern == "*":
                covered.append(of_type)
            elif name == "*":
                covered.append(and_(of_type, func.lower(Repo.owner) == owner))
            else:
                covered.append(and_(of_type, Repo.key == pattern))
    return [and_(readable, or_(*covered))] if covered else []


def _has_tag(row: Repo, tag: str) -> bool:
    wanted = tag.lower()
    kind, _, value = wanted.partition(":")
    if kind == "license":
        return row.licence.lower() == value
    if kind == "language":
        return value in [language.lower() for language in row.languages]
    found = {t.lower() for t in [*row.tags, *row.languages, *row.formats, row.task, row.library]}
    return wanted in found


def _exists(repo_type: str, owner: str, name: str) -> RepoExists:
    return RepoExists(
        "You already created this {type} repo: {repo_id}.",
        hint="Use it, or choose another name.",
        type=repo_type,
        repo_id=f"{owner}/{name}",
    )
