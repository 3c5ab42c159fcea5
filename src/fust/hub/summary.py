"""What lists show of a repo's files: size, formats, GGUFs. Sums that follow each commit by its difference alone.

A commit into a repo of many files must not walk them all: the row keeps the sums of the tree that it was read from,
and the files that a commit took out and put in are subtracted and added.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from fust.hub.cards import MAX_CARD_BYTES, Card, parse_card
from fust.hub.git_repo import Entry, GitRepo

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


class Sums(msgspec.Struct):
    """Sums over the files of one tree, as the row keeps them."""

    tree: str
    """Oid of the tree that was summed."""
    files: int = 0
    size_bytes: int = 0
    kinds: dict[str, int] = {}
    """Number of files of each format."""
    ggufs: dict[str, list[int]] = {}
    """[bytes, files] of each GGUF; the parts of a split one are one."""

    @property
    def formats(self) -> list[str]:
        """Formats to show; those of data only when there are no weights."""
        found = set(self.kinds)
        return sorted(found - _DATA_FORMATS or found)

    @property
    def gguf_sizes(self) -> list[int]:
        """Bytes of each GGUF."""
        return [size for size, _ in self.ggufs.values()]

    def count(self, entry: Entry, sign: int) -> None:
        """Adds (1) or takes out (-1) a file."""
        self.files += sign
        self.size_bytes += sign * entry.size
        kind = _FORMATS.get(entry.path[entry.path.rfind(".") :].lower()) if "." in entry.path else None
        if kind is None:
            return
        self.kinds[kind] = self.kinds.get(kind, 0) + sign
        if self.kinds[kind] <= 0:
            del self.kinds[kind]
        if kind == "gguf" and "mmproj" not in entry.path.lower():
            match = _SPLIT_GGUF.match(entry.path)
            key = match[1] if match else entry.path
            size, count = self.ggufs.get(key, [0, 0])
            self.ggufs[key] = [size + sign * entry.size, count + sign]
            if count + sign <= 0:
                del self.ggufs[key]


def sum_tree(repo: GitRepo, commit_oid: str, kept: dict[str, Any] | None) -> Sums:
    """Returns the sums of a commit's tree, from those that are kept of another one when there are any."""
    tree = str(repo.tree_of(commit_oid).id)
    if kept is not None:
        sums = msgspec.convert(kept, Sums)
        if sums.tree == tree:
            return sums
        if repo.has_tree(sums.tree):
            for old, new in repo.iter_changes(sums.tree, tree):
                if old is not None:
                    sums.count(old, -1)
                if new is not None:
                    sums.count(new, 1)
            sums.tree = tree
            return sums
    sums = Sums(tree)
    for entry in repo.iter_tree(commit_oid, recursive=True):
        if not entry.is_folder:
            sums.count(entry, 1)
    return sums


def read_card(repo: GitRepo, oid: str) -> Card:
    """Returns what README.md at a commit says; an empty card when there is none."""
    return parse_card(card_text(repo, oid) or "")


def card_text(repo: GitRepo, oid: str) -> str | None:
    """Returns README.md at a commit, or None; a very long one is cut."""
    entry: Entry | None = repo.find_entry(oid, "README.md")
    if entry is None or entry.is_folder or entry.sha256:
        return None
    return repo.read_blob(entry.oid)[:MAX_CARD_BYTES].decode("utf-8", "replace")
