"""Locks of git-lfs (git-lfs/docs/api/locking.md): who works on a file that cannot be merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import Denied, NotFound
from fust.core.ids import new_id
from fust.hub.models import LfsLock
from fust.hub.paths import check_path
from fust.hub.types import RepoInfo
from fust.store.database import Database


@dataclass(frozen=True, slots=True)
class Lock:
    """A file that somebody works on."""

    id: str
    path: str
    owner: str
    locked_at: datetime


class Locks:
    """The locks of all repos."""

    def __init__(self, database: Database, accounts: Accounts) -> None:
        self._database = database
        self._accounts = accounts

    def create(self, identity: Identity, info: RepoInfo, path: str) -> tuple[Lock, bool]:
        """Returns the lock of a path, and whether it was made now; False when somebody holds it already."""
        self._accounts.check(identity, "repo.push", info.repo_id, info.type)
        check_path(path)
        row = LfsLock(id=new_id("l"), repo_id=info.id, path=path, owner=identity.user or "")
        try:
            with self._database.write() as session:
                session.add(row)
                session.flush()
            return _lock(row), True
        except IntegrityError:
            found = self.list(info, path=path)
            if not found:  # given back in this moment
                return self.create(identity, info, path)
            return found[0], False

    def list(
        self, info: RepoInfo, *, path: str = "", lock_id: str = "", limit: int = 1000, skip: int = 0
    ) -> list[Lock]:
        """Returns locks by path."""
        query = select(LfsLock).where(LfsLock.repo_id == info.id).order_by(LfsLock.path)
        if path:
            query = query.where(LfsLock.path == path)
        if lock_id:
            query = query.where(LfsLock.id == lock_id)
        with self._database.read() as session:
            rows: Sequence[LfsLock] = session.scalars(query.offset(skip).limit(limit)).all()
        return [_lock(row) for row in rows]

    def remove(self, identity: Identity, info: RepoInfo, lock_id: str, *, force: bool) -> Lock:
        """Gives a lock back; another's only by force.

        Raises:
            NotFound: no such lock.
            Denied: another's, without force.

        """
        self._accounts.check(identity, "repo.push", info.repo_id, info.type)
        with self._database.write() as session:
            row = session.get(LfsLock, lock_id)
            if row is None or row.repo_id != info.id:
                raise NotFound(
                    "There is no lock {id!r}.", hint="`git lfs locks` lists them.", id=lock_id[:50]
                )
            if row.owner != identity.user and not force:
                raise Denied(
                    "{path} is locked by {user}.",
                    hint="Ask them, or run: git lfs unlock --force.",
                    path=row.path,
                    user=row.owner,
                )
            session.delete(row)
        return _lock(row)


def _lock(row: LfsLock) -> Lock:
    return Lock(row.id, row.path, row.owner, row.created_at)
