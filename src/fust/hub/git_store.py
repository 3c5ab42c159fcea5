"""Bare git repositories: trees, commits and refs, written so that an acknowledged commit is on the disk.

One folder a repo, ``<root>/models/owner/name.git``. Writers hold the repo's file lock and move a ref only from the
commit that they saw (compare and swap). libgit2 fsyncs objects and refs (`core.fsyncObjectFiles`).
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pygit2

from fust.core.errors import Conflict, NotFound
from fust.core.files import fsync_folder, full_disk_is_clear
from fust.core.ids import RepoType, new_id
from fust.core.locks import FileLock
from fust.hub.errors import BadPath, HeadMoved, entry_not_found
from fust.hub.paths import check_path, check_ref_part, is_commit_oid

FILE_MODE = 0o100644
TREE_MODE = 0o040000
_POINTER = re.compile(
    rb"\Aversion https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d{1,15})\n\Z"
)
MAX_POINTER_BYTES = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder of a tree. For a large file, ``sha256`` is set and ``size`` is the real one."""

    path: str
    oid: str
    is_folder: bool
    size: int = 0
    sha256: str = ""
    pointer_size: int = 0


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """One commit as lists show it."""

    oid: str
    title: str
    message: str
    authors: tuple[str, ...]
    date: datetime


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch, a tag or another name for a commit."""

    name: str
    ref: str
    oid: str


def pointer_bytes(sha256: str, size: int) -> bytes:
    """Returns the git-lfs pointer file (git-lfs/docs/spec.md)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def parse_pointer(data: bytes) -> tuple[str, int] | None:
    """Returns (sha256, size) when ``data`` is a pointer, else None."""
    match = _POINTER.match(data) if len(data) <= MAX_POINTER_BYTES else None
    return (match[1].decode(), int(match[2])) if match else None


