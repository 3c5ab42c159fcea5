"""Half-fetched files, named by the hash they are to have, so that any later pull continues where one ended."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

KEEP_S = 7 * 86400.0
"""A part that nobody touched for so long is removed."""


def parts_folder(home: Path) -> Path:
    """Returns where a home keeps half-fetched files."""
    return home / "cache" / "pull"


@contextmanager
def claim_part(home: Path, work: Path, name: str) -> Generator[Path]:
    """Gives the path of a part that this process alone writes; the run's own folder when another run has it now."""
    shared = parts_folder(home) / f"{name}.part"
    shared.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(shared)
    if descriptor is None:
        yield work / f"{name}.part"
        return
    try:
        yield shared
    finally:
        os.close(descriptor)


def part_size(home: Path, name: str) -> int:
    """Returns how many bytes of a file are here already; 0 for none."""
    try:
        return (parts_folder(home) / f"{name}.part").stat().st_size
    except FileNotFoundError:
        return 0


def sweep_parts(home: Path) -> None:
    """Removes parts that nobody will continue."""
    for path in parts_folder(home).glob("*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > KEEP_S and (descriptor := _lock(path)) is not None:
                path.unlink(missing_ok=True)
                os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Returns a descriptor that holds the lock of the file that is at ``path``, or None when another holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return descriptor
        os.close(descriptor)  # its last holder removed it while we waited at the door
