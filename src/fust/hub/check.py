"""Compares rows, git repositories and bytes of the hub with each other, and names what does not fit and how to mend it.

Only looks: nothing is written, and a server may run meanwhile. What looks wrong because it is being made at this
moment is looked at twice, or left out until it is an hour old.
"""

from __future__ import annotations

import hashlib
import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import func, select

from fust.core.ids import check_repo_type
from fust.hub.blobs import Kind, LocalBlobs
from fust.hub.cache import WholeFiles
from fust.hub.check_git import Walk, broken_objects, raw_refs
from fust.hub.errors import BadHash, BadXorb
from fust.hub.git_repo import GitRepo
from fust.hub.git_store import GitStore
from fust.hub.models import Bucket, BucketFile, LargeFile, Repo, RepoFile, XetFile, Xorb
from fust.hub.sweep import iter_strays
from fust.hub.xet.shard import unpack_segments
from fust.hub.xet.xorb import verify_xorb
from fust.store.database import Database

FRESH_S = 3600.0
"""What is younger may be on its way."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit. ``message`` and ``mend`` are templates, filled at the edge."""

    kind: str
    """For programs: `blob_missing`, `repo_orphan` …"""
    subject: str
    """The repo, hash or path."""
    message: str
    mend: str
    params: dict[str, object] = field(default_factory=lambda: {})


