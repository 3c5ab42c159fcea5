"""What a batch does to a bucket: files put by the hash of bytes that were brought, and files deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from fust.core.clock import utc_naive
from fust.core.errors import FustError, NotFound, TooLarge
from fust.core.settings import HubSettings
from fust.core.units import show_size
from fust.hub.errors import BadHash
from fust.hub.models import Bucket, BucketFile, LargeFile, LargeFileOwner, XetFile

EMPTY_XET_HASH = "0" * 64
"""Of no bytes at all; no xorb and no large file stands behind it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file as a bucket has it."""

    path: str
    sha256: str
    xet_hash: str
    size: int
    content_type: str
    mtime: datetime
    uploaded_at: datetime

    @staticmethod
    def of(row: BucketFile) -> Written:
        """Returns a row as a value."""
        return Written(
            row.path,
            row.sha256,
            row.xet_hash,
            row.size,
            row.content_type,
            row.mtime,
            row.uploaded_at,
        )


@dataclass(frozen=True, slots=True)
class PutFile:
    """A file to put; ``allowed`` when the caller reads these bytes somewhere else and copies them."""

    path: str
    xet_hash: str
    mtime: datetime
    content_type: str = ""
    allowed: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be done with a path."""

    path: str
    error: FustError


def write_batch(
    session: Session,
    bucket: Bucket,
    puts: Sequence[PutFile],
    deletes: Sequence[str],
    scopes: set[str],
    settings: HubSettings,
) -> tuple[list[Failure], int, int]:
    """Changes the rows of a bucket that the session holds locked; returns failures, files put and files deleted.

    A file may point to bytes that were brought under one of ``scopes``, or that the bucket holds already.
    """
    failures: list[Failure] = []
    known = _find_bytes(session, {put.xet_hash for put in puts})
    mine = _own(session, bucket, scopes, {sha256 for sha256, _ in known.values()})
    paths = [*(put.path for put in puts), *deletes]
    rows = _rows(session, bucket, paths)
    done = gone = 0
    for put in puts:
        sha256, size = known.get(put.xet_hash, ("", -1))
        if size < 0 or (size and not put.allowed and sha256 not in mine):
            failures.append(Failure(put.path, _not_brought(put.xet_hash)))
            continue
        old = rows.get(put.path)
        total = bucket.size_bytes + size - (old.size if old else 0)
        if settings.max_bucket_bytes and total > settings.max_bucket_bytes:
            failures.append(Failure(put.path, _too_full(settings.max_bucket_bytes)))
            continue
        bucket.size_bytes = total
        done += 1
        if old is None:
            old = rows[put.path] = BucketFile(bucket_id=bucket.id, path=put.path)
            session.add(old)
            bucket.files += 1
        old.sha256, old.xet_hash, old.size = sha256, put.xet_hash, size
        old.mtime, old.content_type, old.uploaded_at = put.mtime, put.content_type, utc_naive()
    for path in deletes:
        row = rows.pop(path, None)
        if row is None:
            failures.append(Failure(path, NotFound("There is no such file.")))
            continue
        bucket.files -= 1
        bucket.size_bytes -= row.size
        session.delete(row)
        gone += 1
    return failures, done, gone


def _find_bytes(session: Session, hashes: set[str]) -> dict[str, tuple[str, int]]:
    """Returns SHA-256 and size by Xet hash, and keeps those bytes from being swept until the transaction ends."""
    found: dict[str, tuple[str, int]] = {EMPTY_XET_HASH: ("", 0)}
    wanted = sorted(hashes - {EMPTY_XET_HASH})
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        query = (
            select(XetFile.xet_hash, LargeFile.sha256, LargeFile.size)
            .join(LargeFile, LargeFile.sha256 == XetFile.sha256)
            .where(XetFile.xet_hash.in_(part))
            .with_for_update(read=True)
        )
        for xet_hash, sha256, size in session.execute(query):
            found[xet_hash] = (sha256, size)
    return found


def _own(session: Session, bucket: Bucket, scopes: set[str], sha256s: set[str]) -> set[str]:
    """Returns those large files that were brought under the caller's scopes or lie in the bucket."""
    wanted = sorted(sha256s)
    mine: set[str] = set()
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        brought = select(LargeFileOwner.sha256).where(
            LargeFileOwner.namespace.in_(scopes), LargeFileOwner.sha256.in_(part)
        )
        held = select(BucketFile.sha256).where(BucketFile.bucket_id == bucket.id, BucketFile.sha256.in_(part))
        mine.update(session.scalars(brought))
        mine.update(session.scalars(held))
    return mine


def _rows(session: Session, bucket: Bucket, paths: Sequence[str]) -> dict[str, BucketFile]:
    rows: dict[str, BucketFile] = {}
    for start in range(0, len(paths), 500):
        part = list(paths[start : start + 500])
        query = select(BucketFile).where(BucketFile.bucket_id == bucket.id, BucketFile.path.in_(part))
        rows.update({row.path: row for row in session.scalars(query)})
    return rows


def _not_brought(xet_hash: str) -> FustError:
    return BadHash(
        "No bytes with the Xet hash {xet_hash} were uploaded here.",
        hint="Upload the file first, then send the batch.",
        xet_hash=xet_hash[:64],
    )


def _too_full(limit_bytes: int) -> FustError:
    return TooLarge(
        "The bucket would hold more than {limit}.",
        hint="Delete files, or ask an administrator for a larger `hub.max_bucket_bytes`.",
        limit=show_size(limit_bytes),
    )
