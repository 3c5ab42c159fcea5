"""Branches and tags: making, removing, and squashing a branch's history into one commit."""

from __future__ import annotations

from fust.accounts.rights import Identity
from fust.accounts.service import Accounts
from fust.core.errors import Conflict
from fust.hub.content import Content
from fust.hub.errors import revision_not_found
from fust.hub.paths import check_ref_part
from fust.hub.ref_writer import RefWriter
from fust.hub.types import RefUpdate, RepoInfo


class Refs:
    """Changes names of commits."""

    def __init__(self, content: Content, writer: RefWriter, accounts: Accounts) -> None:
        self._content = content
        self._writer = writer
        self._accounts = accounts

    def create_branch(
        self, identity: Identity, info: RepoInfo, branch: str, oid: str | None, *, overwrite: bool = False
    ) -> str:
        """Makes a branch at a commit, or with one empty commit when ``oid`` is None; returns its commit.

        Raises:
            Conflict: there is one of that name and ``overwrite`` is off.

        """
        check_ref_part(branch, "branch")
        self._accounts.check(identity, "repo.push", info.repo_id, info.type)
        repo = self._content.open_repo(info)
        ref = f"refs/heads/{branch}"
        with repo.lock():
            old = repo.raw_ref(ref)
            if old and not overwrite:
                raise _taken("branch", branch)
            if oid is None:
                tree = repo.write_empty_tree()
                oid = repo.write_commit(tree, [], "initial commit", identity.user or "fust")
            if old != oid:
                self._writer.apply(
                    identity, info, repo, [RefUpdate(ref, old, oid)], action="repo.branch.create"
                )
        return oid

    def create_tag(self, identity: Identity, info: RepoInfo, tag: str, oid: str, message: str = "") -> None:
        """Makes a tag at a commit; with a message, an annotated one.

        Raises:
            Conflict: there is one of that name.

        """
        check_ref_part(tag, "tag")
        self._accounts.check(identity, "repo.push", info.repo_id, info.type)
        repo = self._content.open_repo(info)
        ref = f"refs/tags/{tag}"
        with repo.lock():
            if repo.raw_ref(ref):
                raise _taken("tag", tag)
            new = repo.write_tag(tag, oid, message, identity.user or "fust") if message else oid
            self._writer.apply(identity, info, repo, [RefUpdate(ref, None, new)], action="repo.tag.create")

    def delete(self, identity: Identity, info: RepoInfo, ref: str) -> None:
        """Removes a branch or a tag by its full name.

        Raises:
            RevisionNotFound: there is none.
            Denied: it is protected.

        """
        self._accounts.check(identity, "repo.push", info.repo_id, info.type)
        repo = self._content.open_repo(info)
        with repo.lock():
            old = repo.raw_ref(ref)
            if old is None:
                raise revision_not_found(info.repo_id, ref.split("/", 2)[-1])
            self._writer.apply(identity, info, repo, [RefUpdate(ref, old, None)], action="repo.ref.delete")

    def super_squash(self, identity: Identity, info: RepoInfo, branch: str, message: str = "") -> str:
        """Replaces a branch's history by one commit of its files; returns that commit.

        Who may write may do it, on a protected branch too: no file is lost, and it is asked for by name.

        Raises:
            RevisionNotFound: no such branch.

        """
        check_ref_part(branch, "branch")
        self._accounts.check(identity, "repo.push", info.repo_id, info.type)
        repo = self._content.open_repo(info)
        ref = f"refs/heads/{branch}"
        with repo.lock():
            old = repo.find_ref(ref)
            if old is None:
                raise revision_not_found(info.repo_id, branch)
            tree = str(repo.tree_of(old).id)
            text = message.strip()[:10_000] or f"Super-squash branch '{branch}'"
            oid = repo.write_commit(tree, [], text, identity.user or "fust")
            self._writer.apply(
                identity, info, repo, [RefUpdate(ref, old, oid)], action="repo.squash", checked=True
            )
        return oid


def _taken(what: str, name: str) -> Conflict:
    return Conflict("There is a {what} {name!r} already.", hint="Choose another name.", what=what, name=name)