class GitStore:
    """All repositories of a home."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, repo_type: RepoType, owner: str, name: str) -> Path:
        """Returns a repo's folder; owner and name must have been checked."""
        return self.root / f"{repo_type}s" / owner / f"{name}.git"

    def open(self, repo_type: RepoType, owner: str, name: str) -> GitRepo:
        """Returns a repo that exists."""
        return GitRepo(self.path(repo_type, owner, name))

    def create(self, repo_type: RepoType, owner: str, name: str, files: dict[str, bytes], author: str) -> str:
        """Makes a repo with one commit on `main`; it appears whole or not at all. Returns the commit's oid."""
        path = self.path(repo_type, owner, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{new_id('new-')}.tmp"
        try:
            with full_disk_is_clear(path):
                git = pygit2.init_repository(str(temporary), bare=True, initial_head="main")
                config = git.config
                config["core.fsyncObjectFiles"] = True
                config["http.receivepack"] = False
                config["uploadpack.allowFilter"] = True
                config["uploadpack.allowAnySHA1InWant"] = True
                config["gc.auto"] = 0
                shutil.rmtree(temporary / "hooks", ignore_errors=True)
                del git
                repo = GitRepo(temporary)
                editor = TreeEditor(repo.git, None)
                for file_path, data in files.items():
                    editor.put(file_path, repo.write_blob(data))
                oid = repo.write_commit(editor.write(), [], "initial commit", author)
                repo.move_ref("refs/heads/main", None, oid)
                if path.exists():  # a leftover that no row names
                    shutil.rmtree(path)
                os.rename(temporary, path)
                fsync_folder(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return oid

    def remove(self, repo_type: RepoType, owner: str, name: str) -> None:
        """Deletes a repo; it vanishes at once, its files a moment later."""
        path = self.path(repo_type, owner, name)
        if not path.exists():
            return
        trash = path.parent / f".{new_id('gone-')}.tmp"
        os.rename(path, trash)
        fsync_folder(path.parent)
        shutil.rmtree(trash, ignore_errors=True)

    def clean_temporaries(self) -> int:
        """Removes repos half made or half deleted by a server that is gone; returns how many."""
        removed = 0
        with FileLock(self.root / ".create.lock"):
            for pattern in ("*/*/.new-*.tmp", "*/*/.gone-*.tmp"):
                for path in self.root.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)
                    removed += 1
        return removed

    def iter_repos(self) -> Iterator[tuple[str, str, str]]:
        """Yields (type in the plural, owner, name) of every folder."""
        for path in self.root.glob("*/*/*.git"):
            yield path.parent.parent.name, path.parent.name, path.name.removesuffix(".git")


class GitRepo:
    """One repository, opened for one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.git = pygit2.Repository(str(path), pygit2.enums.RepositoryOpenFlag.NO_SEARCH)
        except pygit2.GitError as error:
            raise NotFound("The repository {path} cannot be opened.", path=path.name) from error

    def lock(self) -> FileLock:
        """Returns the lock that writers hold."""
        return FileLock(self.path / "fust.writer")

    def clean(self) -> None:
        """Removes git's own locks and half-written objects of a writer that is gone; call with the lock held."""
        for pattern in ("refs/**/*.lock", "*.lock", "objects/*/tmp_obj*", "objects/pack/tmp_*"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    # Refs

    def find_ref(self, ref: str) -> str | None:
        """Returns the commit that a full ref name points to, or None."""
        try:
            return str(self.git.references[ref].peel(pygit2.Commit).id)
        except (KeyError, ValueError, pygit2.GitError):
            return None

    def find_revision(self, revision: str) -> str | None:
        """Returns the commit of a branch, a tag, a full ref or a (shortened) commit oid; None when there is none."""
        if revision in ("", "HEAD"):
            revision = "main"
        if is_commit_oid(revision):
            return revision if self._is_commit(revision) else None
        names = (
            [revision]
            if revision.startswith("refs/")
            else [f"refs/heads/{revision}", f"refs/tags/{revision}"]
        )
        for name in names:
            found = self.find_ref(name) if pygit2.reference_is_valid_name(name) else None
            if found:
                return found
        if re.fullmatch(r"[0-9a-f]{7,39}", revision):
            try:
                return str(self.git.expand_id(revision)) if self._is_commit(revision) else None
            except (KeyError, ValueError):
                return None
        return None

    def _is_commit(self, oid: str) -> bool:
        try:
            return self.git[self.git.expand_id(oid)].type == pygit2.enums.ObjectType.COMMIT
        except (KeyError, ValueError):
            return False

    def list_refs(self) -> list[Ref]:
        """Returns every ref by name."""
        found: list[Ref] = []
        for ref in sorted(self.git.listall_references()):
            oid = self.find_ref(ref)
            if oid:
                found.append(Ref(ref.split("/", 2)[2] if ref.count("/") >= 2 else ref, ref, oid))
        return found

    def move_ref(self, ref: str, expected: str | None, oid: str) -> None:
        """Points a ref at a commit when it still points where the caller saw it (None: is not there).

        Raises:
            HeadMoved: it does not.

        """
        (self.path / f"{ref}.lock").unlink(
            missing_ok=True
        )  # whoever left it is gone: we hold the writer's lock
        try:
            if expected is None:
                self.git.create_reference_direct(ref, oid, False)
                return
            reference = self.git.references[ref]
            if str(reference.peel(pygit2.Commit).id) != expected:
                raise _head_moved(ref, expected)
            reference.set_target(oid)
        except (KeyError, pygit2.AlreadyExistsError, pygit2.GitError) as error:
            raise _head_moved(ref, expected or "") from error

    def create_ref(self, kind: str, name: str, oid: str) -> None:
        """Makes a branch (`heads`) or a tag (`tags`).

        Raises:
            Conflict: there is one of that name.

        """
        what = "branch" if kind == "heads" else "tag"
        check_ref_part(name, what)
        with self.lock():
            (self.path / f"refs/{kind}/{name}.lock").unlink(missing_ok=True)
            if self.find_ref(f"refs/{kind}/{name}"):
                raise Conflict(
                    "There is a {what} {name!r} already.", hint="Choose another name.", what=what, name=name
                )
            try:
                self.git.create_reference_direct(f"refs/{kind}/{name}", oid, False)
            except (ValueError, pygit2.GitError) as error:
                raise Conflict(
                    "The {what} {name!r} cannot be made: {error}.", what=what, name=name, error=error
                ) from error

    def create_annotated_tag(self, name: str, oid: str, message: str, tagger: str) -> None:
        """Makes a tag with a message.

        Raises:
            Conflict: there is one of that name.

        """
        check_ref_part(name, "tag")
        with self.lock():
            if self.find_ref(f"refs/tags/{name}"):
                raise Conflict(
                    "There is a {what} {name!r} already.", hint="Choose another name.", what="tag", name=name
                )
            self.git.create_tag(name, oid, pygit2.enums.ObjectType.COMMIT, _signature(tagger), message)

    def delete_ref(self, kind: str, name: str) -> bool:
        """Removes a branch or a tag; returns False when there is none."""
        with self.lock():
            self.clean()
            try:
                self.git.references.delete(f"refs/{kind}/{name}")
            except (KeyError, ValueError, pygit2.GitError):
                return False
        return True

    # Objects

    def write_blob(self, data: bytes) -> str:
        """Keeps bytes and returns their oid."""
        return str(self.git.create_blob(data))

    def write_commit(self, tree: str, parents: list[str], message: str, author: str) -> str:
        """Keeps a commit that no ref points to yet, and returns its oid."""
        signature = _signature(author)
        return str(self.git.create_commit(None, signature, signature, message, tree, list(parents)))

    def read_blob(self, oid: str) -> bytes:
        """Returns a blob's bytes."""
        blob = self.git[oid]
        assert isinstance(blob, pygit2.Blob)
        return blob.data

    def tree_of(self, commit_oid: str) -> pygit2.Tree:
        """Returns the root tree of a commit."""
        commit = self.git[commit_oid]
        assert isinstance(commit, pygit2.Commit)
        return commit.tree

    def find_entry(self, commit_oid: str, path: str) -> Entry | None:
        """Returns the file or folder at a path, or None; the empty path is the root."""
        tree = self.tree_of(commit_oid)
        if not path:
            return Entry("", str(tree.id), True)
        try:
            return self._entry(path, tree[path])
        except (KeyError, ValueError):
            return None

    def get_entry(self, commit_oid: str, path: str, revision: str) -> Entry:
        """Returns the file or folder at a path.

        Raises:
            EntryNotFound: there is none.

        """
        entry = self.find_entry(commit_oid, path)
        if entry is None:
            raise entry_not_found(path, revision, commit_oid)
        return entry

    def iter_tree(self, commit_oid: str, path: str = "", *, recursive: bool = False) -> Iterator[Entry]:
        """Yields what a folder holds, by name; with ``recursive``, each folder and then what is in it."""
        start: pygit2.Object = self.tree_of(commit_oid)
        if path:
            start = start[path]  # pyright: ignore[reportIndexIssue] a Tree
        if isinstance(start, pygit2.Tree):
            yield from self._walk(start, f"{path}/" if path else "", recursive)

    def _walk(self, tree: pygit2.Tree, prefix: str, recursive: bool) -> Iterator[Entry]:
        for item in tree:
            entry = self._entry(prefix + (item.name or ""), item)
            if entry is None:
                continue
            yield entry
            if recursive and isinstance(item, pygit2.Tree):
                yield from self._walk(item, entry.path + "/", True)

    def _entry(self, path: str, item: pygit2.Object) -> Entry | None:
        if isinstance(item, pygit2.Tree):
            return Entry(path, str(item.id), True)
        if not isinstance(item, pygit2.Blob):
            return None  # a submodule
        size = item.size
        if size <= MAX_POINTER_BYTES:
            pointer = parse_pointer(item.data)
            if pointer:
                return Entry(path, str(item.id), False, pointer[1], pointer[0], size)
        return Entry(path, str(item.id), False, size)

    # History

    def iter_commits(self, commit_oid: str) -> Iterator[CommitInfo]:
        """Yields a commit and its ancestors, newest first."""
        order = pygit2.enums.SortMode.TIME | pygit2.enums.SortMode.TOPOLOGICAL
        for commit in self.git.walk(commit_oid, order):
            yield commit_info(commit)

    def last_commits(self, commit_oid: str, paths: list[str]) -> dict[str, CommitInfo]:
        """Returns the newest commit that changed each path; walks back until all are found."""
        wanted = dict.fromkeys(paths)
        found: dict[str, CommitInfo] = {}
        order = pygit2.enums.SortMode.TIME | pygit2.enums.SortMode.TOPOLOGICAL
        for commit in self.git.walk(commit_oid, order):
            before = commit.parents[0].tree if commit.parents else None
            for path in list(wanted):
                if _oid_at(commit.tree, path) != (_oid_at(before, path) if before is not None else None):
                    found[path] = commit_info(commit)
                    del wanted[path]
            if not wanted:
                break
        return found


def _oid_at(tree: pygit2.Tree, path: str) -> pygit2.Oid | None:
    try:
        return tree[path].id
    except KeyError:
        return None


def commit_info(commit: pygit2.Commit) -> CommitInfo:
    """Returns what lists show of a commit."""
    title, _, rest = commit.message.partition("\n")
    date = datetime.fromtimestamp(commit.commit_time, UTC)
    return CommitInfo(str(commit.id), title, rest.strip("\n"), (commit.author.name,), date)


def _head_moved(ref: str, expected: str) -> HeadMoved:
    return HeadMoved(
        "{ref} is no longer at {expected}: somebody else wrote to it meanwhile.",
        hint="Read the newest revision and try again.",
        ref=ref.removeprefix("refs/heads/"),
        expected=expected[:12] or "its start",
    )


def _signature(author: str) -> pygit2.Signature:
    clean = re.sub(r"[<>\x00-\x1f]", "", author).strip() or "fust"
    return pygit2.Signature(clean, f"{clean}@users.noreply.fust", int(time.time()), 0)


class TreeEditor:
    """Changes to a tree, folder by folder; only the folders that change are read and written."""

    def __init__(self, git: pygit2.Repository, tree: pygit2.Tree | None) -> None:
        self._git = git
        self._tree = tree
        self._folders: dict[str, TreeEditor] = {}
        self._changed: dict[str, tuple[str, int] | None] = {}

    def put(self, path: str, oid: str, mode: int = FILE_MODE) -> None:
        """Puts a file.

        Raises:
            BadPath: the path is not allowed, runs through a file, or names a folder.

        """
        folder, name = self._folder_of(check_path(path), path)
        if folder._is_folder(name):
            raise _clash(path, path)
        folder._changed[name] = (oid, mode)

    def remove_file(self, path: str) -> bool:
        """Removes a file; returns False when there is none."""
        return self._remove(path, folder=False)

    def remove_folder(self, path: str) -> bool:
        """Removes a folder and all in it; returns False when there is none."""
        return self._remove(path, folder=True)

    def oid_at(self, path: str) -> tuple[str, int] | None:
        """Returns (oid, mode) of the file at a path, or None."""
        *parents, name = path.split("/")
        here: TreeEditor | None = self
        for part in parents:
            here = here._open(part) if here._is_folder(part) else None
            if here is None:
                return None
        if name in here._changed:
            return here._changed[name]
        item = here._original(name)
        return (str(item.id), item.filemode) if isinstance(item, pygit2.Blob) else None

    def write(self) -> str:
        """Keeps the changed trees and returns the oid of this one."""
        builder = self._git.TreeBuilder(self._tree) if self._tree is not None else self._git.TreeBuilder()
        for name, change in self._changed.items():
            if change is not None:
                builder.insert(name, change[0], change[1])
            elif _holds(builder, name):
                builder.remove(name)
        for name, folder in self._folders.items():
            if folder._is_empty():
                if _holds(builder, name) and name not in self._changed:
                    builder.remove(name)
            else:
                builder.insert(name, folder.write(), TREE_MODE)
        return str(builder.write())

    def _folder_of(self, path: str, whole: str) -> tuple[TreeEditor, str]:
        *parents, name = path.split("/")
        here = self
        seen: list[str] = []
        for part in parents:
            seen.append(part)
            if here._is_file(part):
                raise _clash(whole, "/".join(seen))
            here = here._open(part)
        return here, name

    def _remove(self, path: str, *, folder: bool) -> bool:
        *parents, name = path.split("/")
        here = self
        for part in parents:
            if not here._is_folder(part):
                return False
            here = here._open(part)
        if folder:
            if not here._is_folder(name):
                return False
            here._folders[name] = TreeEditor(here._git, None)
        else:
            if not here._is_file(name):
                return False
            here._changed[name] = None
        return True

    def _original(self, name: str) -> pygit2.Object | None:
        if self._tree is None:
            return None
        try:
            return self._tree[name]
        except KeyError:
            return None

    def _is_file(self, name: str) -> bool:
        if name in self._changed:
            return self._changed[name] is not None
        item = self._original(name)
        return item is not None and not isinstance(item, pygit2.Tree)

    def _is_folder(self, name: str) -> bool:
        if name in self._folders:
            return not self._folders[name]._is_empty()
        return isinstance(self._original(name), pygit2.Tree)

    def _open(self, name: str) -> TreeEditor:
        if name not in self._folders:
            item = self._original(name)
            self._folders[name] = TreeEditor(self._git, item if isinstance(item, pygit2.Tree) else None)
        return self._folders[name]

    def _is_empty(self) -> bool:
        if any(change is not None for change in self._changed.values()):
            return False
        if any(not folder._is_empty() for folder in self._folders.values()):
            return False
        if self._tree is None:
            return True
        gone = {name for name, change in self._changed.items() if change is None} | set(self._folders)
        return all(item.name in gone for item in self._tree)


def _holds(builder: pygit2.TreeBuilder, name: str) -> bool:
    return cast("object", builder.get(name)) is not None  # None for a name that is not there


def _clash(path: str, other: str) -> BadPath:
    return BadPath(
        "{path!r} cannot be written: {other!r} is there as the other of file and folder.",
        hint="Delete that one in the same commit first.",
        path=path,
        other=other,
    )
