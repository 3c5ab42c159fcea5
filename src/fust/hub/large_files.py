"""The large files of a repo: which there are in its whole history, lending them to another repo, removing them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import pygit2
from sqlalchemy import delete, select

from fust.accounts.rights import Identity
from fust.hub.content import Content
from fust.hub.git_repo import MAX_POINTER_BYTES, GitRepo, parse_pointer
from fust.hub.models import LargeFile, LargeFileOwner, RepoFile
from fust.hub.ref_writer import RefWriter
from fust.hub.repos import Repos
from fust.hub.types import RefUpdate, RepoInfo
from fust.store.database import Database


@dataclass(frozen=True, slots=True)
class RepoLargeFile:
    """A large file that some revision of a repo points to."""

    sha256: str
    path: str
    """Where it was seen last; empty when no branch or tag leads there."""
    ref: str | None
    size: int
    pushed_at: datetime


class LargeFiles:
    """Large files, repo by repo."""

    def __init__(self, database: Database, repos: Repos, content: Content, writer: RefWriter) -> None:
        self._database = database
        self._repos = repos
        self._content = content
        self._writer = writer

    def list(self, info: RepoInfo) -> list[RepoLargeFile]:
        """Returns every large file that the repo ever pointed to, by path."""
        repo = self._content.open_repo(info)
        seen: dict[str, tuple[str, str]] = {}
        looked: set[str] = set()
        refs = sorted(repo.list_refs(), key=lambda ref: ref.ref != "refs/heads/main")
        for ref in refs:
            for commit in repo.git.walk(ref.oid):
                _find_pointers(repo, commit.tree, "", ref.ref, seen, looked)
        with self._database.read() as session:
            query = select(LargeFile).join(RepoFile, RepoFile.sha256 == LargeFile.sha256)
            rows = list(session.scalars(query.where(RepoFile.repo_id == info.id)))
        found = [
            RepoLargeFile(
                row.sha256,
                seen[row.sha256][0] if row.sha256 in seen else "",
                seen[row.sha256][1] if row.sha256 in seen else None,
                row.size,
                row.created_at,
            )
            for row in rows
        ]
        return sorted(found, key=lambda file: (file.path, file.sha256))

    def lend(self, source: RepoInfo, target: RepoInfo, sha256s: Sequence[str]) -> set[str]:
        """Lets the target's owner point to files of a repo that the caller reads; returns those that were its."""
        with self._database.write() as session:
            query = select(RepoFile.sha256).where(
                RepoFile.repo_id == source.id, RepoFile.sha256.in_(list(sha256s)[:1000])
            )
            here = set(session.scalars(query))
            for sha256 in here:
                if session.get(LargeFileOwner, (target.owner, sha256)) is None:
                    session.add(LargeFileOwner(namespace=target.owner, sha256=sha256))
        return here

    def delete(self, identity: Identity, info: RepoInfo, sha256s: Collection[str], *, rewrite: bool) -> None:
        """Takes large files out of a repo for good; with ``rewrite``, out of every commit of its branches and tags.

        The repo's readers cannot read them any more; the bytes go when nothing else points to them.
        """
        repo = self._content.open_repo(info)
        with repo.lock():
            if rewrite:
                updates = _Rewriter(repo, frozenset(sha256s)).rewrite()
                if updates:
                    self._writer.apply(identity, info, repo, updates, action="repo.squash", checked=True)
            with self._database.write() as session:
                session.execute(
                    delete(RepoFile).where(RepoFile.repo_id == info.id, RepoFile.sha256.in_(list(sha256s)))
                )
        self._repos.forget()


def _find_pointers(
    repo: GitRepo,
    tree: pygit2.Tree,
    prefix: str,
    ref: str,
    seen: dict[str, tuple[str, str]],
    looked: set[str],
) -> None:
    if str(tree.id) in looked:
        return
    looked.add(str(tree.id))
    for item in tree:
        if isinstance(item, pygit2.Tree):
            _find_pointers(repo, item, f"{prefix}{item.name}/", ref, seen, looked)
        else:
            sha256 = _pointed_to(item)
            if sha256:
                seen.setdefault(sha256, (prefix + (item.name or ""), ref))


def _pointed_to(item: pygit2.Object) -> str | None:
    if not isinstance(item, pygit2.Blob) or item.size > MAX_POINTER_BYTES:
        return None
    pointer = parse_pointer(item.data)
    return pointer[0] if pointer else None


class _Rewriter:
    """Writes a history anew without some large files; commits that do not change keep their oid."""

    def __init__(self, repo: GitRepo, gone: frozenset[str]) -> None:
        self._repo = repo
        self._gone = gone
        self._trees: dict[str, str | None] = {}
        self._commits: dict[str, str] = {}

    def rewrite(self) -> list[RefUpdate]:
        """Returns the refs that point elsewhere then; annotated tags become tags of the new commit."""
        updates: list[RefUpdate] = []
        for ref in self._repo.list_refs():
            order = pygit2.enums.SortMode.TOPOLOGICAL | pygit2.enums.SortMode.REVERSE
            for commit in self._repo.git.walk(ref.oid, order):
                self._rewrite_commit(commit)
            new = self._commits[ref.oid]
            if new != ref.oid:
                updates.append(RefUpdate(ref.ref, self._repo.raw_ref(ref.ref), new))
        return updates

    def _rewrite_commit(self, commit: pygit2.Commit) -> None:
        oid = str(commit.id)
        if oid in self._commits:
            return
        tree = self._rewrite_tree(commit.tree) or self._repo.write_empty_tree()
        parents = [self._commits[str(parent)] for parent in commit.parent_ids]
        if tree == str(commit.tree.id) and parents == [str(parent) for parent in commit.parent_ids]:
            self._commits[oid] = oid
            return
        new = self._repo.git.create_commit(
            None, commit.author, commit.committer, commit.message, tree, list(parents)
        )
        self._commits[oid] = str(new)

    def _rewrite_tree(self, tree: pygit2.Tree) -> str | None:
        """Returns the tree's new oid; None when nothing is left of it."""
        oid = str(tree.id)
        if oid not in self._trees:
            builder = self._repo.git.TreeBuilder(tree)
            for item in tree:
                name = item.name or ""
                if isinstance(item, pygit2.Tree):
                    below = self._rewrite_tree(item)
                    if below is None:
                        builder.remove(name)
                    elif below != str(item.id):
                        builder.insert(name, below, item.filemode)
                elif _pointed_to(item) in self._gone:
                    builder.remove(name)
            self._trees[oid] = str(builder.write()) if len(builder) else None
        return self._trees[oid]
