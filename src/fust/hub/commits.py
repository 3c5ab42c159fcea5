"""Commits: operations become a tree, the ref moves only from the head that the writer saw, the row follows.

Order, so that `kill -9` at any moment leaves every acknowledged commit and no half one: objects (fsynced); the rows
that let readers of the repo read its large files, with the mark ``pending``; the ref; then what lists show, the
event, and the mark's end. A row still marked at the next start is read again from its ref (``Hub.recover``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fust.accounts.service import SYSTEM, Accounts, Identity
from fust.core.clock import utc_naive
from fust.core.errors import InvalidInput, TooLarge
from fust.core.settings import Settings
from fust.hub.attributes import is_lfs, lfs_line
from fust.hub.cards import MAX_CARD_BYTES, Card, parse_card
from fust.hub.content import Content
from fust.hub.errors import BadHash, HeadMoved, entry_not_found, revision_not_found
from fust.hub.git_repo import MAX_POINTER_BYTES, Entry, GitRepo, parse_pointer, pointer_bytes
from fust.hub.models import Repo, RepoFile
from fust.hub.paths import check_ref_part
from fust.hub.repos import Repos
from fust.hub.tree_editor import TreeEditor
from fust.hub.types import AddFile, AddLargeFile, CopyFile, DeleteFile, Operation, RepoInfo
from fust.store.database import Database
from fust.store.outbox import emit

MAX_OPERATIONS = 25_000
_SPLIT_GGUF = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_FORMATS = {
    ".gguf": "gguf",
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".bin": "pytorch",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".h5": "keras",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".arrow": "arrow",
    ".txt": "text",
}
_DATA_FORMATS = frozenset({"parquet", "csv", "json", "arrow", "text"})


@dataclass(frozen=True, slots=True)
class _Summary:
    size_bytes: int
    formats: list[str]
    ggufs: list[int]
    """Sizes of whole GGUFs; the parts of a split one are added up."""


class Committer:
    """Writes commits."""

    def __init__(
        self, database: Database, repos: Repos, content: Content, settings: Settings, accounts: Accounts
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._repos = repos
        self._content = content
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
        self._check(info, operations, message)
        ref = branch if branch.startswith("refs/pr/") else f"refs/heads/{check_ref_part(branch, 'branch')}"
        repo = self._content.open_repo(info)
        with repo.lock():
            head = repo.find_ref(ref)
            if head is None:
                raise revision_not_found(info.repo_id, branch)
            if parent and parent != head:
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
                return head
            text = message if not description else f"{message}\n\n{description}"
            oid = repo.write_commit(new_tree, [head], text, identity.user or "fust")
            self._before(info, large)
            repo.move_ref(ref, head, oid)
            self._after(info, repo, ref, oid, identity, action)
        return oid

    def _check(self, info: RepoInfo, operations: Sequence[Operation], message: str) -> None:
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
        allowed = self._content.may_point(info, [op.sha256 for op in large])
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

    # Rows

    def _before(self, info: RepoInfo, large: set[str]) -> None:
        with self._database.write() as session:
            self._repos.locked_row(session, info).pending = True
            for sha256 in large:
                if session.get(RepoFile, (info.id, sha256)) is None:
                    session.add(RepoFile(repo_id=info.id, sha256=sha256))

    def _after(
        self, info: RepoInfo, repo: GitRepo, ref: str, oid: str, identity: Identity, action: str
    ) -> None:
        with self._database.write() as session:
            row = self._repos.locked_row(session, info)
            row.pending = False
            row.updated_at = utc_naive()
            if ref == "refs/heads/main":
                self._refresh(row, repo, oid)
            self._accounts.audit(session, identity, action, f"{info.type}:{info.repo_id}", oid)
            emit(
                session,
                "revision_created",
                repo_id=info.repo_id,
                type=info.type,
                revision=ref.removeprefix("refs/heads/"),
                oid=oid,
            )
        self._repos.forget()

    def recover(self, info: RepoInfo) -> None:
        """Reads a repo's row again from its ref, after a server died between the two."""
        repo = self._content.open_repo(info)
        with repo.lock():
            repo.clean()
            oid = repo.find_ref("refs/heads/main")
            if oid:
                self._after(info, repo, "refs/heads/main", oid, SYSTEM, "repo.recover")

    def _refresh(self, row: Repo, repo: GitRepo, oid: str) -> None:
        """Reads from `main` what lists show."""
        summary = _summarise(repo, oid)
        card = read_card(repo, oid)
        row.head_oid = oid
        row.size_bytes = summary.size_bytes
        row.formats = summary.formats
        row.smallest_gguf_bytes = min(summary.ggufs, default=0)
        row.largest_gguf_bytes = max(summary.ggufs, default=0)
        row.licence = card.licence
        row.languages = card.languages
        row.task = card.task
        row.library = card.library
        row.tags = card.tags
        row.description = card.description


def _summarise(repo: GitRepo, oid: str) -> _Summary:
    size = 0
    formats: set[str] = set()
    ggufs: dict[str, int] = {}
    for entry in repo.iter_tree(oid, recursive=True):
        if entry.is_folder:
            continue
        size += entry.size
        kind = _FORMATS.get(entry.path[entry.path.rfind(".") :].lower()) if "." in entry.path else None
        if kind:
            formats.add(kind)
        if kind == "gguf" and "mmproj" not in entry.path.lower():
            match = _SPLIT_GGUF.match(entry.path)
            key = match[1] if match else entry.path
            ggufs[key] = ggufs.get(key, 0) + entry.size
    if formats - _DATA_FORMATS:
        formats -= _DATA_FORMATS
    return _Summary(size, sorted(formats), list(ggufs.values()))


def read_card(repo: GitRepo, oid: str) -> Card:
    """Returns what README.md at a commit says; an empty card when there is none."""
    return parse_card(card_text(repo, oid) or "")


def card_text(repo: GitRepo, oid: str) -> str | None:
    """Returns README.md at a commit, or None; a very long one is cut."""
    entry: Entry | None = repo.find_entry(oid, "README.md")
    if entry is None or entry.is_folder or entry.sha256:
        return None
    return repo.read_blob(entry.oid)[:MAX_CARD_BYTES].decode("utf-8", "replace")


def pointed_to(data: bytes) -> str | None:
    """Returns the SHA-256 that bytes point to when they are a git-lfs pointer."""
    pointer = parse_pointer(data) if len(data) <= MAX_POINTER_BYTES else None
    return pointer[0] if pointer else None
