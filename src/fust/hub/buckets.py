"""Buckets: files under paths, without history, written in batches. Their bytes are large files like any other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fust.accounts.audit import note_action
from fust.accounts.rights import Action, Identity, may
from fust.accounts.service import Accounts
from fust.core.clock import utc_naive
from fust.core.ids import new_id, split_repo_id
from fust.core.settings import HubSettings
from fust.hub.bucket_batch import Failure, PutFile, Written, write_batch
from fust.hub.errors import EntryNotFound, RepoExists, repo_not_found
from fust.hub.models import Bucket, BucketFile, OldBucketName
from fust.hub.types import StoredFile
from fust.store.database import Database

_CACHE_S = 1.0  # as of repos: another process's change is seen within this time
_SCAN = 1000


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """A bucket as of when it was read."""

    id: str
    owner: str
    name: str
    private: bool
    files: int
    size_bytes: int
    created_at: datetime
    updated_at: datetime
    type: Literal["bucket"] = "bucket"

    @property
    def repo_id(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a bucket, or a folder of which files are."""

    path: str
    file: Written | None = None


def _to_info(row: Bucket) -> BucketInfo:
    return BucketInfo(
        row.id,
        row.owner,
        row.name,
        row.private,
        row.files,
        row.size_bytes,
        row.created_at,
        row.updated_at,
    )


