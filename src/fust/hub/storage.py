"""How much room large files take, and what was saved: sums over rows, without a walk over the disk."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import QueryableAttribute

from fust.hub.cache import WholeFiles
from fust.hub.models import Bucket, LargeFile, RepoFile, Xorb
from fust.store.database import Database


@dataclass(frozen=True, slots=True)
class StorageSums:
    """Bytes of large files by the form they are kept in; a file may have both forms."""

    files: int
    files_bytes: int
    referenced_bytes: int
    whole_bytes: int
    xet_bytes: int
    xorb_bytes: int
    cache_bytes: int
    cache_room_bytes: int


def measure_storage(database: Database, cache: WholeFiles) -> StorageSums:
    """Returns the sums."""
    with database.read() as session:

        def total(column: QueryableAttribute[int], *where: ColumnElement[bool]) -> int:
            return int(session.scalar(select(func.sum(column)).where(*where)) or 0)

        referenced = select(func.sum(LargeFile.size)).join(RepoFile, RepoFile.sha256 == LargeFile.sha256)
        return StorageSums(
            files=session.scalar(select(func.count()).select_from(LargeFile)) or 0,
            files_bytes=total(LargeFile.size),
            referenced_bytes=int(session.scalar(referenced) or 0) + total(Bucket.size_bytes),
            whole_bytes=total(LargeFile.size, LargeFile.has_blob.is_(True)),
            xet_bytes=total(LargeFile.size, LargeFile.xet_hash.is_not(None)),
            xorb_bytes=total(Xorb.size),
            cache_bytes=cache.size_bytes(),
            cache_room_bytes=cache.room_bytes,
        )
