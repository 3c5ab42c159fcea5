"""Kept homes, unpacked."""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks an archive of ours; guarded where Python has the guard (3.11.4 and newer, PEP 706)."""
    guard = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive) as packed:
        packed.extractall(folder, **guard)  # type: ignore[arg-type]
