"""Files that are whole or absent: temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from fust.core.errors import StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def full_disk_is_clear(path: Path) -> Generator[None]:
    """Turns an operating system's 'no space left' into ``StorageFull``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                "The disk of {path} is full; nothing was kept of what was being written.",
                hint="Free some room (`fust doctor` shows where it went) and try again.",
                path=path,
            ) from error
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Makes a file stand in a second place: as a link where the file system can, else as a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o644) -> Generator[BinaryIO]:
    """Opens a file that appears under ``path`` only when the block ends well, and is on the disk by then.

    Raises:
        StorageFull: no space left; the temporary file is removed.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name[:80]}.{secrets.token_hex(6)}.tmp"
    with full_disk_is_clear(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    fsync_folder(path.parent)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Writes ``data`` so that ``path`` holds all of it or what it held before."""
    with atomic_file(path, mode=mode) as file:
        file.write(data)


def fsync_folder(folder: Path) -> None:
    """Makes renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
