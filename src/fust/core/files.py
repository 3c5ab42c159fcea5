"""Files that are whole or absent: temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Generator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from fust.core.errors import StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
BLOCK_BYTES = 2**21
"""Of one write into files that engines map: Linux keeps what is written at once as one page, up to this one of the processor's.

Reading mapped weights then goes at 17 GB/s in place of 11 (pieces of 4 KiB) or 12 (64 KiB), measured on ext4 with Linux 6.18.
"""


class BlockWriter:
    """Gathers what is written to a new file into blocks of `BLOCK_BYTES` that begin at their multiples."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._held = bytearray()
        self.written = 0
        """Bytes that the file holds already."""

    def write(self, data: bytes) -> None:
        """Adds bytes."""
        self._held += data
        whole = len(self._held) - len(self._held) % BLOCK_BYTES
        if whole:
            self._put(whole)

    def flush(self) -> None:
        """Writes what is held; to be called once, at the end."""
        self._put(len(self._held))

    def _put(self, size: int) -> None:
        with memoryview(self._held) as held:
            done = 0
            while done < size:
                done += self._file.write(held[done:size])
        del self._held[:size]
        self.written += size


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