class Buckets:
    """The buckets of a home."""

    def __init__(self, database: Database, accounts: Accounts, settings: HubSettings) -> None:
        self._database = database
        self._accounts = accounts
        self._settings = settings
        self._cache: dict[str, tuple[float, BucketInfo]] = {}
        self._lock = threading.Lock()

    # Finding

    def find(self, identity: Identity, bucket_id: str) -> BucketInfo | None:
        """Returns a bucket that the caller may read, or None: a private one looks like a missing one."""
        with self._database.read() as session:
            row = session.scalars(select(Bucket).where(Bucket.key == bucket_id.lower())).first()
        if row is None or not may(identity, "repo.read", bucket_id, "bucket", private=row.private):
            return None
        return _to_info(row)

    def get(self, identity: Identity, bucket_id: str) -> BucketInfo:
        """Returns a bucket that the caller may read.

        Raises:
            RepoNotFound: none, or the caller may not know of it.

        """
        info = self.find(identity, bucket_id)
        if info is None:
            raise repo_not_found(bucket_id)
        return info

    def get_for(self, identity: Identity, action: Action, bucket_id: str) -> BucketInfo:
        """Returns a bucket with which the caller may do what ``action`` says.

        Raises:
            RepoNotFound: none, or the caller may not know of it.
            Unauthenticated, Denied: it may be read, and no more.

        """
        info = self.get(identity, bucket_id)
        self._accounts.check(identity, action, info.repo_id, "bucket")
        return info

    def find_moved(self, identity: Identity, bucket_id: str) -> BucketInfo | None:
        """Returns the bucket that once had a name that is free now, when the caller may read it."""
        with self._database.read() as session:
            if session.scalars(select(Bucket.id).where(Bucket.key == bucket_id.lower())).first():
                return None
            old = session.get(OldBucketName, bucket_id.lower())
            row = session.get(Bucket, old.bucket_id) if old else None
        return self.find(identity, f"{row.owner}/{row.name}") if row else None

    def find_by_row_id(self, row_id: str) -> BucketInfo | None:
        """Returns a bucket by its row's id, whatever the rights; at most one second old."""
        entry = self._cache.get(row_id)
        if entry and time.monotonic() - entry[0] < _CACHE_S:
            return entry[1]
        with self._database.read() as session:
            row = session.get(Bucket, row_id)
        if row is None:
            return None
        info = _to_info(row)
        with self._lock:
            if len(self._cache) > 1000:
                self._cache.clear()
            self._cache[row_id] = (time.monotonic(), info)
        return info

    def _forget(self) -> None:
        with self._lock:
            self._cache.clear()

    def list_page(
        self, identity: Identity, owner: str, search: str = "", *, limit: int = 1000, cursor: str = ""
    ) -> tuple[list[BucketInfo], str | None]:
        """Returns buckets of a name that the caller may see, by name, and where the next ones begin."""
        query = select(Bucket).where(func.lower(Bucket.owner) == owner.lower(), Bucket.key > cursor)
        with self._database.read() as session:
            rows = list(session.scalars(query.order_by(Bucket.key)))
        seen = [
            row
            for row in rows
            if search.lower() in row.name.lower()
            and may(identity, "repo.read", f"{row.owner}/{row.name}", "bucket", private=row.private)
        ]
        return [_to_info(row) for row in seen[:limit]], seen[limit - 1].key if len(seen) > limit else None

    def count_of(self, session: Session, owner: str) -> int:
        """Returns how many buckets a name holds."""
        return session.scalar(select(func.count()).where(func.lower(Bucket.owner) == owner.lower())) or 0

    # Changing

    def create(self, identity: Identity, bucket_id: str, *, private: bool) -> BucketInfo:
        """Makes an empty bucket.

        Raises:
            RepoExists: the name is taken.
            Unauthenticated, Denied, NotFound: the caller may not, or there is no such owner.

        """
        owner, name = self._target(identity, bucket_id)
        row = Bucket(id=new_id("b"), key=f"{owner}/{name}".lower(), owner=owner, name=name, private=private)
        try:
            with self._database.write() as session:
                self._accounts.organisations.hold(session, owner)
                session.execute(delete(OldBucketName).where(OldBucketName.key == row.key))
                session.add(row)
                session.flush()
                note_action(session, identity, "bucket.create", f"bucket:{owner}/{name}", private=private)
        except IntegrityError as error:
            raise _taken(f"{owner}/{name}") from error
        return _to_info(row)

    def _target(self, identity: Identity, bucket_id: str) -> tuple[str, str]:
        owner, name = split_repo_id(bucket_id)
        self._accounts.require(identity, "write")
        owner = self._accounts.organisations.ensure(owner, by=identity)
        self._accounts.check(identity, "repo.create", f"{owner}/{name}", "bucket")
        return owner, name

    def remove(self, identity: Identity, bucket_id: str) -> None:
        """Deletes a bucket with all its files; their bytes stay until the next cleaning."""
        info = self.get_for(identity, "repo.delete", bucket_id)
        with self._database.write() as session:
            session.delete(_locked(session, info))
            note_action(session, identity, "bucket.delete", f"bucket:{info.repo_id}", files=info.files)
        self._forget()

    def move(self, identity: Identity, from_id: str, to_id: str) -> BucketInfo:
        """Gives a bucket another name; requests for the old one are sent on until somebody takes that name.

        Raises:
            RepoExists: the new name is taken.
            RepoNotFound, Unauthenticated, Denied: the caller may not take it there.

        """
        info = self.get_for(identity, "repo.delete", from_id)
        owner, name = self._target(identity, to_id)
        key = f"{owner}/{name}".lower()
        try:
            with self._database.write() as session:
                self._accounts.organisations.hold(session, owner)
                row = _locked(session, info)
                session.execute(delete(OldBucketName).where(OldBucketName.key == key))
                if key != row.key:
                    session.merge(OldBucketName(key=row.key, bucket_id=row.id))
                row.owner, row.name, row.key = owner, name, key
                session.flush()
                note_action(session, identity, "bucket.move", f"bucket:{info.repo_id}", to=f"{owner}/{name}")
        except IntegrityError as error:
            raise _taken(f"{owner}/{name}") from error
        self._forget()
        return _to_info(row)

    def update(self, identity: Identity, bucket_id: str, *, private: bool) -> BucketInfo:
        """Changes who may see a bucket."""
        info = self.get_for(identity, "repo.settings", bucket_id)
        with self._database.write() as session:
            row = _locked(session, info)
            row.private = private
            note_action(session, identity, "bucket.settings", f"bucket:{info.repo_id}", private=private)
        self._forget()
        return _to_info(row)

    def write(
        self,
        identity: Identity,
        info: BucketInfo,
        puts: Sequence[PutFile],
        deletes: Sequence[str],
        scopes: Iterable[str],
    ) -> list[Failure]:
        """Puts and deletes files of a bucket at once, for a caller that may; returns those that failed, and why.

        ``scopes`` are the names under which the caller's uploads count (``upload_scope``).
        """
        with self._database.write() as session:
            row = _locked(session, info)
            failures, put, gone = write_batch(session, row, puts, deletes, set(scopes), self._settings)
            if put or gone:
                row.updated_at = utc_naive()
                subject = f"bucket:{info.repo_id}"
                note_action(session, identity, "bucket.write", subject, put=put, deleted=gone)
        self._forget()
        return failures

    # Files

    def find_files(self, info: BucketInfo, paths: Sequence[str]) -> list[Written]:
        """Returns the files at paths, without those that are not there."""
        with self._database.read() as session:
            found: list[Written] = []
            for start in range(0, len(paths), 500):
                part = paths[start : start + 500]
                query = select(BucketFile).where(
                    BucketFile.bucket_id == info.id, BucketFile.path.in_(list(part))
                )
                found += [Written.of(row) for row in session.scalars(query.order_by(BucketFile.path))]
            return found

    def get_file(self, info: BucketInfo, path: str) -> StoredFile:
        """Returns a file as downloads need it.

        Raises:
            EntryNotFound: there is none.

        """
        found = self.find_files(info, [path])
        if not found:
            raise EntryNotFound(
                "There is no {path!r} in the bucket {bucket}.",
                hint="List its files first: `hf buckets list {bucket}`.",
                path=path[:300],
                bucket=info.repo_id,
            )
        file = found[0]
        return StoredFile(path, "", file.xet_hash, file.size, file.sha256, file.xet_hash if file.size else "")

    def holds(self, info: BucketInfo, xet_hash: str) -> Written | None:
        """Returns a file of the bucket with these bytes, or None."""
        query = select(BucketFile).where(BucketFile.bucket_id == info.id, BucketFile.xet_hash == xet_hash)
        with self._database.read() as session:
            row = session.scalars(query.limit(1)).first()
        return Written.of(row) if row else None

    def list_tree(
        self, info: BucketInfo, prefix: str, *, recursive: bool, limit: int = 1000, cursor: str = ""
    ) -> tuple[list[Listed], str | None]:
        """Returns files whose paths begin with ``prefix``, letter by letter, and where the next ones begin.

        Unless ``recursive``, paths are cut at the first `/` behind the prefix (and its own), and what is below is
        one folder.
        """
        found: list[Listed] = []
        after = cursor
        with self._database.read() as session:
            while True:
                rows = _scan(session, info, prefix, after)
                for row in rows:
                    if row.path <= after:
                        continue  # in a folder that was told of already
                    if len(found) == limit:
                        return found, after
                    folder = "" if recursive else _folder(row.path, prefix)
                    found.append(Listed(folder) if folder else Listed(row.path, Written.of(row)))
                    # Behind all that begins with `folder/`: no character sorts after the last one.
                    after = f"{folder}/\U0010ffff" if folder else row.path
                if len(rows) < _SCAN:
                    return found, None


def _scan(session: Session, info: BucketInfo, prefix: str, after: str) -> list[BucketFile]:
    query = select(BucketFile).where(BucketFile.bucket_id == info.id, BucketFile.path > after)
    if prefix:
        query = query.where(BucketFile.path >= prefix, func.substr(BucketFile.path, 1, len(prefix)) == prefix)
    return list(session.scalars(query.order_by(BucketFile.path).limit(_SCAN)))


def _folder(path: str, prefix: str) -> str:
    """Returns the folder as which a path is told of, or an empty string: it is a file at that depth."""
    start = len(prefix) + (1 if path[len(prefix) : len(prefix) + 1] == "/" else 0)
    end = path.find("/", start)
    return path[:end] if end > 0 else ""


def _locked(session: Session, info: BucketInfo) -> Bucket:
    row = session.get(Bucket, info.id, with_for_update=True)
    if row is None:
        raise repo_not_found(info.repo_id)
    return row


def _taken(bucket_id: str) -> RepoExists:
    return RepoExists(
        "There is a bucket {bucket} already.", hint="Use it, or choose another name.", bucket=bucket_id
    )
