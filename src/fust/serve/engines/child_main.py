"""What every engine's process does besides being an engine: takes its orders, ends with its parent, says its port.

It reads one JSON line (`ChildConfig`) from standard input, starts, says in one JSON line on standard output where it
listens, and lives until standard input is closed. Whoever started it holds the other end of that pipe, so the child
ends with its parent however the parent ends; on Linux the kernel is asked for the same (`PR_SET_PDEATHSIG`), should
this process hang. A lock file is held meanwhile: by it the next server knows that this engine still lives.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from fust.core.children import die_with_parent
from fust.core.locks import FileLock
from fust.core.machine import machine_memory

_LEAST_GROWTH_BYTES = 2**30
MOST_LOG_BYTES = 64 * 2**20
GIVEN_BACK_BYTES = 4 * 2**20
"""Pieces of memory of this size go back to the system when they are freed; see `give_memory_back`."""


class ChildConfig(msgspec.Struct):
    """What the child is to load."""

    path: str
    alias: str
    lock: str
    api_key: str
    context: int
    slots: int
    threads: int
    embed: bool
    pooling: str
    most_bytes: int
    parent_pid: int
    options: msgspec.Raw = msgspec.Raw(b"{}")
    """What an engine without a model's file was told, as JSON."""
    secret: str = ""
    adapters: list[str] = []
    projector: str = ""
    library: str = ""
    """llama.cpp's library in the place of the wheel's."""


class ChildReady(msgspec.Struct, omit_defaults=True):
    """What the child says once: its port, or why it has none."""

    port: int = 0
    error: str = ""
    context: int = 0
    """Tokens of one slot, where the child knows better."""
    capabilities: list[str] | None = None
    """What it can, where that is found out at the start."""


def run_child(start: Callable[[ChildConfig], int | ChildReady]) -> int:
    """Serves until standard input ends; returns the exit status.

    Args:
        start: begins to serve on a free loopback port, in threads of its own, and returns the port, or it with more.
    """
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=ChildConfig)
    die_with_parent(config.parent_pid)
    lock = FileLock(Path(config.lock))
    lock.acquire()
    out = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints on standard output now and then; that channel carries one line only
    try:
        bound_log()
        bound_growth(machine_memory().available_bytes)
        started = start(config)
        bound_growth(min(machine_memory().available_bytes // 2, config.most_bytes or sys.maxsize))
    except Exception as error:
        say(out, ChildReady(error=str(error)))
        return 1
    say(out, started if isinstance(started, ChildReady) else ChildReady(port=started))
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    os._exit(0)  # the model needs no farewell; a destructor that waits for a running request would


def say(out: int, message: ChildReady) -> None:
    """Says the one line."""
    os.write(out, msgspec.json.encode(message) + b"\n")
    os.close(out)


def give_memory_back() -> None:
    """Lets malloc give every large piece of memory back to the system when it is freed.

    Else glibc keeps pieces up to the largest that was ever freed. llama.cpp makes its work space anew where requests
    with several adapters meet, and the old ones stayed: 40 MB beside a model of 120 million parameters.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, GIVEN_BACK_BYTES)  # M_MMAP_THRESHOLD


def bound_log() -> None:
    """Bounds every file that this process writes, which is its log: one that prints without end fills no disk.

    What is beyond is lost, and the process goes on: Python ignores the signal, as does what it is replaced with.
    """
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):  # a lower bound of the system's own stays
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (MOST_LOG_BYTES, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )


def bound_growth(most_bytes: int, pid: int = 0) -> None:
    """Bounds what a process (0: this one) may take from here on, but leaves it a gibibyte.

    A chat template may double a text until nothing is left; then this allocation fails, and no other process is
    killed for it. The kernel counts what can be written (`RLIMIT_DATA` in getrlimit(2)), so mapped weights are free.
    """
    if sys.platform != "linux":
        return
    import resource

    text = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii", errors="replace")
    taken = next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmData")), 0)
    limit = taken + max(_LEAST_GROWTH_BYTES, most_bytes)
    with contextlib.suppress(OSError, ValueError):  # a lower bound of the system's own stays
        hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit, hard))
