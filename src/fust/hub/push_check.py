"""Looks at the objects that a push brings, before the repo has them: what the API would refuse is refused here too.

Everything is linear in the number of new objects, however often a tree names them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pygit2

from fust.accounts.rights import Identity
from fust.core.errors import FustError, TooLarge
from fust.core.settings import HubSettings
from fust.formats.secrets import MAX_BYTES as SECRET_BYTES
from fust.formats.secrets import Secret, find_secrets
from fust.hub.content import Content
from fust.hub.errors import BadHash, BadPath, BadPush
from fust.hub.git_repo import MAX_POINTER_BYTES, GitRepo, parse_pointer
from fust.hub.paths import MAX_PATH_BYTES, check_path
from fust.hub.types import RepoInfo

MAX_FILES = 1_000_000
MAX_DEPTH = 200
_MAX_TOLD = 10
_MAX_SECRETS = 200
MAX_SECRET_BYTES = 64 * 2**20
"""Bytes of a push's files that are looked through for secrets."""
_SUBMODULE = 0o160000


@dataclass(slots=True)
class Found:
    """What a push brings."""

    pointers: dict[str, tuple[str, int]] = field(default_factory=lambda: {})
    """SHA-256 of each large file pointed to -> (a path of it, its size in bytes)."""
    too_large: list[tuple[str, int]] = field(default_factory=lambda: [])
    """(path, bytes) of files that git itself should not hold."""


