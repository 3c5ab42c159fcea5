"""The hub: repos of models, datasets and spaces over bare git, large files as xorbs or whole blobs.

Everything here is synchronous and knows no HTTP; routes call it in a thread pool.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from sqlalchemy.orm import Session

from fust.accounts.audit import did_ever
from fust.accounts.rights import SYSTEM, Action, Identity, may
from fust.accounts.seal import seal_for
from fust.accounts.service import Accounts
from fust.core.errors import InvalidInput, NotOffered, Unauthenticated
from fust.core.i18n import Language
from fust.core.ids import RepoType
from fust.core.settings import Settings
from fust.hub.access_requests import AccessRequests
from fust.hub.attributes import is_lfs
from fust.hub.blobs import LocalBlobs
from fust.hub.buckets import BucketInfo, Buckets
from fust.hub.cache import WholeFiles
from fust.hub.commits import Committer, pointed_to
from fust.hub.content import Content, upload_scope
from fust.hub.discussions import Discussions
from fust.hub.errors import BadHash, RepoExists, entry_not_found
from fust.hub.follows import Follows
from fust.hub.gates import Gates
from fust.hub.git_repo import CommitInfo, Entry, Ref
from fust.hub.git_store import GitStore
from fust.hub.history import CommitChanges, Comparison, compare, read_changes
from fust.hub.hooks.service import Webhooks
from fust.hub.large_files import LargeFiles
from fust.hub.leaks import Leaks
from fust.hub.lfs_locks import Locks
from fust.hub.licences import LicenceChange, licence_changes
from fust.hub.preview import Look, format_of, look_at_text
from fust.hub.preview_parquet import look_at_parquet
from fust.hub.push import Receiver
from fust.hub.ref_writer import RefWriter
from fust.hub.refs import Refs
from fust.hub.relocate import Relocation
from fust.hub.repos import Repos
from fust.hub.safety import Safety
from fust.hub.social import Collections, Likes
from fust.hub.storage import StorageSums, measure_storage
from fust.hub.summary import card_text
from fust.hub.types import (
    AddFile,
    AddLargeFile,
    Operation,
    RepoInfo,
    RepoPage,
    Sort,
    Stored,
    StoredFile,
)
from fust.hub.xet.cas import Cas
from fust.hub.xet.chunker import Chunker
from fust.hub.xet.dedup import find_dedup_shard
from fust.hub.xet.tokens import Signer
from fust.store.database import Database

log = logging.getLogger(__name__)
_LOOKS_KEPT = 32
"""Previews in memory, at most about 0.5 MB each."""


class Hub:
    """All repos of a home."""

    def __init__(self, database: Database, accounts: Accounts, settings: Settings) -> None:
        self._database = database
        self._accounts = accounts
        self._settings = settings
        self.blobs = LocalBlobs(blobs_folder(settings.blobs_url))
        self.git = GitStore(settings.home / "git")
        self.cache = WholeFiles(settings.home / "cache" / "files", settings.hub.whole_file_cache_bytes)
        self.cas = Cas(database, self.blobs)
        self.chunker = Chunker(database, self.blobs, self.cas, self.cache)
        self.repos = Repos(database, accounts, self.git)
        self.buckets = Buckets(database, accounts, settings.hub)
        accounts.users.count_repos = accounts.organisations.count_repos = self._count_of
        self.content = Content(database, self.git, self.blobs, self.cas, self.cache)
        self.gates = Gates(
            database, self.repos, self.git, self.content, accounts, settings.public_url.rstrip("/")
        )
        self.access = AccessRequests(database, self.repos, accounts, self.gates)
        self.ref_writer = RefWriter(database, self.repos, self.content)
        self.leaks = Leaks(database)
        self.committer = Committer(self.content, self.ref_writer, settings)
        self.receiver = Receiver(
            settings.home / "git", self.content, self.ref_writer, settings.hub, self.leaks
        )
        self.relocation = Relocation(database, accounts, self.repos, self.git, self.gates)
        self.likes = Likes(database, self.repos, accounts)
        self.follows = Follows(database, accounts)
        self.collections = Collections(database, self.repos, accounts)
        self.large_files = LargeFiles(database, self.repos, self.content, self.ref_writer)
        self.discussions = Discussions(
            database, self.repos, self.content, self.ref_writer, accounts, self.gates
        )
        self.locks = Locks(database, accounts)
        self.safety = Safety(database, self.repos, self.content)
        self.webhooks = Webhooks(
            database, accounts, self.repos, self.gates, settings.webhooks, settings.public_url
        )
        self.refs = Refs(self.content, self.ref_writer, accounts)
        self.signer = Signer(accounts.signing_key())
        self.tickets = seal_for(accounts.signing_key(), b"fust static spaces")
        self._downloads: Counter[str] = Counter()
        self._looks: dict[tuple[str, str, bool], Look] = {}
        self.find_deployment: Callable[[RepoInfo], object | None] = lambda _: None
        """Set by ``app``: the deployment (id, name, state) that serves a repo."""

    def recover(self) -> list[str]:
        """Cleans up after a server that is gone; returns what was done, in words. Call before serving."""
        done: list[str] = []
        self.git.drop_old_settings()
        for what, count in (
            ("temporary uploads", self.blobs.clean_temporaries()),
            ("half-written cache files", self.cache.clean()),
            ("uploads in parts that broke off", self.blobs.clean_parts()),
            ("pushes that broke off", self.receiver.clean()),
            ("half-made repositories", self.git.clean_temporaries()),
            ("moves half done", self.relocation.recover()),
            ("repositories without a row", self.repos.remove_orphans()),
        ):
            if count:
                done.append(f"removed {count} {what}")
        for info in self.repos.pending():
            self.ref_writer.recover(info)
            done.append(f"read {info.repo_id} again from git")
        for line in done:
            log.info(line)
        return done

    # Repos

    def create_repo(
        self,
        identity: Identity,
        repo_id: str,
        repo_type: RepoType = "model",
        *,
        private: bool = False,
        exist_ok: bool = False,
        sdk: str = "",
    ) -> RepoInfo:
        """Makes a repo with one commit on `main`.

        Raises:
            RepoExists: the name is taken, and ``exist_ok`` is off.

        """
        try:
            return self.repos.create(identity, repo_type, repo_id, private=private, sdk=sdk)
        except RepoExists:
            if exist_ok:
                return self.repos.get_for(identity, "repo.push", repo_type, repo_id)
            raise

    def delete_repo(self, identity: Identity, repo_id: str, repo_type: RepoType = "model") -> None:
        """Deletes a repo and its history. Large files that nothing points to stay until the next cleaning."""
        self.repos.remove(identity, self.repos.get_for(identity, "repo.delete", repo_type, repo_id))

    def find_repo(self, identity: Identity, repo_id: str, repo_type: RepoType = "model") -> RepoInfo | None:
        """Returns a repo that the caller may read, or None."""
        return self.repos.find(identity, repo_type, repo_id)

    def get_repo(self, identity: Identity, repo_id: str, repo_type: RepoType = "model") -> RepoInfo:
        """Returns a repo that the caller may see, or raises RepoNotFound; for its files: ``get_repo_to_open``."""
        return self.repos.get(identity, repo_type, repo_id)

    def get_repo_by_any_name(
        self, identity: Identity, repo_id: str, repo_type: RepoType = "model"
    ) -> RepoInfo:
        """Returns a repo that the caller may read by its name or by one that it had, or raises RepoNotFound."""
        if self.repos.find_row(repo_type, repo_id) is None:
            moved = self.repos.find_moved(repo_type, repo_id)
            if moved is not None and self.repos.find(identity, repo_type, moved.repo_id) is not None:
                return moved
        return self.repos.get(identity, repo_type, repo_id)

    def get_repo_to_open(self, identity: Identity, repo_id: str, repo_type: RepoType = "model") -> RepoInfo:
        """Returns a repo whose files the caller may have, or raises RepoNotFound or GatedRepo.

        Every way to bytes of a repo begins here; ``get_repo`` is for what is said of one. Bytes of a gated one are
        noted with ``gates.note_download`` before they leave.
        """
        info = self.repos.get(identity, repo_type, repo_id)
        self.gates.check(identity, info)
        return info

    def get_repo_to_write(self, identity: Identity, repo_id: str, repo_type: RepoType = "model") -> RepoInfo:
        """Returns a repo that the caller may write to, or raises."""
        return self.repos.get_for(identity, "repo.push", repo_type, repo_id)

    def get_repo_to_push(self, identity: Identity, repo_id: str, repo_type: RepoType = "model") -> RepoInfo:
        """Returns a repo that the caller may push something to, a pull request of its own at least, or raises."""
        info = self.repos.get(identity, repo_type, repo_id)
        if not self.discussions.has_open_request(identity, info):
            self._accounts.check(identity, "repo.push", info.repo_id, info.type)
        self.gates.check(identity, info)
        return info

    def get_repo_to_commit(
        self, identity: Identity, repo_id: str, repo_type: RepoType, revision: str, *, create_pr: bool
    ) -> RepoInfo:
        """Returns a repo to whose revision the caller may commit, or in which it may open a pull request."""
        info = self.repos.get(identity, repo_type, repo_id)
        if create_pr:
            self.discussions.check_may_take_part(identity, info)
        else:
            ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
            self.discussions.check_may_commit_to(identity, info, ref)
        return info

    def may_still(self, key: str, repo_row_id: str, action: Action, scope: str = "") -> bool:
        """Returns whether the caller behind a short-lived token or URL may still do what it was made for.

        ``key`` as ``Identity.key`` had it when the token was made, ``scope`` the name under which uploads count; the
        answer is at most a second old.
        """
        try:
            identity = self._accounts.by_key(key)
        except Unauthenticated:
            return False
        info = self.repos.find_by_row_id(repo_row_id) or self.buckets.find_by_row_id(repo_row_id)
        if info is None:
            return False
        if action == "repo.push" and upload_scope(identity, info.type, info.repo_id) != scope:
            return False
        if isinstance(info, RepoInfo) and not self.gates.opens(identity, info):
            return False
        if may(identity, action, info.repo_id, info.type, private=info.private):
            return True
        if isinstance(info, BucketInfo):
            return False
        return action == "repo.push" and self.discussions.may_take_part(identity, info)

    def list_repos(
        self,
        identity: Identity,
        repo_type: RepoType | None = None,
        *,
        search: str = "",
        author: str = "",
        tags: Sequence[str] = (),
        sort: Sort = "updated",
        limit: int = 50,
        cursor: str | None = None,
    ) -> RepoPage:
        """Returns a page of repos that the caller may see."""
        return self.repos.list_page(
            identity,
            repo_type,
            search=search,
            author=author,
            tags=tags,
            sort=sort,
            limit=limit,
            cursor=cursor,
        )

    # Reading

    def resolve_revision(self, repo: RepoInfo, revision: str = "main") -> str:
        """Returns the commit of a branch, a tag or a commit oid, or raises RevisionNotFound."""
        return self.content.resolve(repo, revision)

    def list_tree(
        self, repo: RepoInfo, revision: str = "main", path: str = "", *, recursive: bool = False
    ) -> list[Entry]:
        """Returns the files and folders below a path.

        Raises:
            EntryNotFound: there is no folder at the path.

        """
        oid = self.resolve_revision(repo, revision)
        git = self.content.open_repo(repo)
        if path and not git.get_entry(oid, path, revision).is_folder:
            raise entry_not_found(path, revision, oid)
        return list(git.iter_tree(oid, path, recursive=recursive))

    def list_commits(
        self, repo: RepoInfo, revision: str = "main", *, path: str = "", limit: int = 50, skip: int = 0
    ) -> list[CommitInfo]:
        """Returns commits, newest first; with ``path``, those that changed that file or folder."""
        oid = self.resolve_revision(repo, revision)
        found: list[CommitInfo] = []
        for i, commit in enumerate(self.content.open_repo(repo).iter_commits(oid, path)):
            if i >= skip + limit:
                break
            if i >= skip:
                found.append(commit)
        return found

    def licence_changes(self, repo: RepoInfo, oids: Sequence[str]) -> dict[str, LicenceChange]:
        """Returns the commits, of those given, that changed the licence that the card names."""
        return licence_changes(self.content.open_repo(repo), oids)

    def list_refs(self, repo: RepoInfo) -> list[Ref]:
        """Returns branches, tags and other refs."""
        return self.content.open_repo(repo).list_refs()

    def find_file(self, repo: RepoInfo, path: str, revision: str = "main") -> StoredFile:
        """Returns a file's size, hashes and commit, or raises EntryNotFound."""
        return self.content.find_file(repo, self.resolve_revision(repo, revision), path, revision)

    def read_file(
        self, repo: RepoInfo, path: str, revision: str = "main", *, limit_bytes: int = 10_000_000
    ) -> bytes:
        """Returns a file's bytes, or raises TooLarge when there are more than the limit."""
        return self.content.read(repo, self.find_file(repo, path, revision), limit_bytes)

    def iter_file(
        self, repo: RepoInfo, path: str, revision: str = "main", *, start: int = 0, end: int | None = None
    ) -> Iterator[bytes]:
        """Yields bytes [start, end) of a file, about 1 MiB at a time."""
        file = self.find_file(repo, path, revision)
        stop = file.size if end is None else min(end, file.size)
        return self.content.iter_bytes(repo, file, start, stop)

    def materialise(
        self, repo_id: str, repo_type: RepoType = "model", revision: str = "main", path: str = ""
    ) -> Path:
        """Returns a real file with the bytes of ``path``, that an engine can map; for callers that checked rights."""
        repo = self.repos.get(SYSTEM, repo_type, repo_id)
        return self.content.materialise(repo, self.find_file(repo, path, revision))

    def read_card(self, repo: RepoInfo, revision: str = "main") -> str | None:
        """Returns README.md, or None."""
        return card_text(self.content.open_repo(repo), self.resolve_revision(repo, revision))

    # Writing

    def commit(
        self,
        identity: Identity,
        repo: RepoInfo,
        operations: Sequence[Operation],
        message: str,
        *,
        description: str = "",
        branch: str = "main",
        parent: str | None = None,
        action: Literal["repo.commit", "repo.push"] = "repo.commit",
    ) -> str:
        """Applies operations as one commit and returns its oid; see ``Committer.commit``.

        ``action`` is what the audit says: `repo.push` when a person's own client sent it.

        Raises:
            Unauthenticated, Denied: the caller may not write to the repo.

        """
        ref = branch if branch.startswith("refs/pr/") else f"refs/heads/{branch}"
        self.discussions.check_may_commit_to(self._accounts.fresh(identity), repo, ref)
        self._check_pointers(identity, repo, operations)
        return self.committer.commit(
            identity,
            repo,
            operations,
            message,
            description=description,
            branch=branch,
            parent=parent,
            action=action,
        )

    def propose(
        self,
        identity: Identity,
        repo: RepoInfo,
        operations: Sequence[Operation],
        message: str,
        *,
        description: str = "",
        branch: str = "main",
        parent: str | None = None,
    ) -> tuple[str, int]:
        """Opens a pull request with one commit upon a branch; returns the commit and the request's number.

        Raises:
            Unauthenticated, Denied: the caller may not take part in the repo.

        """
        fresh = self._accounts.fresh(identity)
        self.discussions.check_may_take_part(fresh, repo)
        self._check_pointers(fresh, repo, operations)
        oid, large = self.committer.prepare(
            fresh,
            repo,
            operations,
            message,
            description=description,
            branch=branch,
            parent=parent,
        )
        title = message.strip().partition("\n")[0][:200]
        text = description.strip() or "Opened with a commit."
        num = self.discussions.open(
            fresh,
            repo,
            title if len(title) > 2 else f"{title}...",
            text,
            pull_request=True,
            oid=oid,
            large=large,
        )
        return oid, num

    def push(self, identity: Identity, repo: RepoInfo, body: Path, language: Language) -> bytes:
        """Does the push that a `git-receive-pack` body holds, and returns git's report of it.

        Raises:
            Unauthenticated, Denied: the caller may not write to the repo.

        """
        fresh = self._accounts.fresh(identity)
        return self.receiver.receive(
            fresh,
            repo,
            body,
            language,
            check=lambda update: self.discussions.check_may_commit_to(fresh, repo, update.ref),
        )

    def _check_pointers(self, identity: Identity, repo: RepoInfo, operations: Sequence[Operation]) -> None:
        """Refuses a small file that is itself a pointer to bytes the caller never had."""
        pointed = {
            op.path: sha for op in operations if isinstance(op, AddFile) and (sha := pointed_to(op.data))
        }
        allowed = self.content.may_point(identity, repo, list(pointed.values()))
        for path, sha256 in pointed.items():
            if sha256 not in allowed:
                raise BadHash(
                    "The bytes of {path} (SHA-256 {sha256}) were not uploaded to {owner}.",
                    hint="Upload the file first, then commit.",
                    path=path[:200],
                    sha256=sha256,
                    owner=repo.owner,
                )

    def put_file_from_path(
        self, repo: RepoInfo, source: Path, *, expected_sha256: str = "", move: bool = False
    ) -> Stored:
        """Takes a local file in as a large file that commits of this repo's owner may point to."""
        return self.content.put_file(repo.owner, source, expected_sha256=expected_sha256, move=move)

    def may_point(self, identity: Identity, namespace: str, sha256: str) -> bool:
        """Returns whether a large file is here already and the caller may put it into a repo of ``namespace``: the
        namespace brought it, or the caller reads it in some other repo.
        """
        if self.content.may_read_large("", namespace, sha256, writer=True):
            return True
        return self.repos.may_read_large(identity, sha256)

    def adopt(self, identity: Identity, namespace: str, sha256: str) -> None:
        """Lets commits of a namespace point to a large file that the caller reads in some other repo."""
        if self.repos.may_read_large(identity, sha256):
            self.content.share_large(namespace, sha256)

    def import_files(
        self,
        identity: Identity,
        repo_id: str,
        repo_type: RepoType,
        files: Mapping[str, Path],
        *,
        message: str,
    ) -> str:
        """Commits local files to a repo, made when it is not there, and returns the commit's oid."""
        repo = self.create_repo(identity, repo_id, repo_type, exist_ok=True)
        attributes = self.read_file(repo, ".gitattributes").decode("utf-8", "replace")
        operations: list[Operation] = []
        for path, source in files.items():
            if is_lfs(attributes, path) or source.stat().st_size > self._settings.hub.max_regular_file_bytes:
                stored = self.put_file_from_path(repo, source)
                operations.append(AddLargeFile(path, stored.sha256, stored.size))
            else:
                operations.append(AddFile(path, source.read_bytes()))
        return self.commit(identity, repo, operations, message)

    def find_chunk(self, namespace: str, chunk: str) -> bytes | None:
        """Returns a shard that says where a namespace, whose writer asks, holds a chunk; None: nowhere."""
        key = self.signer.key_for("dedup", namespace.lower())
        return find_dedup_shard(self._database, self.cas, namespace, chunk, key, int(time.time()))

    def _count_of(self, session: Session, owner: str) -> int:
        """Returns how many repos and buckets a name holds: while there are any, it stays."""
        return self.repos.count_of(session, owner) + self.buckets.count_of(session, owner)

    def count_repos(self, identity: Identity, repo_type: RepoType) -> int:
        """Returns how many repos of a type the caller may see."""
        return self.list_repos(identity, repo_type, limit=1).total

    def has_pushed(self, identity: Identity) -> bool:
        """Returns whether the caller ever sent a commit with a client of its own."""
        return did_ever(self._database, identity.user or "", "repo.push")

    def note_download(self, repo: RepoInfo) -> None:
        """Counts a download; written to the rows by ``flush_downloads``."""
        self._downloads[repo.id] += 1

    def flush_downloads(self) -> None:
        """Writes the counted downloads."""
        if self._downloads:
            counts, self._downloads = self._downloads, Counter()
            self.repos.touch_downloads(dict(counts))

    # Looking

    def preview(self, repo: RepoInfo, file: StoredFile) -> Look:
        """Returns the beginning of a file as a table or a text; the same bytes are read once."""
        key = (file.etag, format_of(file.path), file.path.lower().endswith(".gz"))
        found = self._looks.get(key)
        if found is None:
            found = self._look(repo, file)
            if len(self._looks) >= _LOOKS_KEPT:
                self._looks.pop(next(iter(self._looks)), None)
            self._looks[key] = found
        return found

    def _look(self, repo: RepoInfo, file: StoredFile) -> Look:
        if format_of(file.path) == "parquet":
            return look_at_parquet(
                file.size, lambda start, end: b"".join(self.content.iter_bytes(repo, file, start, end))
            )
        return look_at_text(file.path, self.content.iter_bytes(repo, file, 0, file.size), file.size)

    def read_changes(self, repo: RepoInfo, revision: str) -> CommitChanges:
        """Returns what a commit changed, or raises RevisionNotFound."""
        oid = self.resolve_revision(repo, revision)
        return read_changes(self.content.open_repo(repo), oid)

    def compare(
        self, repo: RepoInfo, base: str, head: str, *, since_parted: bool, path: str = ""
    ) -> tuple[str, str, Comparison]:
        """Returns the commits of two revisions and what lies between them, or raises RevisionNotFound."""
        old, new = self.resolve_revision(repo, base), self.resolve_revision(repo, head)
        found = compare(self.content.open_repo(repo), old, new, since_parted=since_parted, path=path)
        return old, new, found

    def measure_storage(self) -> StorageSums:
        """Returns what large files take, and what sharing saved."""
        return measure_storage(self._database, self.cache)


def blobs_folder(url: str) -> Path:
    """Returns the folder of `store.blobs_url`, or raises NotOffered or InvalidInput."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if parts.scheme in ("s3", "gs", "az"):
        raise NotOffered(
            "Large files cannot be kept at {url} yet.",
            hint="Use a folder: store.blobs_url = file:///…",
            url=url,
        )
    raise InvalidInput("store.blobs_url is {url!r}.", hint="Write it as file:///path.", url=url)
