"""Repos under another name: moved, with requests for the old name sent on, or copied with their history."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from fust.accounts.audit import note_action
from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.ids import RepoType, new_id, split_repo_id
from fust.core.locks import FileLock
from fust.hub.errors import RepoExists
from fust.hub.gates import Gates
from fust.hub.git_store import GitStore
from fust.hub.models import OldName, Repo, RepoFile
from fust.hub.repos import Repos, to_info
from fust.hub.types import RepoInfo
from fust.store.database import Database
from fust.store.outbox import emit


class Relocation:
    """Moves and copies repos."""

    def __init__(
        self, database: Database, accounts: Accounts, repos: Repos, git: GitStore, gates: Gates
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._repos = repos
        self._git = git
        self._gates = gates

    def move(self, identity: Identity, repo_type: RepoType, from_id: str, to_id: str) -> RepoInfo:
        """Gives a repo another name; requests for the old one are sent on until somebody takes that name.

        The row moves first, with a note of the folder's old place that a new start finishes.

        Raises:
            RepoExists: the new name is taken.
            RepoNotFound, Unauthenticated, Denied: the caller may not take it there.

        """
        info = self._repos.get_for(identity, "repo.delete", repo_type, from_id)
        owner, name = self._target(identity, repo_type, to_id)
        key = f"{owner}/{name}".lower()
        with (
            FileLock(self._git.root / ".create.lock"),
            self._git.open(info.type, info.owner, info.name).lock(),
        ):
            try:
                with self._database.write() as session:
                    self._accounts.organisations.hold(session, owner)
                    row = self._repos.locked_row(session, info)
                    taken = session.scalars(
                        select(Repo.id).where(Repo.type == repo_type, Repo.key == key)
                    ).first()
                    if taken and taken != info.id:
                        raise _taken(repo_type, owner, name)
                    session.execute(delete(OldName).where(OldName.type == repo_type, OldName.key == key))
                    if key != row.key:
                        session.merge(OldName(type=repo_type, key=row.key, repo_id=row.id))
                    row.moved_from = info.repo_id
                    row.owner, row.name, row.key = owner, name, key
                    emit(session, "repo_moved", **to_info(row).told, from_id=info.repo_id)
                    note_action(
                        session, identity, "repo.move", f"{repo_type}:{info.repo_id}", to=f"{owner}/{name}"
                    )
            except IntegrityError as error:
                raise _taken(repo_type, owner, name) from error
            moved = self._finish(to_info(row), info.repo_id)
        self._repos.forget()
        return moved

    def _target(self, identity: Identity, repo_type: RepoType, repo_id: str) -> tuple[str, str]:
        owner, name = split_repo_id(repo_id)
        owner = self._accounts.organisations.ensure(owner, by=identity)
        self._accounts.check(identity, "repo.create", f"{owner}/{name}", repo_type)
        return owner, name

    def _finish(self, info: RepoInfo, old_id: str) -> RepoInfo:
        owner, name = split_repo_id(old_id)
        self._git.rename(info.type, (owner, name), (info.owner, info.name))
        with self._database.write() as session:
            self._repos.locked_row(session, info).moved_from = None
        return info

    def recover(self) -> int:
        """Finishes moves that a server that is gone began; returns how many."""
        with self._database.read() as session:
            rows = list(session.scalars(select(Repo).where(Repo.moved_from.is_not(None))))
        for row in rows:
            self._finish(to_info(row), row.moved_from or "")
        return len(rows)

    def duplicate(
        self, identity: Identity, repo_type: RepoType, from_id: str, to_id: str, *, private: bool | None
    ) -> RepoInfo:
        """Copies a repo with its branches and tags; large files are pointed to, not copied.

        The copy of a gated repo is gated alike, and private unless the caller says otherwise.

        Raises:
            RepoExists: the name is taken.
            GatedRepo: its files are not open to the caller.
            RepoNotFound, Unauthenticated, Denied: the caller may not read it or make the copy.

        """
        info = self._repos.get(identity, repo_type, from_id)
        self._accounts.require(identity, "write")
        self._gates.check(identity, info)
        owner, name = self._target(identity, repo_type, to_id)
        key = f"{owner}/{name}".lower()
        self._gates.note_download(identity, info, "copy", to=f"{owner}/{name}")
        with FileLock(self._git.root / ".create.lock"):
            with self._database.read() as session:
                if session.scalars(select(Repo.id).where(Repo.type == repo_type, Repo.key == key)).first():
                    raise _taken(repo_type, owner, name)
            with self._git.open(info.type, info.owner, info.name).lock():
                self._git.copy(repo_type, (info.owner, info.name), (owner, name))
            with self._database.write() as session:
                self._accounts.organisations.hold(session, owner)
                source = self._repos.locked_row(session, info)
                row = Repo(id=new_id("r"), type=repo_type, key=key, owner=owner, name=name)
                for column in _COPIED:
                    setattr(row, column, getattr(source, column))
                row.private = (source.private or bool(source.gated)) if private is None else private
                session.execute(delete(OldName).where(OldName.type == repo_type, OldName.key == key))
                session.add(row)
                session.flush()
                query = select(RepoFile.sha256).where(RepoFile.repo_id == source.id)
                session.add_all(RepoFile(repo_id=row.id, sha256=sha) for sha in list(session.scalars(query)))
                emit(session, "repo_created", **to_info(row).told)
                emit(
                    session,
                    "revision_created",
                    repo_id=f"{owner}/{name}",
                    type=repo_type,
                    revision="main",
                    oid=row.head_oid,
                )
                subject = f"{repo_type}:{owner}/{name}"
                note_action(session, identity, "repo.create", subject, copied_from=info.repo_id)
        self._repos.forget()
        return to_info(row)


_COPIED = (
    "gated",
    "head_oid",
    "sums",
    "size_bytes",
    "licence",
    "languages",
    "task",
    "library",
    "tags",
    "formats",
    "largest_gguf_bytes",
    "smallest_gguf_bytes",
    "description",
    "sdk",
)


def _taken(repo_type: str, owner: str, name: str) -> RepoExists:
    return RepoExists(
        "There is a {type} repo {repo_id} already.",
        hint="Use it, or choose another name.",
        type=repo_type,
        repo_id=f"{owner}/{name}",
    )
