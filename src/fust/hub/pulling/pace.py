"""Bandwidth: bytes a second that all connections of a pull, or all pulls of a home, take together."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from pathlib import Path

from fust.core.errors import InvalidInput
from fust.core.units import parse_size

SLOWEST_LIMIT = 10_000
"""Bytes a second; below that a limit could not be told from a stalled connection."""
PIECE_BYTES = 2**16
_CLOCK = struct.Struct("<d")


def parse_limit(text: str) -> int:
    """Returns bytes a second for `10MB/s` or `512 kB`; 0 for an empty text: no limit.

    Raises:
        InvalidInput: not of that form, or below 10 kB/s.

    """
    if not text.strip():
        return 0
    value = parse_size(text.strip().lower().removesuffix("/s"))
    if value < SLOWEST_LIMIT:
        raise InvalidInput(
            "A limit of {value!r} is too low to pull anything.",
            hint="Give 10kB/s or more, such as 2MB/s.",
            value=text[:50],
        )
    return value


class Pace:
    """Lets bytes through at a rate. The clock is shared: by threads in memory, by processes through a file.

    A clock says when the line is free again; each piece of bytes moves it on by its share, and its taker waits for
    the moment the clock had shown. After a pause nothing is owed and nothing was saved up.
    """

    def __init__(self, bytes_per_s: int, shared: Path | None = None) -> None:
        self._rate = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._file = -1
        if shared is not None and bytes_per_s:
            shared.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(shared, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def is_limiting(self) -> bool:
        """Whether there is a limit at all."""
        return self._rate > 0

    def take(self, size: int, stop: threading.Event) -> None:
        """Waits until ``size`` bytes more may pass, or until ``stop`` is set."""
        if not self._rate:
            return
        now = time.monotonic()  # one clock for all processes of the machine
        with self._lock:
            start = max(now, min(self._read(), now + 60))
            self._write(start + size / self._rate)
            if self._file >= 0:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        if start > now:
            stop.wait(start - now)

    def _read(self) -> float:
        if self._file < 0:
            return self._free_at
        fcntl.flock(self._file, fcntl.LOCK_EX)
        data = os.pread(self._file, _CLOCK.size, 0)
        return _CLOCK.unpack(data)[0] if len(data) == _CLOCK.size else 0.0

    def _write(self, value: float) -> None:
        self._free_at = value
        if self._file >= 0:
            os.pwrite(self._file, _CLOCK.pack(value), 0)

    def close(self) -> None:
        """Lets go of the shared clock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
