"""Whole files rebuilt from xorbs, for engines that map a file and for plain downloads; bounded, the oldest go."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Self

from fust.core.files import BlockWriter, full_disk_is_clear
from fust.core.locks import FileLock

SPARE_BYTES = 10**9
"""Room on the disk that files kept only for speed leave to others."""


class WholeFiles:
    """A folder of files named by SHA-256. What is mapped or open when it is evicted stays readable to its holder."""

    def __init__(self, root: Path, room_bytes: int) -> None:
        self.root = root
        self.room_bytes = room_bytes
        self._lock = threading.Lock()
        self._begin_lock = threading.Lock()
        self._begun: dict[str, CacheWriter] = {}
        root.mkdir(parents=True, exist_ok=True)

    def find(self, sha256: str) -> Path | None:
        """Returns the file when it is here, and notes its use."""
        path = self.root / sha256
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def build(self, sha256: str, size: int, pieces: Iterator[bytes]) -> Path:
        """Writes a file from pieces unless it is here; waits when another thread or process is writing it.

        Raises:
            StorageFull: no room on the disk; nothing is left of it.

        """
        with self.writing(sha256):
            found = self.find(sha256)
            if found:
                return found
            writer = self.begin(sha256, size)
            try:
                for piece in pieces:
                    writer.write(piece)
                return writer.finish()
            except BaseException:
                writer.abandon()
                raise

    @contextlib.contextmanager
    def writing(self, sha256: str) -> Generator[None]:
        """Holds the right to write one file, across processes."""
        lock = FileLock(self.root / f".{sha256[:2]}.lock")
        lock.acquire(wait=True)
        try:
            yield
        finally:
            lock.release()

    def has_room(self, size: int) -> bool:
        """Returns whether keeping a file of ``size`` bytes is wise: within the bound, and the disk stays usable."""
        return size <= self.room_bytes and shutil.disk_usage(self.root).free > size + SPARE_BYTES

    def adopt(self, sha256: str, path: Path, size: int) -> bool:
        """Takes a whole file in by renaming it; returns False when there is no room for it or it lies elsewhere."""
        if size > self.room_bytes:
            return False
        self.evict(self.room_bytes - size, keep=sha256)
        try:
            os.replace(path, self.root / sha256)
        except OSError:
            return False  # another file system
        return True

    def begin(self, sha256: str, size: int) -> CacheWriter:
        """Makes room and returns a writer for a file of ``size`` bytes."""
        self.evict(self.room_bytes - size, keep=sha256)
        return CacheWriter(self.root, sha256, size)

    def begin_or_follow(self, sha256: str, size: int) -> CacheWriter | Follower:
        """Returns a writer, or what reads behind the one that this process has begun already.

        So many who ask for a file at once have it rebuilt once.
        """
        with self._begin_lock:
            begun = self._begun.get(sha256)
            if begun is not None and begun.is_open:
                return Follower(begun)
            self._begun = {name: one for name, one in self._begun.items() if one.is_open}
            writer = self._begun[sha256] = self.begin(sha256, size)
        return writer

    def evict(self, room_bytes: int, keep: str = "") -> None:
        """Removes the files used longest ago until the rest fits; one that alone is too large may stay alone."""
        with self._lock:
            files = [(p, p.stat()) for p in self.root.iterdir() if not p.name.startswith(".")]
            total = sum(stat.st_size for _, stat in files)
            for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
                if total <= max(0, room_bytes):
                    break
                if path.name != keep:
                    path.unlink(missing_ok=True)
                    total -= stat.st_size

    def size_bytes(self) -> int:
        """Returns what the folder holds."""
        return sum(p.stat().st_size for p in self.root.iterdir() if not p.name.startswith("."))

    def clean(self) -> int:
        """Removes half-written files of a server that is gone; returns how many."""
        removed = 0
        for path in self.root.glob(".*.tmp"):
            path.unlink(missing_ok=True)
            removed += 1
        return removed


class CacheWriter:
    """A file on its way into the cache; it appears only when ``finish`` has seen every byte."""

    def __init__(self, root: Path, sha256: str, size: int) -> None:
        self._final = root / sha256
        self._temporary = root / f".{sha256[:16]}-{secrets.token_hex(4)}.tmp"
        self._size = size
        self._file = open(self._temporary, "x+b", buffering=0)  # noqa: SIM115 closed by finish or abandon
        self._blocks = BlockWriter(self._file)
        self._closing = threading.Lock()
        """Held to close the file and to copy its descriptor: in between its number may become another file's."""

    @property
    def written(self) -> int:
        """Bytes that others may read already."""
        return self._blocks.written

    @property
    def is_open(self) -> bool:
        """Whether more may come."""
        return not self._file.closed

    def reopen(self) -> int:
        """Returns a descriptor of its own for the file on its way; it stays readable whatever becomes of the name.

        Raises:
            ValueError: it was closed already.

        """
        with self._closing:
            return os.dup(self._file.fileno())

    def write(self, piece: bytes) -> None:
        """Adds bytes."""
        with full_disk_is_clear(self._final):
            self._blocks.write(piece)

    def finish(self) -> Path:
        """Puts the file in its place, on the disk first: after a power cut it must not read as zeros."""
        with full_disk_is_clear(self._final):
            self._blocks.flush()
            os.fsync(self._file.fileno())
        self._close()
        if self.written != self._size:
            self._temporary.unlink(missing_ok=True)
            raise OSError(f"{self._final.name}: {self.written} bytes instead of {self._size}")
        os.replace(self._temporary, self._final)
        return self._final

    def abandon(self) -> None:
        """Leaves nothing behind."""
        self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        with self._closing:
            self._file.close()


class Follower:
    """Reads a file on its way into the cache, as far as it has come; a context manager."""

    def __init__(self, writer: CacheWriter) -> None:
        self._writer = writer
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # it ended just now: nothing is ready
            self._descriptor = self._writer.reopen()
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def ready(self) -> int:
        """Bytes that can be read by now."""
        return 0 if self._descriptor is None else self._writer.written

    @property
    def is_growing(self) -> bool:
        """Whether more may come; what broke off stays as long as it is."""
        return self._descriptor is not None and self._writer.is_open

    def read(self, at: int, length: int) -> bytes:
        """Returns up to ``length`` bytes that are ready."""
        assert self._descriptor is not None
        return os.pread(self._descriptor, min(length, self.ready - at), at)
