"""Reading repos: revisions, trees, and the bytes of files whatever form they are kept in."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import select

from fust.accounts.rights import Grants, Identity, may
from fust.core.clock import utc_naive
from fust.core.errors import NotFound, TooLarge
from fust.core.files import BLOCK_BYTES, full_disk_is_clear, write_atomic
from fust.hub.blobs import LocalBlobs
from fust.hub.cache import WholeFiles
from fust.hub.errors import BadHash, entry_not_found, revision_not_found
from fust.hub.git_repo import Entry, GitRepo
from fust.hub.git_store import GitStore
from fust.hub.models import BucketFile, LargeFile, LargeFileOwner, RepoFile, XetFile
from fust.hub.paths import is_commit_oid
from fust.hub.types import LargeState, RepoInfo, Stored, StoredFile
from fust.hub.xet.cas import PIECE_BYTES, Cas, note_brought
from fust.store.database import Database


def upload_scope(identity: Identity, repo_type: str, repo_id: str) -> str:
    """Returns under which name a caller's uploads count: the owner's, who may use them in all of its repos.

    Who may only open pull requests brings bytes under its own name: under the owner's it would learn, by what need not
    be sent, what else the owner holds.

    A fine-grained key's count for its repo alone: with the owner's, it could commit to the bytes of a repo that it must
    not see by their hash, and so read them.
    """
    if identity.grants is not None:
        return f"{repo_id}:{repo_type}"
    if identity.user is not None and not may(identity, "repo.push", repo_id, repo_type):
        return identity.user
    return repo_id.partition("/")[0]


def upload_scopes(identity: Identity, repo_type: str, repo_id: str) -> set[str]:
    """Returns all names under which a caller's uploads to a repo or a bucket may have been counted."""
    narrow = dataclasses.replace(identity, grants=Grants())
    return {upload_scope(caller, repo_type, repo_id) for caller in (identity, narrow)}


