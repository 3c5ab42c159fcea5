"""What another program keeps on this machine, as far as it can become a repo."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Reason = Literal["outside", "broken", "no_gguf"]
"""It leads out of the store, is not complete, or is no GGUF file."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to take over."""

    path: str
    """Path in the repo."""
    source: Path | bytes
    size: int
    digest: str
    """What its bytes must hash to: SHA-256 (64 digits) or git's SHA-1 (40); empty when the store does not say."""

    def is_right(self) -> bool:
        """Returns whether the bytes are what the store says, all of them read."""
        if len(self.digest) == 64:
            found = hashlib.sha256()
        elif len(self.digest) == 40:
            found = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        else:
            return True
        if isinstance(self.source, bytes):
            found.update(self.source)
        else:
            with open(self.source, "rb", buffering=0) as file:
                while piece := file.read(2**20):
                    found.update(piece)
        return found.hexdigest() == self.digest


@dataclass(slots=True)
class LocalRevision:
    """One revision of a repo, with all of its files."""

    repo_id: str
    """`owner/name`, or a name alone."""
    type: Literal["model", "dataset", "space"]
    branch: str
    """Branch to keep it on here."""
    origin: str
    """Where it comes from, for the commit's message."""
    files: list[LocalFile] = field(default_factory=lambda: [])
    skipped: list[tuple[str, Reason]] = field(default_factory=lambda: [])
    """(path, reason) of what cannot be taken."""

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)


def regular_file_within(path: Path, store: Path) -> Path | None:
    """Returns the real path of a file when it lies in the store, links followed; None when it leads out of it.

    Raises:
        FileNotFoundError: nothing is there, or it is no plain file.

    """
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(store):
        return None
    if not stat.S_ISREG(os.stat(real, follow_symlinks=False).st_mode):
        raise FileNotFoundError(path)
    return real
