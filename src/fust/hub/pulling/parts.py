"""Half-fetched files, named by the hash they are to have, so that any later pull continues where one ended.

cache/pull/<hash>.part      the bytes, each where it belongs
cache/pull/<hash>.extents   one record per extent that was written: offset, length, BLAKE3 of its bytes

A record follows its bytes. Whoever opens the part reads every extent and keeps those whose hash is right: bytes that a
power cut lost, or that somebody changed, are fetched again, and no other.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from fust.core.files import BLOCK_BYTES

KEEP_S = 7 * 86400.0
"""A part that nobody touched for so long is removed."""
EXTENT_BYTES = BLOCK_BYTES
EXTENT_S = 2.0
"""An extent is recorded when it is so long or so old: what a kill costs at most, per connection."""
_RECORD = struct.Struct("<QQ32s")


def parts_folder(home: Path) -> Path:
    """Returns where a home keeps half-fetched files."""
    return home / "cache" / "pull"


class Part:
    """One half-fetched file, open for writing by the threads of this process alone."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._lock = threading.Lock()
        self._data = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._records = os.open(
            path.with_suffix(".extents"), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        self._is_closed = False
        self._have = self._read_records()

    def close(self) -> None:
        """Closes the files; they stay. A thread that comes late cannot write any more."""
        with self._lock:
            self._is_closed = True
            os.close(self._data)
            os.close(self._records)

    def remove(self) -> None:
        """Removes what was fetched."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".extents").unlink(missing_ok=True)

    def reset(self) -> None:
        """Forgets what was fetched: it was not what it was to be."""
        with self._lock:
            os.ftruncate(self._records, 0)
            os.ftruncate(self._data, 0)
            self._have = []

    @property
    def have_bytes(self) -> int:
        """How many bytes are here and recorded."""
        with self._lock:
            return sum(end - start for start, end in self._have)

    def missing(self) -> list[tuple[int, int]]:
        """Returns the ranges [start, end) that are still to come."""
        found: list[tuple[int, int]] = []
        position = 0
        with self._lock:
            for start, end in self._have:
                if start > position:
                    found.append((position, start))
                position = max(position, end)
        if position < self.size:
            found.append((position, self.size))
        return found

    def write(self, offset: int, data: bytes) -> None:
        """Writes bytes where they belong; they count once ``record`` was called for them."""
        view = memoryview(data)
        with self._lock:
            while view and not self._is_closed:
                written = os.pwrite(self._data, view, offset)
                offset, view = offset + written, view[written:]

    def record(self, start: int, end: int, digest: bytes) -> None:
        """Notes that [start, end) was written."""
        with self._lock:
            if not self._is_closed:
                os.write(self._records, _RECORD.pack(start, end - start, digest))
                self._have = _merged([*self._have, (start, end)])

    def sync(self) -> None:
        """Puts the bytes on the disk."""
        os.fsync(self._data)

    def _read_records(self) -> list[tuple[int, int]]:
        size = os.fstat(self._records).st_size
        if size % _RECORD.size:  # a killed writer left half a record
            size -= size % _RECORD.size
            os.ftruncate(self._records, size)
        good: list[tuple[int, int]] = []
        held = os.fstat(self._data).st_size
        for at in range(0, size, _RECORD.size):
            start, length, digest = _RECORD.unpack(os.pread(self._records, _RECORD.size, at))
            end = start + length
            if length and end <= min(held, self.size) and self._hash(start, end) == digest:
                good.append((start, end))
        return _merged(good)

    def _hash(self, start: int, end: int) -> bytes:
        digest = blake3()
        while start < end:
            piece = os.pread(self._data, min(2**20, end - start), start)
            if not piece:
                return b""
            digest.update(piece)
            start += len(piece)
        return digest.digest()


class Extent:
    """The run of bytes that one connection brings, written and recorded block by block."""

    def __init__(self, part: Part, start: int) -> None:
        self._part = part
        self._held = bytearray()
        self._start = start
        """Where what is held begins."""
        self._since = time.monotonic()
        self._lock = threading.RLock()

    @property
    def position(self) -> int:
        """Where the next bytes belong."""
        with self._lock:
            return self._start + len(self._held)

    def write(self, data: bytes) -> None:
        """Takes the next bytes; they are on the disk when their block is full, or old."""
        with self._lock:
            self._held += data
            due = len(self._held) if time.monotonic() - self._since > EXTENT_S else self._whole_blocks()
            if due:
                self._put(due)

    def _whole_blocks(self) -> int:
        """Returns how much of what is held ends where a block of the file ends."""
        return max(0, self.position - self.position % EXTENT_BYTES - self._start)

    @property
    def unrecorded(self) -> int:
        """Bytes taken and not recorded yet."""
        return len(self._held)

    def restart(self, start: int) -> None:
        """Begins again at another place; what was not recorded is forgotten."""
        with self._lock:
            self._start = start
            self._held.clear()
            self._since = time.monotonic()

    def flush(self) -> None:
        """Writes and records what is held."""
        with self._lock:
            if self._held:
                self._put(len(self._held))

    def _put(self, size: int) -> None:
        block = bytes(self._held[:size])
        self._part.write(self._start, block)
        self._part.record(self._start, self._start + size, blake3(block).digest())
        del self._held[:size]
        self._start += size
        self._since = time.monotonic()


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


@contextmanager
def claim_part(home: Path, work: Path, name: str, size: int) -> Generator[Part]:
    """Gives a part that this process alone writes; one in the run's own folder when another run has it now."""
    shared = parts_folder(home) / f"{name}.part"
    shared.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(shared)
    part = Part(shared if descriptor is not None else work / f"{name}.part", size)
    try:
        yield part
    finally:
        part.close()
        if descriptor is not None:
            os.close(descriptor)


def part_size(home: Path, name: str) -> int:
    """Returns about how many bytes of a file are here already; 0 for none."""
    try:
        return (parts_folder(home) / f"{name}.part").stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def sweep_parts(home: Path) -> None:
    """Removes parts that nobody will continue."""
    for path in parts_folder(home).glob("*.part"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > KEEP_S and (descriptor := _lock(path)) is not None:
                path.unlink(missing_ok=True)
                path.with_suffix(".extents").unlink(missing_ok=True)
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
