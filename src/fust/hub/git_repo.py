"""One bare git repository: its trees, commits and refs, written so that an acknowledged commit is on the disk.

Writers hold the repo's file lock and move a ref only from the commit that they saw (compare and swap). libgit2 fsyncs
objects, refs and their folders: asked of the library, for git itself warns its users of a repository that says so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pygit2

from fust.core.errors import Conflict, NotFound
from fust.core.locks import FileLock
from fust.hub.errors import HeadMoved, entry_not_found
from fust.hub.paths import is_commit_oid

pygit2.settings.enable_fsync_gitdir(
    True
)  # of the whole process; no other way is offered (GIT_OPT_ENABLE_FSYNC_GITDIR)
_POINTER = re.compile(
    rb"\Aversion https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d{1,15})\n\Z"
)
MAX_POINTER_BYTES = 200
MAX_DIFF_BYTES = 2_000_000


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
            full = oid if is_commit_oid(oid) else self.git.expand_id(oid)
            return self.git[full].type == pygit2.enums.ObjectType.COMMIT
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

    def raw_ref(self, ref: str) -> str | None:
        """Returns the object that a full ref name points to (a tag object for an annotated tag), or None."""
        try:
            return str(self.git.references[ref].resolve().target)
        except (KeyError, ValueError, pygit2.GitError):
            return None

    def swap_ref(self, ref: str, old: str | None, new: str | None) -> None:
        """Points a ref from one object to another, makes it (old None) or removes it (new None).

        Call with the writer's lock held.

        Raises:
            HeadMoved: it is not where the caller saw it.
            Conflict: its name and another's exclude each other (`a` and `a/b`).

        """
        (self.path / f"{ref}.lock").unlink(
            missing_ok=True
        )  # whoever left it is gone: we hold the writer's lock
        if self.raw_ref(ref) != old:
            raise head_moved(ref, old or "")
        try:
            if new is None:
                self.git.references.delete(ref)
            elif old is None:
                self.git.create_reference_direct(ref, new, False)
            else:
                self.git.references[ref].set_target(new)
        except (KeyError, ValueError, pygit2.GitError) as error:
            raise Conflict(
                "{ref} cannot be written: {error}.", hint="Choose another name.", ref=ref, error=error
            ) from error

    # Objects

    def add_objects(self, folder: Path) -> None:
        """Lets this opened repository see the objects of another folder too."""
        self.git.odb.add_disk_alternate(str(folder))

    def write_blob(self, data: bytes) -> str:
        """Keeps bytes and returns their oid."""
        return str(self.git.create_blob(data))

    def write_empty_tree(self) -> str:
        """Keeps a tree without files and returns its oid."""
        return str(self.git.TreeBuilder().write())

    def write_commit(self, tree: str, parents: list[str], message: str, author: str) -> str:
        """Keeps a commit that no ref points to yet, and returns its oid."""
        signature = _signature(author)
        return str(self.git.create_commit(None, signature, signature, message, tree, list(parents)))

    def write_tag(self, name: str, oid: str, message: str, tagger: str) -> str:
        """Keeps a tag object that no ref points to yet, and returns its oid."""
        signature = _signature(tagger)
        head = f"object {oid}\ntype commit\ntag {name}\ntagger {signature.name} <{signature.email}> {signature.time} +0000\n\n"
        text = message if message.endswith("\n") else message + "\n"
        return str(self.git.write(pygit2.enums.ObjectType.TAG, (head + text).encode()))

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

    def has_tree(self, oid: str) -> bool:
        """Returns whether there is a tree of that oid."""
        found = self.git.get(oid)
        return isinstance(found, pygit2.Tree)

    def iter_changes(self, old_tree: str, new_tree: str) -> Iterator[tuple[Entry | None, Entry | None]]:
        """Yields (before, after) of every file that differs between two trees; None where it is not there."""
        old, new = self.git[old_tree], self.git[new_tree]
        assert isinstance(old, pygit2.Tree) and isinstance(new, pygit2.Tree)
        for delta in old.diff_to_tree(new, context_lines=0, interhunk_lines=0).deltas:
            yield self._side(delta.old_file), self._side(delta.new_file)

    def diff_text(self, old: str, new: str, *, since_parted: bool = False) -> str:
        """Returns what lies between two commits as git's text, cut at ``MAX_DIFF_BYTES``.

        With ``since_parted``, from where ``new`` left the history of ``old``.
        """
        start = self.git.merge_base(old, new) if since_parted else old
        before = self.tree_of(str(start)) if start else self.git[self.write_empty_tree()]
        assert isinstance(before, pygit2.Tree)
        text = ""
        for patch in before.diff_to_tree(self.tree_of(new)):
            text += (patch.text or "") if patch is not None else ""
            if len(text) > MAX_DIFF_BYTES:
                return text[:MAX_DIFF_BYTES]
        return text

    def _side(self, file: pygit2.DiffFile) -> Entry | None:
        if not file.flags & pygit2.enums.DiffFlag.EXISTS:
            return None
        item = self.git.get(file.id)
        return None if item is None else self._entry(file.path, item)

    # History

    def descends(self, oid: str, ancestor: str) -> bool:
        """Returns whether a commit is another one or has it among its ancestors; tags stand for what they name."""
        try:
            new, old = self.git[oid].peel(pygit2.Commit).id, self.git[ancestor].peel(pygit2.Commit).id
        except (KeyError, ValueError, pygit2.GitError):
            return False
        return new == old or self.git.descendant_of(new, old)

    def iter_commits(self, commit_oid: str, path: str = "") -> Iterator[CommitInfo]:
        """Yields a commit and its ancestors, newest first; with ``path``, those that changed that file or folder."""
        order = pygit2.enums.SortMode.TIME | pygit2.enums.SortMode.TOPOLOGICAL
        for commit in self.git.walk(commit_oid, order):
            if not path or _changed(commit, path):
                yield commit_info(commit)

    def last_commits(self, commit_oid: str, paths: list[str]) -> dict[str, CommitInfo]:
        """Returns the newest commit that changed each path; walks back until all are found."""
        wanted = dict.fromkeys(paths)
        found: dict[str, CommitInfo] = {}
        order = pygit2.enums.SortMode.TIME | pygit2.enums.SortMode.TOPOLOGICAL
        for commit in self.git.walk(commit_oid, order):
            for path in list(wanted):
                if _changed(commit, path):
                    found[path] = commit_info(commit)
                    del wanted[path]
            if not wanted:
                break
        return found


def _changed(commit: pygit2.Commit, path: str) -> bool:
    """Returns whether a commit changed a path against its first parent."""
    before = commit.parents[0].tree if commit.parents else None
    return _oid_at(commit.tree, path) != (_oid_at(before, path) if before is not None else None)


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


def head_moved(ref: str, expected: str) -> HeadMoved:
    """Returns the error for a ref that somebody else moved."""
    return HeadMoved(
        "{ref} is no longer at {expected}: somebody else wrote to it meanwhile.",
        hint="Read the newest revision and try again.",
        ref=ref.removeprefix("refs/heads/"),
        expected=expected[:12] or "its start",
    )


def _signature(author: str) -> pygit2.Signature:
    clean = re.sub(r"[<>\x00-\x1f]", "", author).strip() or "fust"
    return pygit2.Signature(clean, f"{clean}@users.noreply.fust", int(time.time()), 0)
