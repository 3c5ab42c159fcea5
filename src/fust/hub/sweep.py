"""Removes large files and xorbs that nothing points to any more, safe beside uploads.

A file is brought first and pointed to by a commit later, so what nobody points to is kept for a time after it was
last brought (``hub.keep_unreferenced_s``). Whoever brings bytes holds the blobs' lock shared from the moment it looks
for them until its row is written (``LocalBlobs.in_use``); a batch is removed under the same lock held alone, rows first:
a kill between rows and bytes leaves bytes without a row, which the next sweep or `fust fsck` finds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from fust.core.clock import utc_naive
from fust.hub.blobs import Kind, LocalBlobs
from fust.hub.models import BucketFile, LargeFile, LargeFileOwner, RepoFile, XetFile, Xorb, XorbOwner
from fust.hub.xet.shard import unpack_segments
from fust.store.database import Database

_BATCH = 200
STRAY_S = 86400.0
"""Bytes without a row are removed when they are older: an upload writes its row within moments."""


@dataclass(slots=True)
class Swept:
    """What was, or with ``dry_run`` would be, removed."""

    files: int = 0
    xorbs: int = 0
    strays: int = 0
    size_bytes: int = 0


def sweep(database: Database, blobs: LocalBlobs, keep_s: float, *, dry_run: bool = False) -> Swept:
    """Removes large files that no repo and no bucket points to, xorbs that no file is made of, and bytes without a row.

    Args:
        database: of the home.
        blobs: its bytes.
        keep_s: what was brought within so many seconds stays.
        dry_run: only counts.

    """
    done = Swept()
    before = utc_naive() - timedelta(seconds=keep_s)
    in_repo = exists().where(RepoFile.sha256 == LargeFile.sha256)
    in_bucket = exists().where(BucketFile.sha256 == LargeFile.sha256)
    with database.read() as session:
        query = select(LargeFile.sha256).where(LargeFile.created_at < before, ~in_repo, ~in_bucket)
        files = list(session.scalars(query))
    gone: set[str] = set()
    for batch in _batches(files):
        gone |= _remove_files(database, blobs, batch, done, dry_run)
    with database.read() as session:
        old = list(session.scalars(select(Xorb.hash).where(Xorb.created_at < before)))
        used = _used_xorbs(session, gone if dry_run else set())
    unused = [name for name in old if name not in used]
    if unused and not dry_run:
        blobs.begin_generation()
    for batch in _batches(unused):
        _remove_xorbs(database, blobs, batch, done, dry_run)
    _remove_strays(database, blobs, done, min(keep_s, STRAY_S), dry_run)
    return done


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def _remove_files(
    database: Database, blobs: LocalBlobs, batch: list[str], done: Swept, dry_run: bool
) -> set[str]:
    if dry_run:
        with database.read() as session:
            rows = list(session.scalars(select(LargeFile).where(LargeFile.sha256.in_(batch))))
        for row in rows:
            done.files += 1
            done.size_bytes += row.size if row.has_blob else 0
        return {row.sha256 for row in rows}
    with blobs.alone():
        with database.write() as session:
            # Locked first and looked at again: a commit that pointed to one meanwhile holds or has changed it.
            rows = list(
                session.scalars(select(LargeFile).where(LargeFile.sha256.in_(batch)).with_for_update())
            )
            pointed = set(session.scalars(select(RepoFile.sha256).where(RepoFile.sha256.in_(batch))))
            pointed |= set(session.scalars(select(BucketFile.sha256).where(BucketFile.sha256.in_(batch))))
            rows = [row for row in rows if row.sha256 not in pointed]
            names = [row.sha256 for row in rows]
            session.execute(delete(LargeFileOwner).where(LargeFileOwner.sha256.in_(names)))
            session.execute(delete(XetFile).where(XetFile.sha256.in_(names)))
            session.execute(delete(LargeFile).where(LargeFile.sha256.in_(names)))
        for row in rows:
            done.files += 1
            done.size_bytes += row.size if row.has_blob else 0
            blobs.remove("lfs", row.sha256)
    return set(names)


def _used_xorbs(session: Session, without: set[str]) -> set[str]:
    """Returns the xorbs that files are made of, but for files whose SHA-256 is in ``without``."""
    used: set[str] = set()
    for sha256, segments in session.execute(select(XetFile.sha256, XetFile.segments)).yield_per(500):
        if sha256 not in without:
            used.update(segment.xorb for segment in unpack_segments(segments))
    return used


def _remove_xorbs(
    database: Database, blobs: LocalBlobs, batch: list[str], done: Swept, dry_run: bool
) -> None:
    if dry_run:
        with database.read() as session:
            for size in session.scalars(select(Xorb.size).where(Xorb.hash.in_(batch))):
                done.xorbs += 1
                done.size_bytes += size
        return
    with blobs.alone():
        with database.write() as session:
            used = _used_xorbs(session, set())  # a shard may have come since: no other can now
            rows = [
                row
                for row in session.scalars(select(Xorb).where(Xorb.hash.in_(batch)))
                if row.hash not in used
            ]
            names = [row.hash for row in rows]
            session.execute(delete(XorbOwner).where(XorbOwner.hash.in_(names)))
            session.execute(delete(Xorb).where(Xorb.hash.in_(names)))
        for row in rows:
            done.xorbs += 1
            done.size_bytes += row.size
            blobs.remove("xorbs", row.hash)


def _remove_strays(database: Database, blobs: LocalBlobs, done: Swept, age_s: float, dry_run: bool) -> None:
    for kind, name, size in iter_strays(database, blobs, age_s):
        done.strays += 1
        done.size_bytes += size
        if not dry_run:
            with blobs.alone():
                if not _has_row(database, kind, name):
                    blobs.remove(kind, name)


def iter_strays(database: Database, blobs: LocalBlobs, age_s: float) -> Iterator[tuple[Kind, str, int]]:
    """Yields (kind, name, size) of bytes that no row knows and that are older than ``age_s``."""
    kinds: tuple[Kind, ...] = ("lfs", "xorbs")
    for kind in kinds:
        old = [(name, size) for name, size, mtime in blobs.iter_kept(kind) if mtime < time.time() - age_s]
        for start in range(0, len(old), 500):
            part = old[start : start + 500]
            with database.read() as session:
                names = [name for name, _ in part]
                query = (
                    select(LargeFile.sha256).where(LargeFile.sha256.in_(names), LargeFile.has_blob)
                    if kind == "lfs"
                    else select(Xorb.hash).where(Xorb.hash.in_(names))
                )
                known = set(session.scalars(query))
            for name, size in part:
                if name not in known:
                    yield kind, name, size


def _has_row(database: Database, kind: Kind, name: str) -> bool:
    with database.read() as session:
        if kind == "xorbs":
            return session.get(Xorb, name) is not None
        row = session.get(LargeFile, name)
        return row is not None and row.has_blob
