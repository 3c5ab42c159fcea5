"""Moves refs so that `kill -9` at any moment leaves every acknowledged change and no half one.

Order, with the repo's lock held and every object on the disk: the rows that let readers of the repo read its large
files, with a journal of the moves; the refs, each only from where the writer saw it; then what lists show, the events,
and the journal's end. A journal that is found at the next start is finished, so that a push of several refs is never
done by half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from fust.accounts.audit import note_action
from fust.accounts.rights import SYSTEM, Identity
from fust.core.clock import utc_naive
from fust.hub.cards import all_tags
from fust.hub.content import Content
from fust.hub.errors import BadHash
from fust.hub.git_repo import GitRepo
from fust.hub.models import LargeFile, Repo, RepoFile
from fust.hub.policy import check_update
from fust.hub.repos import Repos
from fust.hub.summary import read_card, sum_tree
from fust.hub.types import RefUpdate, RepoInfo
from fust.store.database import Database
from fust.store.outbox import emit

MAIN = "refs/heads/main"


class RefJournal(msgspec.Struct):
    """Refs on their way, kept in the repo's row while they move."""

    updates: list[RefUpdate]
    actor: str
    action: str


class RefWriter:
    """Writes refs of all repos."""

    def __init__(self, database: Database, repos: Repos, content: Content) -> None:
        self._database = database
        self._repos = repos
        self._content = content
        self.on_pull_request: Callable[[Session, RepoInfo, GitRepo, RefUpdate, Identity], None] | None = None
        """Set by ``Discussions``: hears of every move of a `refs/pr/N`, in its transaction."""

    def apply(
        self,
        identity: Identity,
        info: RepoInfo,
        repo: GitRepo,
        updates: Sequence[RefUpdate],
        *,
        large: Iterable[str] = (),
        action: str = "repo.commit",
        checked: bool = False,
        also: Callable[[Session], None] | None = None,
    ) -> None:
        """Moves refs, all or none; call with the repo's lock held.

        ``large`` are the SHA-256 of large files that the new commits point to; ``also`` writes further rows in the
        last transaction. ``checked``: the caller allowed even what the repo's rules forbid.

        Raises:
            HeadMoved, Conflict: a ref is not where it was seen, or cannot have that name; none was moved.
            Denied: the repo's rules.

        """
        if not checked:
            for update in updates:
                check_update(info, update, rewrites=self._rewrites(repo, update))
        self._before(info, RefJournal(list(updates), identity.user or "", action), large)
        moved: list[RefUpdate] = []
        try:
            for update in updates:
                repo.swap_ref(update.ref, update.old, update.new)
                moved.append(update)
        except BaseException:
            for update in reversed(moved):
                repo.swap_ref(update.ref, update.new, update.old)
            self._forget(info)
            raise
        self._after(info, repo, updates, identity, action, also)

    def _rewrites(self, repo: GitRepo, update: RefUpdate) -> bool:
        if update.old is None or update.new is None or update.old == update.new:
            return False
        return not repo.descends(update.new, update.old)

    def _before(self, info: RepoInfo, journal: RefJournal, large: Iterable[str]) -> None:
        with self._database.write() as session:
            row = self._repos.locked_row(session, info)
            row.pending = True
            row.moving = msgspec.to_builtins(journal)
            wanted = sorted(large)
            _hold(session, wanted)
            for sha256 in wanted:
                if session.get(RepoFile, (info.id, sha256)) is None:
                    session.add(RepoFile(repo_id=info.id, sha256=sha256))

    def _forget(self, info: RepoInfo) -> None:
        with self._database.write() as session:
            row = self._repos.locked_row(session, info)
            row.pending, row.moving = False, None

    def _after(
        self,
        info: RepoInfo,
        repo: GitRepo,
        updates: Sequence[RefUpdate],
        identity: Identity,
        action: str,
        also: Callable[[Session], None] | None = None,
    ) -> None:
        with self._database.write() as session:
            row = self._repos.locked_row(session, info)
            row.pending, row.moving = False, None
            row.updated_at = utc_naive()
            for update in updates:
                if update.ref == MAIN and update.new:
                    refresh(row, repo, update.new)
                subject = f"{info.type}:{info.repo_id}"
                note_action(session, identity, action, subject, ref=update.ref, oid=update.new or "deleted")
                _emit(session, info, update)
            moved = [update for update in updates if update.old != update.new]
            if moved:
                emit(session, "refs_changed", **info.told | {"head_oid": row.head_oid}, updates=moved)
            if also is not None:
                also(session)
            for update in updates:
                if update.ref.startswith("refs/pr/") and self.on_pull_request is not None:
                    self.on_pull_request(session, info, repo, update, identity)
        self._repos.forget()

    def recover(self, info: RepoInfo) -> None:
        """Finishes what a server that is gone began; without a journal, reads the row again from `main`."""
        repo = self._content.open_repo(info)
        with repo.lock():
            repo.clean()
            with self._database.read() as session:
                kept = self._repos.locked_row(session, info).moving
            if kept is None:
                head = repo.find_ref(MAIN)
                updates = [RefUpdate(MAIN, head, head)] if head else []
                self._after(info, repo, updates, SYSTEM, "repo.recover")
                return
            journal = msgspec.convert(kept, RefJournal)
            done: list[RefUpdate] = []
            for update in journal.updates:
                here = repo.raw_ref(update.ref)
                if here == update.old and here != update.new:
                    repo.swap_ref(update.ref, update.old, update.new)
                    here = update.new
                if here == update.new:
                    done.append(update)
            identity = Identity(journal.actor or None, False, frozenset(), None, "anonymous")
            self._after(info, repo, done, identity, journal.action)


def _hold(session: Session, sha256s: list[str]) -> None:
    """Keeps large files from being swept until the transaction ends, and their new pointers count.

    Raises:
        BadHash: one was swept since the caller looked.

    """
    for start in range(0, len(sha256s), 500):
        part = sha256s[start : start + 500]
        query = select(LargeFile.sha256).where(LargeFile.sha256.in_(part)).with_for_update(read=True)
        gone = set(part) - set(session.scalars(query))
        if gone:
            raise BadHash(
                "The large file {sha256} is no longer here: nobody pointed to it for too long.",
                hint="Upload the file again, then commit.",
                sha256=min(gone),
            )


def refresh(row: Repo, repo: GitRepo, oid: str) -> None:
    """Reads from a commit of `main` what lists show."""
    sums = sum_tree(repo, oid, row.sums)
    card = read_card(repo, oid)
    row.head_oid = oid
    row.sums = msgspec.to_builtins(sums)
    row.size_bytes = sums.size_bytes
    row.formats = sums.formats
    row.smallest_gguf_bytes = min(sums.gguf_sizes, default=0)
    row.largest_gguf_bytes = max(sums.gguf_sizes, default=0)
    row.licence = card.licence
    row.languages = card.languages
    row.task = card.task
    row.library = card.library
    row.tags = all_tags(card)
    row.description = card.description
    if row.type == "space":
        row.sdk = card.sdk or row.sdk  # a card that names none leaves what the space was made with


def _emit(session: Session, info: RepoInfo, update: RefUpdate) -> None:
    body = {"repo_id": info.repo_id, "type": info.type}
    if update.new is None:
        emit(session, "ref_deleted", **body, ref=update.ref, oid=update.old)
    elif update.ref.startswith("refs/tags/"):
        emit(session, "tag_created", **body, ref=update.ref, oid=update.new)
    else:
        revision = update.ref.removeprefix("refs/heads/")
        emit(session, "revision_created", **body, revision=revision, oid=update.new)
