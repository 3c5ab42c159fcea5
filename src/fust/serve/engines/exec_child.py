"""Becomes a server that is not ours: `python -m fust.serve.engines.exec_child` does what every child does, then executes it.

The process keeps its id, its lock, its bound of memory and the kernel's promise to end it with its parent. The server gets
a free loopback port in the place of `{port}`, and its key from its environment, where no list of processes shows it.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys

import msgspec

from fust.core.children import die_with_parent
from fust.core.locks import FileLock
from fust.core.machine import machine_memory
from fust.serve.engines.child_main import ChildReady, bound_growth, bound_log, say

EXEC = "fust.serve.engines.exec_child"
"""Its module."""
PORT = "{port}"
"""Stands for the port in a command."""


class ExecConfig(msgspec.Struct):
    """What is to be executed."""

    argv: list[str]
    environ: dict[str, str]
    """Besides this process's own."""
    lock: str
    parent_pid: int
    is_bounded: bool = True
    """Whether what it may take of memory is bounded; a server on a GPU maps far more than it takes."""


def main() -> int:
    """Executes what standard input names; returns only when that cannot be."""
    from pathlib import Path

    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=ExecConfig)
    die_with_parent(config.parent_pid)
    lock = FileLock(Path(config.lock))
    lock.acquire()
    lock.keep_over_exec()
    out = os.dup(1)
    os.dup2(2, 1)  # that channel carries one line only
    if shutil.which(config.argv[0]) is None:
        say(out, ChildReady(error=f"{config.argv[0]} is not a program that can be run"))
        return 1
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    if config.is_bounded:
        bound_log()
        bound_growth(machine_memory().available_bytes)
    say(out, ChildReady(port=port))
    argv = [argument.replace(PORT, str(port)) for argument in config.argv]
    os.execvpe(argv[0], argv, {**os.environ, **config.environ})
    return 1


if __name__ == "__main__":
    sys.exit(main())
