"""Commits: operations become a tree, and the branch moves only from the head that the writer saw."""

from __future__ import annotations

from collections.abc import Sequence

from fust.accounts.rights import Identity
from fust.core.errors import InvalidInput, TooLarge
from fust.core.settings import Settings
from fust.hub.attributes import is_lfs, lfs_line
from fust.hub.content import Content
from fust.hub.errors import BadHash, HeadMoved, entry_not_found, revision_not_found
from fust.hub.git_repo import MAX_POINTER_BYTES, GitRepo, parse_pointer, pointer_bytes
from fust.hub.paths import check_ref_part, is_commit_oid
from fust.hub.ref_writer import RefWriter
from fust.hub.tree_editor import TreeEditor
from fust.hub.types import AddFile, AddLargeFile, CopyFile, DeleteFile, Operation, RefUpdate, RepoInfo

MAX_OPERATIONS = 25_000


class Committer:
    """Writes commits."""

    def __init__(self, content: Content, writer: RefWriter, settings: Settings) -> None:
        self._content = content
        self._writer = writer
        self._limits = settings.hub

    def commit(
        self,
        identity: Identity,
        info: RepoInfo,
        operations: Sequence[Operation],
        message: str,
        *,
        description: str = "",
        branch: str = "main",
        parent: str | None = None,
        action: str = "repo.commit",
    ) -> str:
        """Applies operations in order as one commit and returns its oid; the head when nothing changes.

        Raises:
            HeadMoved: ``parent`` is given and is not the head.
            RevisionNotFound: no such branch.
            BadPath, BadHash, EntryNotFound, TooLarge: an operation cannot be done; none is.

        """
        self._check(identity, info, operations, message)
        ref = branch if branch.startswith("refs/pr/") else f"refs/heads/{check_ref_part(branch, 'branch')}"
        repo = self._content.open_repo(info)
        with repo.lock():
            head, oid, large = self._write(
                identity, info, repo, ref, operations, message, description, parent
            )
            if oid == head:
                return head
            self._writer.apply(
                identity, info, repo, [RefUpdate(ref, head, oid)], large=large, action=action, checked=True
            )
        return oid

    def prepare(
        self,
        identity: Identity,
        info: RepoInfo,
        operations: Sequence[Operation],
        message: str,
        *,
        description: str = "",
        branch: str = "main",
        parent: str | None = None,
    ) -> tuple[str, set[str]]:
        """Writes a commit upon a branch without moving it; returns it and the large files that it points to.

        With ``parent``, upon that commit of the branch's history, which need not be its last.

        Raises:
            As ``commit``.

        """
        self._check(identity, info, operations, message)
        ref = f"refs/heads/{check_ref_part(branch, 'branch')}"
        repo = self._content.open_repo(info)
        with repo.lock():
            _, oid, large = self._write(
                identity, info, repo, ref, operations, message, description, parent, upon_parent=True
            )
        return oid, large

    def _write(
        self,
        identity: Identity,
        info: RepoInfo,
        repo: GitRepo,
        ref: str,
        operations: Sequence[Operation],
        message: str,
        description: str,
        parent: str | None,
        *,
        upon_parent: bool = False,
    ) -> tuple[str, str, set[str]]:
        """Returns (head, new commit, large files pointed to); the head twice when nothing changes."""
        head = repo.find_ref(ref)
        branch = ref.removeprefix("refs/heads/")
        if head is None:
            raise revision_not_found(info.repo_id, branch)
        if parent and upon_parent and is_commit_oid(parent) and repo.descends(head, parent):
            head = parent
        elif parent and parent != head:
            raise HeadMoved(
                "{ref} is no longer at {expected}: somebody else wrote to it meanwhile.",
                hint="Read the newest revision and try again.",
                ref=branch,
                expected=parent[:12],
            )
        tree = repo.tree_of(head)
        editor = TreeEditor(repo.git, tree)
        large = self._apply(repo, editor, operations, head)
        new_tree = editor.write()
        if new_tree == str(tree.id):
            return head, head, large
        text = message if not description else f"{message}\n\n{description}"
        return head, repo.write_commit(new_tree, [head], text, identity.user or "fust"), large

    def _check(
        self, identity: Identity, info: RepoInfo, operations: Sequence[Operation], message: str
    ) -> None:
        if not operations:
            raise InvalidInput("A commit needs an operation.", hint="Add, delete or copy a file.")
        if len(operations) > MAX_OPERATIONS:
            raise TooLarge(
                "A commit may hold {limit} operations; this one has {count}.",
                hint="Split it.",
                limit=MAX_OPERATIONS,
                count=len(operations),
            )
        if not message.strip() or len(message) > 10_000:
            raise InvalidInput("A commit needs a message of 1 to 10000 characters.", hint="Say what changed.")
        large = [op for op in operations if isinstance(op, AddLargeFile)]
        allowed = self._content.may_point(identity, info, [op.sha256 for op in large])
        states = self._content.large_states([op.sha256 for op in large])
        for op in large:
            state = states.get(op.sha256)
            if state is None or op.sha256 not in allowed:
                raise BadHash(
                    "The bytes of {path} (SHA-256 {sha256}) were not uploaded to {owner}.",
                    hint="Upload the file first, then commit.",
                    path=op.path[:200],
                    sha256=op.sha256,
                    owner=info.owner,
                )
            if op.size is not None and op.size != state.size:
                raise BadHash(
                    "{path} is said to have {said} bytes; its bytes are {size}.",
                    path=op.path[:200],
                    said=op.size,
                    size=state.size,
                )
        for op in operations:
            if isinstance(op, AddFile) and len(op.data) > self._limits.max_regular_file_bytes:
                raise TooLarge(
                    "{path} has {size} bytes; a file in git may have {limit}.",
                    hint="Upload it as a large file (the client does so when it asks first).",
                    path=op.path[:200],
                    size=len(op.data),
                    limit=self._limits.max_regular_file_bytes,
                )

    def _apply(
        self, repo: GitRepo, editor: TreeEditor, operations: Sequence[Operation], head: str
    ) -> set[str]:
        """Applies operations to the editor; returns the SHA-256 of every large file pointed to."""
        large: set[str] = set()
        large_paths: list[str] = []
        states = self._content.large_states([op.sha256 for op in operations if isinstance(op, AddLargeFile)])
        for op in operations:
            if isinstance(op, AddFile):
                editor.put(op.path, repo.write_blob(op.data))
            elif isinstance(op, AddLargeFile):
                editor.put(op.path, repo.write_blob(pointer_bytes(op.sha256, states[op.sha256].size)))
                large.add(op.sha256)
                large_paths.append(op.path)
            elif isinstance(op, CopyFile):
                self._copy(repo, editor, op, head)
            elif isinstance(op, DeleteFile):
                if not editor.remove_file(op.path):
                    raise entry_not_found(op.path, head, head)
            elif not editor.remove_folder(op.path.rstrip("/")):
                raise entry_not_found(op.path, head, head)
        if large_paths:
            self._complete_attributes(repo, editor, large_paths)
        return large

    def _copy(self, repo: GitRepo, editor: TreeEditor, op: CopyFile, head: str) -> None:
        if op.revision:
            commit = repo.find_revision(op.revision)
            entry = repo.find_entry(commit, op.source) if commit else None
            found = (entry.oid, 0o100644) if entry and not entry.is_folder else None
        else:
            found = editor.oid_at(op.source)
        if found is None:
            raise entry_not_found(op.source, op.revision or head, head)
        editor.put(op.path, found[0], found[1])

    def _complete_attributes(self, repo: GitRepo, editor: TreeEditor, paths: list[str]) -> None:
        """Names in `.gitattributes` what its patterns do not cover, so that a clone's git-lfs finds the files."""
        here = editor.oid_at(".gitattributes")
        data = repo.read_blob(here[0]) if here else b""
        text = data.decode("utf-8", "replace")
        missing = "".join(lfs_line(path) for path in dict.fromkeys(paths) if not is_lfs(text, path))
        if missing:
            separator = "" if not text or text.endswith("\n") else "\n"
            editor.put(".gitattributes", repo.write_blob((text + separator + missing).encode()))


def pointed_to(data: bytes) -> str | None:
    """Returns the SHA-256 that bytes point to when they are a git-lfs pointer."""
    pointer = parse_pointer(data) if len(data) <= MAX_POINTER_BYTES else None
    return pointer[0] if pointer else None