class Content:
    """The bytes of a home's repos."""

    def __init__(
        self, database: Database, git: GitStore, blobs: LocalBlobs, cas: Cas, cache: WholeFiles
    ) -> None:
        self._database = database
        self._git = git
        self._blobs = blobs
        self._cas = cas
        self._cache = cache
        self._entry = functools.lru_cache(maxsize=20_000)(self._load_entry)

    def open_repo(self, info: RepoInfo) -> GitRepo:
        """Returns the git repository, for one thread."""
        return self._git.open(info.type, info.owner, info.name)

    # Revisions

    def resolve(self, info: RepoInfo, revision: str) -> str:
        """Returns the commit of a branch, a tag, a ref or a commit oid.

        Raises:
            RevisionNotFound: there is none.

        """
        found = self.loose_ref(info, revision)
        if found is None:
            found = self._git.reader(info.type, info.owner, info.name).find_revision(revision)
        if found is None:
            raise revision_not_found(info.repo_id, revision)
        return found

    def loose_ref(self, info: RepoInfo, branch: str) -> str | None:
        """Returns the commit of a branch by a glance at its file, or None; git itself is asked then."""
        if not branch.replace("-", "").replace("_", "").isalnum() or is_commit_oid(branch):
            return None
        try:
            with open(self._git.path(info.type, info.owner, info.name) / "refs" / "heads" / branch) as file:
                text = file.read(64).strip()
        except OSError:
            return None
        return text if is_commit_oid(text) else None

    # Entries

    def find_file(self, info: RepoInfo, commit_oid: str, path: str, revision: str) -> StoredFile:
        """Returns a file at a commit.

        Raises:
            EntryNotFound: there is none, or it is a folder.

        """
        entry = self._entry(info.id, info.type, info.owner, info.name, commit_oid, path)
        if entry is None or entry.is_folder:
            raise entry_not_found(path, revision, commit_oid)
        xet_hash = ""
        if entry.sha256:
            state = self.large_states([entry.sha256]).get(entry.sha256)
            xet_hash = state.xet_hash if state else ""
        return StoredFile(path, commit_oid, entry.oid, entry.size, entry.sha256, xet_hash)

    def _load_entry(
        self, _: str, repo_type: str, owner: str, name: str, commit_oid: str, path: str
    ) -> Entry | None:
        # Keyed by the row's id too: a repo made anew under an old name shares nothing with it.
        return self._git.reader(repo_type, owner, name).find_entry(commit_oid, path)  # pyright: ignore[reportArgumentType]

    def large_states(self, sha256s: Sequence[str]) -> dict[str, LargeState]:
        """Returns how large files are kept, for those that are known."""
        found: dict[str, LargeState] = {}
        wanted = list(dict.fromkeys(s for s in sha256s if s))
        with self._database.read() as session:
            for start in range(0, len(wanted), 500):
                query = select(LargeFile).where(LargeFile.sha256.in_(wanted[start : start + 500]))
                for row in session.scalars(query):
                    found[row.sha256] = LargeState(row.sha256, row.size, row.xet_hash or "", row.has_blob)
        return found

    # Bytes

    def local_path(self, file: StoredFile) -> Path | None:
        """Returns a whole file on the disk when there is one already; never builds it."""
        if not file.sha256:
            return None
        return self._blobs.find("lfs", file.sha256) or self._cache.find(file.sha256)

    def read_small(self, info: RepoInfo, file: StoredFile) -> bytes:
        """Returns the bytes of a file that git itself holds."""
        return self._git.reader(info.type, info.owner, info.name).read_blob(file.oid)

    def iter_bytes(self, info: RepoInfo | None, file: StoredFile, start: int, end: int) -> Iterator[bytes]:
        """Yields bytes [start, end), some at a time, from whatever form is here; without a repo, not from git."""
        if not file.sha256:
            if info is not None:
                yield self.read_small(info, file)[start:end]
            return
        path = self.local_path(file)
        if path is None:
            yield from self._cas.iter_bytes(self._cas.get_recipe(self._xet_hash(file)), start, end)
            return
        with open(path, "rb", buffering=0) as handle:
            handle.seek(start)
            while start < end:
                piece = handle.read(min(PIECE_BYTES, end - start))
                if not piece:
                    raise OSError(f"{path.name} is shorter than its row says")
                start += len(piece)
                yield piece

    def read(self, info: RepoInfo, file: StoredFile, limit_bytes: int) -> bytes:
        """Returns a whole file.

        Raises:
            TooLarge: it is longer than the limit.

        """
        if file.size > limit_bytes:
            raise TooLarge(
                "{path} has {size} bytes; here at most {limit} are read.",
                path=file.path,
                size=file.size,
                limit=limit_bytes,
            )
        return b"".join(self.iter_bytes(info, file, 0, file.size))

    def materialise(self, info: RepoInfo, file: StoredFile) -> Path:
        """Returns a real file with the bytes, that can be mapped; rebuilds it into the cache when needed.

        Raises:
            StorageFull: no room for it.

        """
        found = self.local_path(file)
        if found:
            return found
        if not file.sha256:
            path = self._cache.root / f"git-{file.oid}"
            if not path.exists():
                write_atomic(path, self.read_small(info, file))
            return path
        recipe = self._cas.get_recipe(self._xet_hash(file))
        return self._cache.build(file.sha256, file.size, self._cas.iter_bytes(recipe))

    def _xet_hash(self, file: StoredFile) -> str:
        if not file.xet_hash:
            raise NotFound(
                "The bytes of {path} are not here, only the pointer to them.",
                hint="Upload the file again.",
                path=file.path,
            )
        return file.xet_hash

    # Taking in

    def note_brought(self, sha256s: Sequence[str]) -> None:
        """Notes that large files were brought, or offered, again: they are not swept before a commit follows."""
        note_brought(self._database, sha256s)

    def keep_blob(self, namespace: str, temporary: Path, sha256: str, size: int) -> Stored:
        """Keeps a written temporary file, whose hash the caller has computed, as a whole blob of a namespace."""
        with self._blobs.in_use():
            path = self._blobs.find("lfs", sha256)
            if path is None or path.stat().st_size != size:  # a damaged one is replaced
                path = self._blobs.keep("lfs", sha256, temporary)
            temporary.unlink(missing_ok=True)
            with self._database.write() as session:
                row = session.get(LargeFile, sha256)
                if row is None:
                    session.add(LargeFile(sha256=sha256, size=size, has_blob=True))
                else:
                    row.has_blob = True
                    row.created_at = utc_naive()
                if session.get(LargeFileOwner, (namespace, sha256)) is None:
                    session.add(LargeFileOwner(namespace=namespace, sha256=sha256))
        return Stored(sha256, size, path)

    def put_file(
        self, namespace: str, source: Path, *, expected_sha256: str = "", move: bool = False
    ) -> Stored:
        """Takes a local file in as a whole blob, hashing it on the way; with ``move`` it may be renamed, not copied.

        Raises:
            BadHash: its SHA-256 is not the expected one.
            StorageFull: no room.

        """
        temporary = self._blobs.new_temporary()
        digest = hashlib.sha256()
        size = 0
        try:
            with full_disk_is_clear(temporary):
                if move and os.stat(source).st_dev == os.stat(temporary.parent).st_dev:
                    os.rename(source, temporary)
                    with open(temporary, "rb", buffering=0) as file:
                        while piece := file.read(2**20):
                            digest.update(piece)
                            size += len(piece)
                else:
                    with (
                        open(source, "rb", buffering=0) as file,
                        open(temporary, "xb", buffering=0) as target,
                    ):
                        while piece := file.read(BLOCK_BYTES):
                            digest.update(piece)
                            size += len(piece)
                            view = memoryview(piece)
                            while view:
                                view = view[target.write(view) :]
            found = digest.hexdigest()
            if expected_sha256 and found != expected_sha256:
                raise BadHash(
                    "The bytes of {path} have the SHA-256 {found}, not {wanted}.",
                    hint="Fetch it again.",
                    path=source.name,
                    found=found,
                    wanted=expected_sha256,
                )
            return self.keep_blob(namespace, temporary, found, size)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    # Rights

    def may_point(self, identity: Identity, info: RepoInfo, sha256s: Sequence[str]) -> set[str]:
        """Returns those large files to which the caller's commits in this repo may point: its owner brought the bytes
        (with a fine-grained key: to this repo), or the repo points to them already.
        """
        return self.may_point_in(info, upload_scopes(identity, info.type, info.repo_id), sha256s)

    def may_point_in(self, info: RepoInfo, scopes: set[str], sha256s: Sequence[str]) -> set[str]:
        """Returns those large files that were brought under one of the ``upload_scope``s, or that the repo points to."""
        allowed: set[str] = set()
        wanted = list(dict.fromkeys(sha256s))
        with self._database.read() as session:
            for start in range(0, len(wanted), 500):
                part = wanted[start : start + 500]
                allowed.update(
                    session.scalars(
                        select(LargeFileOwner.sha256).where(
                            LargeFileOwner.namespace.in_(scopes), LargeFileOwner.sha256.in_(part)
                        )
                    )
                )
                allowed.update(
                    session.scalars(
                        select(RepoFile.sha256).where(RepoFile.repo_id == info.id, RepoFile.sha256.in_(part))
                    )
                )
        return allowed

    def pointed_by(self, info: RepoInfo, sha256s: Sequence[str]) -> set[str]:
        """Returns those large files that the repo points to: all that its readers may have."""
        with self._database.read() as session:
            query = select(RepoFile.sha256).where(RepoFile.repo_id == info.id, RepoFile.sha256.in_(sha256s))
            return set(session.scalars(query))

    def points_to(self, info: RepoInfo, xet_hash: str) -> bool:
        """Returns whether the repo points to a large file with this Xet hash."""
        query = (
            select(RepoFile.sha256)
            .join(XetFile, XetFile.sha256 == RepoFile.sha256)
            .where(RepoFile.repo_id == info.id, XetFile.xet_hash == xet_hash)
        )
        with self._database.read() as session:
            return session.scalars(query.limit(1)).first() is not None

    def may_read_large(self, repo_row_id: str, namespace: str, sha256: str, *, writer: bool) -> bool:
        """Returns whether a token for a repo or a bucket opens a large file: it is in there, or its writer brought it."""
        held = select(BucketFile.path).where(BucketFile.bucket_id == repo_row_id, BucketFile.sha256 == sha256)
        with self._database.read() as session:
            if session.get(RepoFile, (repo_row_id, sha256)) or session.scalars(held.limit(1)).first():
                return True
            return writer and session.get(LargeFileOwner, (namespace, sha256)) is not None

    def share_large(self, namespace: str, sha256: str) -> None:
        """Lets a namespace point to a large file that is here, for callers that checked rights."""
        with self._database.write() as session:
            known = session.get(LargeFile, sha256) is not None
            if known and session.get(LargeFileOwner, (namespace, sha256)) is None:
                session.add(LargeFileOwner(namespace=namespace, sha256=sha256))

    def free_bytes(self) -> int:
        """Returns the room on the blobs' disk."""
        return shutil.disk_usage(self._blobs.root).free
