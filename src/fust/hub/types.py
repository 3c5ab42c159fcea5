"""What the hub's services take and give: plain frozen values, no rows and no HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from fust.core.ids import RepoType

Sort = Literal["updated", "created", "name", "size", "downloads", "likes", "trending"]


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """A repo as of when it was read."""

    id: str
    type: RepoType
    owner: str
    name: str
    private: bool
    gated: str
    """Empty, `auto` or `manual`."""
    agree_since: datetime | None
    created_at: datetime
    updated_at: datetime
    head_oid: str
    size_bytes: int
    downloads: int
    likes: int
    licence: str
    languages: list[str]
    task: str
    library: str
    tags: list[str]
    formats: list[str]
    smallest_gguf_bytes: int
    largest_gguf_bytes: int
    description: str
    sdk: str
    protected: list[str]
    """Patterns of branches whose history nobody rewrites."""

    @property
    def repo_id(self) -> str:
        """`owner/name`."""
        return f"{self.owner}/{self.name}"

    @property
    def told(self) -> dict[str, object]:
        """What events tell of the repo, so that they are understood when it is gone."""
        return {
            "repo_id": self.repo_id,
            "type": self.type,
            "id": self.id,
            "private": self.private,
            "head_oid": self.head_oid,
        }

    @property
    def gate(self) -> Literal["no", "auto", "manual"]:
        """``gated`` in a word."""
        return "auto" if self.gated == "auto" else "manual" if self.gated else "no"

    @property
    def prefix(self) -> str:
        """Empty, `datasets/` or `spaces/`, as URLs of pages and files begin."""
        return "" if self.type == "model" else f"{self.type}s/"


@dataclass(frozen=True, slots=True)
class RepoPage:
    """Some repos of a list, where the next ones begin, and how many there are in all."""

    items: list[RepoInfo]
    next: str | None
    total: int


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """A ref that goes from one object to another; None: is not there."""

    ref: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class AddFile:
    """Writes a small file."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class AddLargeFile:
    """Points to a large file whose bytes are here already. ``size`` is checked when given."""

    path: str
    sha256: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class CopyFile:
    """Writes what another path of the repo holds."""

    source: str
    path: str
    revision: str = ""
    """Where ``source`` is read; empty: the commit written to."""


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """Removes a file."""

    path: str


@dataclass(frozen=True, slots=True)
class DeleteFolder:
    """Removes a folder and all in it."""

    path: str


Operation = AddFile | AddLargeFile | CopyFile | DeleteFile | DeleteFolder


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file at a commit, with all that a download needs to know."""

    path: str
    commit_oid: str
    oid: str
    size: int
    sha256: str
    """Empty for a file that git itself holds."""
    xet_hash: str
    """Empty unless xorbs of it exist."""

    @property
    def etag(self) -> str:
        """SHA-256 of a large file, git oid of a small one."""
        return self.sha256 or self.oid


@dataclass(frozen=True, slots=True)
class LargeState:
    """How a large file is kept."""

    sha256: str
    size: int
    xet_hash: str
    has_blob: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes taken in as a large file."""

    sha256: str
    size: int
    path: Path = field(default_factory=Path)
