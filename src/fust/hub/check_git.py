"""Reads a git repository to its ground: what cannot be read, and which large files it points to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pygit2

from fust.hub.git_repo import MAX_POINTER_BYTES, GitRepo, parse_pointer


def raw_refs(repo: GitRepo) -> list[tuple[str, str]]:
    """Returns (ref, oid of what it points to) of every ref, whether that is there or not."""
    found: list[tuple[str, str]] = []
    for ref in sorted(repo.git.listall_references()):
        oid = repo.raw_ref(ref)
        if oid:
            found.append((ref, oid))
    return found


class Walk:
    """Visits commits, trees and blobs from refs on, each once."""

    def __init__(self, repo: GitRepo, *, deep: bool) -> None:
        self._git = repo.git
        self._deep = deep
        self._seen: set[str] = set()
        self.broken: set[str] = set()
        """Objects that something points to and that cannot be read."""
        self.pointers: set[str] = set()
        """SHA-256 of large files that some tree points to."""

    def start(self, oid: str) -> bool:
        """Visits all that is behind a ref; returns False when the ref's own object cannot be read."""
        todo = [oid]
        first = True
        while todo:
            item = self._get(todo.pop())
            if first and item is None:
                self.broken.discard(oid)
                return False
            first = False
            commit = _peel(item)
            if commit is None:
                continue
            self._seen.add(str(commit.id))
            self._tree(str(commit.tree_id))
            if self._deep:
                todo += [str(parent) for parent in commit.parent_ids if str(parent) not in self._seen]
        return True

    def _get(self, oid: str) -> pygit2.Object | None:
        self._seen.add(oid)
        try:
            return self._git[oid]
        except (KeyError, ValueError, pygit2.GitError):
            self.broken.add(oid)
            return None

    def _tree(self, oid: str) -> None:
        todo = [oid]
        while todo:
            here = todo.pop()
            if here in self._seen:
                continue
            tree = self._get(here)
            if not isinstance(tree, pygit2.Tree):
                continue
            for item in tree:
                if item.filemode == pygit2.enums.FileMode.TREE:
                    todo.append(str(item.id))
                elif item.filemode != pygit2.enums.FileMode.COMMIT and str(item.id) not in self._seen:
                    blob = self._get(str(item.id))
                    if isinstance(blob, pygit2.Blob) and blob.size <= MAX_POINTER_BYTES:
                        pointer = parse_pointer(blob.data)
                        if pointer:
                            self.pointers.add(pointer[0])


def _peel(item: pygit2.Object | None) -> pygit2.Commit | None:
    """Returns a commit, or the one that a tag names; None when it is neither or cannot be read."""
    try:
        return None if item is None else item.peel(pygit2.Commit)
    except (KeyError, ValueError, pygit2.GitError):
        return None


_TYPES = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}


def broken_objects(repo: GitRepo) -> Iterator[str]:
    """Yields objects whose bytes are not those that their name says."""
    for oid in repo.git:
        try:
            kind, data = repo.git.odb.read(oid)
        except (KeyError, ValueError, pygit2.GitError):
            yield str(oid)
            continue
        head = _TYPES[int(kind)] + b" %d\0" % len(data)
        if hashlib.sha1(head + data, usedforsecurity=False).hexdigest() != str(oid):
            yield str(oid)