class PushCheck:
    """Checks new objects of one repo. ``environ`` lets git see both the repo and the quarantine."""

    def __init__(
        self,
        identity: Identity,
        info: RepoInfo,
        repo: GitRepo,
        environ: dict[str, str],
        content: Content,
        limits: HubSettings,
    ) -> None:
        self._identity = identity
        self._info = info
        self._repo = repo
        self._environ = environ
        self._content = content
        self._limits = limits
        self._names: set[str] = set()
        self._sizes: dict[str, tuple[int, int]] = {}
        self._to_look_at = MAX_SECRET_BYTES
        self.secrets: list[Secret] = []
        """What the new files hold that looks like a secret; known after ``check``."""

    def check(self, tips: Sequence[str]) -> set[str]:
        """Returns the SHA-256 of the large files that the new commits point to.

        Raises:
            BadPush: objects are missing, or it holds what a hub repo cannot.
            BadPath: a name is not allowed.
            TooLarge: a file should be a large file, or there are too many files.
            BadHash: a pointer names bytes that were not uploaded.

        """
        found = Found()
        for oid, kind, size, path in self._new_objects(tips):
            if kind == "tree":
                self._check_tree(oid, path)
            elif kind == "blob":
                self._look_at_blob(oid, size, path, found)
        if found.too_large:
            raise self._large_refused(found.too_large)
        for tip in tips:
            self._measure(str(self._repo.tree_of(self._commit_of(tip)).id), 0)
        self._check_pointers(found.pointers)
        return set(found.pointers)

    def _commit_of(self, oid: str) -> str:
        try:
            return str(self._repo.git[oid].peel(pygit2.Commit).id)
        except (KeyError, ValueError, pygit2.GitError):
            raise BadPush(
                "{oid} is not a commit.", hint="Push branches and tags of commits.", oid=oid
            ) from None

    def _new_objects(self, tips: Sequence[str]) -> Iterator[tuple[str, str, int, str]]:
        """Yields (oid, kind, size in bytes, a path) of every object that no ref reaches yet."""
        git = ["git", "-c", "safe.directory=*"]
        listing = subprocess.Popen(
            [*git, "rev-list", "--objects", *tips, "--not", "--all"],
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        looking = subprocess.Popen(
            [*git, "cat-file", "--buffer", "--batch-check=%(objectname) %(objecttype) %(objectsize) %(rest)"],
            env=self._environ,
            stdin=listing.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert listing.stdout is not None and looking.stdout is not None
        listing.stdout.close()
        try:
            for line in looking.stdout:
                oid, _, rest = line.rstrip(b"\n").partition(b" ")
                kind, _, rest = rest.partition(b" ")
                size, _, path = rest.partition(b" ")
                if not size.isdigit():
                    raise _incomplete(oid.decode("ascii", "replace"))
                yield oid.decode(), kind.decode(), int(size), path.decode("utf-8", "backslashreplace")
            if listing.wait() or looking.wait():
                raise _incomplete("")
        finally:
            for process in (listing, looking):
                process.kill()
                process.wait()
            looking.stdout.close()

    def _check_tree(self, oid: str, path: str) -> None:
        tree = self._repo.git[oid]
        assert isinstance(tree, pygit2.Tree)
        for item in tree:
            raw = item.raw_name or b""
            try:
                name = raw.decode()
            except UnicodeDecodeError:
                name = raw.decode("utf-8", "surrogateescape")
            if item.filemode == _SUBMODULE:
                raise BadPush(
                    "{path} is a submodule; a repo here holds its files itself.",
                    hint="Remove the submodule, or add its files.",
                    path=f"{path}/{name}".lstrip("/")[:300],
                )
            if name not in self._names:
                check_path(name)
                self._names.add(name)

    def _look_at_blob(self, oid: str, size: int, path: str, found: Found) -> None:
        if size > self._limits.max_regular_file_bytes:
            found.too_large.append((path, size))
            return
        if size > MAX_POINTER_BYTES and size > min(SECRET_BYTES, self._to_look_at):
            return
        self._to_look_at -= size
        data = self._repo.read_blob(oid)
        pointer = parse_pointer(data) if size <= MAX_POINTER_BYTES else None
        if pointer:
            found.pointers[pointer[0]] = (path, pointer[1])
        elif len(self.secrets) < _MAX_SECRETS:
            self.secrets += find_secrets(path, data)

    def _large_refused(self, files: list[tuple[str, int]]) -> FustError:
        shown = ", ".join(f"{path} ({size} bytes)" for path, size in files[:_MAX_TOLD])
        if len(files) > _MAX_TOLD:
            shown += ", …"
        names = ",".join(path for path, _ in files[:_MAX_TOLD])
        return TooLarge(
            "Files over {limit} bytes must be large files (git-lfs): {files}.",
            hint='Run: git lfs migrate import --include="{names}" --everything, then push again.',
            limit=self._limits.max_regular_file_bytes,
            files=shown[:2000],
            names=names[:1000],
        )

    def _measure(self, oid: str, depth: int) -> tuple[int, int]:
        """Returns (files, bytes of the longest path) of a tree; each tree is read once however often it is named."""
        if oid in self._sizes:
            return self._sizes[oid]
        if depth > MAX_DEPTH:
            raise BadPath("Folders are nested deeper than {limit}.", hint="Use fewer.", limit=MAX_DEPTH)
        files = longest = 0
        tree = self._repo.git[oid]
        assert isinstance(tree, pygit2.Tree)
        for item in tree:
            here = len(item.raw_name or b"")
            if isinstance(item, pygit2.Tree):
                count, below = self._measure(str(item.id), depth + 1)
                files += count
                here += 1 + below
            else:
                files += 1
            longest = max(longest, here)
        if longest > MAX_PATH_BYTES:
            raise BadPath(
                "A path is longer than {limit} bytes.", hint="Use shorter names.", limit=MAX_PATH_BYTES
            )
        if files > MAX_FILES:
            raise TooLarge(
                "A revision may hold {limit} files.", hint="Pack them into archives.", limit=MAX_FILES
            )
        self._sizes[oid] = files, longest
        return files, longest

    def _check_pointers(self, pointers: dict[str, tuple[str, int]]) -> None:
        allowed = self._content.may_point(self._identity, self._info, list(pointers))
        states = self._content.large_states(list(pointers))
        for sha256, (path, size) in pointers.items():
            state = states.get(sha256)
            if sha256 not in allowed or state is None:
                raise BadHash(
                    "The bytes of {path} (SHA-256 {sha256}) were not uploaded to {owner}.",
                    hint="Run: git lfs push --all origin, then push again.",
                    path=path[:200],
                    sha256=sha256,
                    owner=self._info.owner,
                )
            if state.size != size:
                raise BadHash(
                    "{path} is said to have {said} bytes; its bytes are {size}.",
                    path=path[:200],
                    said=size,
                    size=state.size,
                )


def _incomplete(oid: str) -> BadPush:
    return BadPush(
        "The push is not complete: object {oid} is missing.",
        hint="Run `git fsck` in your clone; in a shallow one, `git fetch --unshallow`.",
        oid=oid[:40] or "?",
    )
