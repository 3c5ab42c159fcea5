"""What a commit changed, or what lies between two: files with their sizes before and after, and the lines of small text files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

import pygit2
from pygit2.enums import DeltaStatus, DiffFind

from fust.hub.git_repo import MAX_POINTER_BYTES, CommitInfo, GitRepo, commit_info, parse_pointer

MAX_FILES = 500
MAX_DIFF_BYTES = 200_000
"""Of a file whose lines are compared."""
MAX_FILE_LINES = 400
MAX_LINES = 2_000
"""In all files of a commit together."""
MAX_WHOLE_LINES = 10_000
"""Of one file that was asked for by its name."""
MAX_LINE = 500
MAX_COMMITS = 250
"""Between two revisions that are compared."""

Change = Literal["added", "changed", "moved", "removed"]
_CHANGES: dict[DeltaStatus, Change] = {
    DeltaStatus.ADDED: "added",
    DeltaStatus.DELETED: "removed",
    DeltaStatus.RENAMED: "moved",
}


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines that belong together. Each begins with a space (same), `-` (removed) or `+` (added)."""

    old_start: int
    new_start: int
    lines: list[str]


@dataclass(frozen=True, slots=True)
class FileChange:
    """What became of a file. ``hunks`` is empty for large, long and binary ones, and once the bound is reached."""

    path: str
    change: Change
    old_path: str
    size_before: int | None
    size_after: int | None
    large: bool
    sha256_before: str = ""
    """Of a large file; empty for others."""
    sha256_after: str = ""
    hunks: list[Hunk] = field(default_factory=lambda: [])
    cut: bool = False
    """Whether lines were left out."""


@dataclass(frozen=True, slots=True)
class CommitChanges:
    """A commit, the one before it, and what lies between."""

    commit: CommitInfo
    parents: list[str]
    files: list[FileChange]
    files_total: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What lies between two commits: the files, and the commits of the newer one that the older has not."""

    start_oid: str
    """The commit that the files are compared with; empty: with nothing, for the two share no history."""
    commits: list[CommitInfo]
    """Newest first, at most ``MAX_COMMITS``."""
    files: list[FileChange]
    files_total: int


def read_changes(repo: GitRepo, oid: str) -> CommitChanges:
    """Returns what a commit changed against its first parent; ``oid`` is a commit that is there."""
    commit = cast("pygit2.Commit", repo.git[oid])
    info = commit_info(commit)
    parents = [str(parent.id) for parent in commit.parents]
    files, total = _changes_between(repo, commit.parents[0].tree if parents else None, commit.tree)
    return CommitChanges(info, parents, files, total)


def compare(repo: GitRepo, base: str, head: str, *, since_parted: bool, path: str = "") -> Comparison:
    """Returns what lies between two commits that are there; with ``path``, that file only, and more of its lines.

    ``since_parted``: from where ``head`` left the history of ``base``, as a pull request is read.
    """
    start = repo.git.merge_base(base, head) if since_parted else pygit2.Oid(hex=base)
    before = repo.tree_of(str(start)) if start else None
    files, total = _changes_between(repo, before, repo.tree_of(head), path=path)
    walker = repo.git.walk(head, pygit2.enums.SortMode.TOPOLOGICAL | pygit2.enums.SortMode.TIME)
    walker.hide(base)
    commits = [commit_info(commit) for commit, _ in zip(walker, range(MAX_COMMITS), strict=False)]
    return Comparison(str(start) if start else "", commits, files, total)


def _changes_between(
    repo: GitRepo, before: pygit2.Tree | None, after: pygit2.Tree, *, path: str = ""
) -> tuple[list[FileChange], int]:
    diff = before.diff_to_tree(after) if before is not None else after.diff_to_tree(swap=True)
    diff.find_similar(DiffFind.FIND_RENAMES | DiffFind.FIND_EXACT_MATCH_ONLY)
    deltas: list[pygit2.DiffDelta] = list(diff.deltas)  # pyright: ignore[reportUnknownMemberType] an untyped iterator
    total = len(deltas)
    if path:
        deltas = [delta for delta in deltas if path in (delta.new_file.path, delta.old_file.path)]
    room, most = (MAX_WHOLE_LINES, MAX_WHOLE_LINES) if path else (MAX_LINES, MAX_FILE_LINES)
    files: list[FileChange] = []
    for delta in deltas[:MAX_FILES]:
        change = _change_of(repo, delta, min(room, most))
        room -= sum(len(hunk.lines) for hunk in change.hunks)
        files.append(change)
    return files, total


def _change_of(repo: GitRepo, delta: pygit2.DiffDelta, room: int) -> FileChange:
    change = _CHANGES.get(delta.status, "changed")
    old = _blob(repo, delta.old_file) if change != "added" else None
    new = _blob(repo, delta.new_file) if change != "removed" else None
    (size_before, sha256_before), (size_after, sha256_after) = _kept(old), _kept(new)
    large = bool(sha256_before or sha256_after)
    hunks: list[Hunk] = []
    cut = False
    if change != "moved" and not large and _is_small_text(old) and _is_small_text(new):
        hunks, cut = _compare(old, new, room) if room > 0 else ([], True)
    return FileChange(
        path=delta.new_file.path or delta.old_file.path,
        change=change,
        old_path=delta.old_file.path if change == "moved" else "",
        size_before=size_before,
        size_after=size_after,
        large=large,
        sha256_before=sha256_before,
        sha256_after=sha256_after,
        hunks=hunks,
        cut=cut,
    )


def _blob(repo: GitRepo, file: pygit2.DiffFile) -> pygit2.Blob | None:
    found = repo.git.get(file.id)
    return found if isinstance(found, pygit2.Blob) else None  # None: a submodule


def _kept(blob: pygit2.Blob | None) -> tuple[int | None, str]:
    """Returns a file's real size, and its SHA-256 when git holds only a pointer to it."""
    if blob is None:
        return None, ""
    pointer = parse_pointer(blob.data) if blob.size <= MAX_POINTER_BYTES else None
    return (pointer[1], pointer[0]) if pointer else (blob.size, "")


def _is_small_text(blob: pygit2.Blob | None) -> bool:
    return blob is None or (blob.size <= MAX_DIFF_BYTES and b"\0" not in blob.data)


def _compare(old: pygit2.Blob | None, new: pygit2.Blob | None, room: int) -> tuple[list[Hunk], bool]:
    # The patch points into these bytes and does not own them: both names must live as long as it does.
    before, after = old.data if old else b"", new.data if new else b""
    patch = pygit2.Patch.create_from(before, after, context_lines=3)
    hunks: list[Hunk] = []
    for hunk in patch.hunks:
        lines: list[str] = []
        for line in hunk.lines:
            if line.origin not in " +-":
                continue  # "no newline at the end"
            if room == 0:
                break
            room -= 1
            text = line.raw_content.decode("utf-8", "replace").rstrip("\r\n")
            lines.append(line.origin + (text if len(text) <= MAX_LINE else text[:MAX_LINE] + "…"))
        if lines:
            hunks.append(Hunk(hunk.old_start, hunk.new_start, lines))
        if room == 0:
            return hunks, True
    return hunks, False