class HubCheck:
    """One look at a hub. ``deep`` reads every byte and every commit; otherwise sizes and the newest trees."""

    def __init__(
        self, database: Database, git: GitStore, blobs: LocalBlobs, cache: WholeFiles, *, deep: bool
    ) -> None:
        self._database = database
        self._git = git
        self._blobs = blobs
        self._cache = cache
        self._deep = deep

    def run(self) -> Iterator[Finding]:
        """Yields every finding."""
        yield from self._bytes()
        yield from self._strays()
        yield from self._repos()
        yield from self._orphans()
        yield from self._buckets()
        if self._deep:
            yield from self._cached()

    # Repos

    def _repos(self) -> Iterator[Finding]:
        with self._database.read() as session:
            rows = list(session.scalars(select(Repo).order_by(Repo.key)))
        for row in rows:
            kind, name = check_repo_type(row.type), f"{row.owner}/{row.name}"
            if not self._git.path(kind, row.owner, row.name).is_dir():
                if self._still(row):
                    yield Finding(
                        "repo_missing",
                        f"{row.type}:{name}",
                        "The git repository of {repo} is gone.",
                        "Restore it from a backup, or delete the repo: `fust rm {repo} --type {type}`.",
                        {"repo": name, "type": row.type},
                    )
                continue
            yield from self._repo(row, f"{row.type}:{name}", self._git.path(kind, row.owner, row.name))

    def _still(self, row: Repo) -> bool:
        with self._database.read() as session:
            now = session.get(Repo, row.id)
        return now is not None and (now.type, now.owner, now.name) == (row.type, row.owner, row.name)

    def _repo(self, row: Repo, subject: str, path: Path) -> Iterator[Finding]:
        try:
            repo = GitRepo(path)
        except Exception as error:
            yield _damaged(subject, str(error))
            return
        walk = Walk(repo, deep=self._deep)
        for ref, oid in raw_refs(repo):
            if not walk.start(oid):
                yield Finding(
                    "ref_dangling",
                    subject,
                    "{ref} of {subject} points to {oid}, which is not there.",
                    "Restore the repository from a backup, or delete the branch or tag.",
                    {"ref": ref, "oid": oid[:12], "subject": subject},
                )
        for oid in walk.broken:
            yield _damaged(subject, oid)
        if self._deep:
            yield from (_damaged(subject, oid) for oid in broken_objects(repo) if oid not in walk.broken)
        yield from self._row_follows(row, repo, subject)
        if next(self._pointers(row, walk.pointers, subject), None) is not None:
            yield from self._settled_pointers(row, repo, walk.pointers, subject)
        for pattern in ("refs/**/*.lock", "*.lock", "objects/*/tmp_obj*", "objects/pack/tmp_*"):
            yield from (leftover(left) for left in path.glob(pattern) if _is_old(left))

    def _row_follows(self, row: Repo, repo: GitRepo, subject: str) -> Iterator[Finding]:
        lock = repo.lock()
        if not lock.acquire():
            return  # somebody writes to it just now
        try:
            head = repo.find_ref("refs/heads/main") or ""
            with self._database.read() as session:
                now = session.get(Repo, row.id)
            if now is not None and (now.pending or (now.head_oid != head and head)):
                yield Finding(
                    "repo_behind",
                    subject,
                    "Lists show {subject} at {row}, and it is at {head}.",
                    "Start the server: it reads the repo again; `fust fsck --repair` does too.",
                    {"row": now.head_oid[:12] or "–", "head": head[:12], "subject": subject},
                )
        finally:
            lock.release()

    def _settled_pointers(
        self, row: Repo, repo: GitRepo, pointers: set[str], subject: str
    ) -> Iterator[Finding]:
        """Looks again when nobody writes: a push moves its refs before its rows, a deletion takes the rows first."""
        lock = repo.lock()
        try:
            lock.acquire(wait=True)
        except FileNotFoundError:
            return  # deleted meanwhile
        try:
            found = list(self._pointers(row, pointers, subject))
        finally:
            lock.release()
        if self._still(row):
            yield from found

    def _pointers(self, row: Repo, pointers: set[str], subject: str) -> Iterator[Finding]:
        wanted = sorted(pointers)
        with self._database.read() as session:
            for start in range(0, len(wanted), 500):
                part = wanted[start : start + 500]
                known = set(session.scalars(select(LargeFile.sha256).where(LargeFile.sha256.in_(part))))
                query = select(RepoFile.sha256).where(RepoFile.repo_id == row.id, RepoFile.sha256.in_(part))
                opened = set(session.scalars(query))
                for sha256 in part:
                    params: dict[str, object] = {"subject": subject, "sha256": sha256}
                    if sha256 not in known:
                        yield Finding(
                            "pointer_dangling",
                            f"{subject} {sha256}",
                            "{subject} points to the large file {sha256}, whose bytes are not here.",
                            "Upload the file again, or restore it from a backup.",
                            params,
                        )
                    elif sha256 not in opened:
                        yield Finding(
                            "pointer_closed",
                            f"{subject} {sha256}",
                            "{subject} points to the large file {sha256}, and no row lets its readers have it.",
                            "`fust fsck --repair` writes the row.",
                            params,
                        )

    # Buckets

    def _buckets(self) -> Iterator[Finding]:
        with self._database.read() as session:
            rows = list(session.scalars(select(Bucket).order_by(Bucket.key)))
        for row in rows:
            yield from self._bucket(row.id, f"{row.owner}/{row.name}")

    def _bucket(self, row_id: str, name: str) -> Iterator[Finding]:
        lost = (
            select(BucketFile.path, BucketFile.sha256)
            .outerjoin(LargeFile, LargeFile.sha256 == BucketFile.sha256)
            .where(BucketFile.bucket_id == row_id, BucketFile.size > 0, LargeFile.sha256.is_(None))
        )
        sums = (  # in one statement, which sees one moment
            select(Bucket.files, Bucket.size_bytes, func.count(BucketFile.path), func.sum(BucketFile.size))
            .outerjoin(BucketFile)
            .where(Bucket.id == row_id)
            .group_by(Bucket.id)
        )
        with self._database.read() as session:
            found = session.execute(sums).first()
            gone = list(session.execute(lost))
        if found is None:
            return  # deleted meanwhile
        told, told_bytes, files, size = found
        if (files, int(size or 0)) != (told, told_bytes):
            yield Finding(
                "bucket_sums",
                f"bucket:{name}",
                "The bucket {bucket} is said to hold {told} files, and holds {files}; or their sizes differ.",
                "`fust fsck --repair` counts again.",
                {"bucket": name, "told": told, "files": files},
            )
        for path, sha256 in gone:
            yield Finding(
                "pointer_dangling",
                f"bucket:{name} {path}",
                "{subject} points to the large file {sha256}, whose bytes are not here.",
                "Upload the file again, or restore it from a backup.",
                {"subject": f"bucket:{name} {path}", "sha256": sha256},
            )

    def _orphans(self) -> Iterator[Finding]:
        folders = [(self._git.root / p / o / f"{n}.git", (p, o, n)) for p, o, n in self._git.iter_repos()]
        with self._database.read() as session:
            known = {(f"{row.type}s", row.owner, row.name) for row in session.scalars(select(Repo))}
        for path, key in folders:
            if key not in known and _is_old(path):
                yield Finding(
                    "repo_orphan",
                    str(path),
                    "The git repository {path} belongs to no repo.",
                    "`fust fsck --repair` removes it; so does a start of the server.",
                    {"path": path},
                )
        for pattern in ("*/*/.new-*.tmp", "*/*/.gone-*.tmp"):
            yield from (leftover(path) for path in self._git.root.glob(pattern) if _is_old(path))

    # Bytes

    def _bytes(self) -> Iterator[Finding]:
        with self._database.read() as session:
            xorbs = {row.hash: row.size for row in session.execute(select(Xorb.hash, Xorb.size))}
        bad: set[str] = set()
        for name, size in xorbs.items():
            found = self._look("xorbs", name, size, self._xorb_is_good)
            if found is not None:
                bad.add(name)
                yield found
        with self._database.read() as session:
            good: set[str] = set()
            for row in session.scalars(select(XetFile).execution_options(yield_per=500)):
                parts = {segment.xorb for segment in unpack_segments(row.segments)}
                if parts & bad or not parts <= xorbs.keys():
                    yield from self._recipe(row.xet_hash, sorted((parts & bad) | (parts - xorbs.keys())))
                else:
                    good.add(row.xet_hash)
            files = [(f.sha256, f.size, f.xet_hash, f.has_blob) for f in session.scalars(select(LargeFile))]
        for sha256, size, xet_hash, has_blob in files:
            found = self._look("lfs", sha256, size, self._blob_is_good) if has_blob else None
            if found is not None:
                yield found
            if (found is not None or not has_blob) and xet_hash not in good:
                yield from self._lost(sha256)

    def _recipe(self, xet_hash: str, missing: list[str]) -> Iterator[Finding]:
        with self._database.read() as session:  # a second look: it may have been removed, or made, meanwhile
            row = session.get(XetFile, xet_hash)
            if row is None or all(
                self._blobs.find("xorbs", name) and session.get(Xorb, name) for name in missing
            ):
                return
        yield Finding(
            "recipe_broken",
            xet_hash,
            "The large file {sha256} is made of xorbs that are not here or damaged: {xorbs}.",
            "`fust fsck --repair` forgets this form; upload the file again, or restore it from a backup.",
            {"sha256": row.sha256, "xorbs": ", ".join(missing[:3])},
        )

    def _lost(self, sha256: str) -> Iterator[Finding]:
        with self._database.read() as session:
            if session.get(LargeFile, sha256) is None:
                return
            query = select(Repo).join(RepoFile, RepoFile.repo_id == Repo.id).where(RepoFile.sha256 == sha256)
            repos = [f"{row.owner}/{row.name}" for row in session.scalars(query.limit(5))]
            held = select(Bucket).join(BucketFile).where(BucketFile.sha256 == sha256).distinct()
            repos += [f"buckets/{row.owner}/{row.name}" for row in session.scalars(held.limit(5))]
        yield Finding(
            "file_lost",
            sha256,
            "No good form of the large file {sha256} is here (pointed to by: {repos}).",
            "Run `fust fsck --repair`, then upload the file again; or restore it from a backup.",
            {"sha256": sha256, "repos": ", ".join(repos) or "–"},
        )

    def _look(self, kind: Kind, name: str, size: int, is_good: Callable[[Path, str], bool]) -> Finding | None:
        path = self._blobs.path(kind, name)
        what = "blob" if kind == "lfs" else "xorb"
        try:
            right = path.stat().st_size == size and (not self._deep or is_good(path, name))
        except FileNotFoundError:
            with self._database.read() as session:
                if session.get(LargeFile if kind == "lfs" else Xorb, name) is None:
                    return None  # removed meanwhile
            return Finding(
                f"{what}_missing",
                name,
                "The bytes of {name} are not at {path}.",
                "Upload the file again, or restore it from a backup; `fust fsck --repair` forgets these bytes.",
                {"name": name, "path": path},
            )
        if right:
            return None
        return Finding(
            f"{what}_corrupt",
            name,
            "The bytes at {path} are not those of {name}.",
            "`fust fsck --repair` puts them aside; then upload the file again, or restore it from a backup.",
            {"name": name, "path": path},
        )

    def _blob_is_good(self, path: Path, name: str) -> bool:
        with open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == name

    def _xorb_is_good(self, path: Path, name: str) -> bool:
        return xorb_is_good(path, name)

    def _strays(self) -> Iterator[Finding]:
        for kind, name, size in iter_strays(self._database, self._blobs, FRESH_S):
            yield Finding(
                "bytes_orphan",
                name,
                "No row knows the {size} bytes at {path}.",
                "`fust gc` removes them a day after they came; `fust fsck --repair` does now.",
                {"size": size, "path": self._blobs.path(kind, name)},
            )
        for path in self._blobs.iter_left():
            yield Finding(
                "upload_half",
                str(path),
                "{path} is an upload that ended half-way.",
                "`fust fsck --repair` removes it; so does a start of the server.",
                {"path": path},
            )

    def _cached(self) -> Iterator[Finding]:
        for path in self._cache.root.iterdir():
            if len(path.name) == 64 and path.is_file() and not self._blob_is_good(path, path.name):
                yield Finding(
                    "cache_corrupt",
                    str(path),
                    "The cached file {path} is damaged.",
                    "`fust fsck --repair` removes it; it is built again when it is wanted.",
                    {"path": path},
                )


def xorb_is_good(path: Path, name: str) -> bool:
    """Returns whether a file is the xorb of that name: all of its chunks are unpacked and hashed."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            with memoryview(data) as view:
                _, size = verify_xorb(view, name)
            return size == len(data)
    except (BadXorb, BadHash, ValueError):
        return False


def _damaged(subject: str, what: str) -> Finding:
    return Finding(
        "git_damaged",
        subject,
        "The git repository of {subject} is damaged: {what} is missing or cannot be read.",
        "Restore it from a backup; `git fsck` in its folder says more.",
        {"subject": subject, "what": what},
    )


def leftover(path: Path) -> Finding:
    """Returns the finding for a temporary file or a lock of a process that is gone."""
    return Finding(
        "leftover",
        str(path),
        "{path} was left by a process that is gone.",
        "`fust fsck --repair` removes it.",
        {"path": path},
    )


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - FRESH_S
    except FileNotFoundError:
        return False
