"""The llama.cpp engine's process: `python -m fust.serve.engines.llamacpp_child`.

Reads one JSON line (`ChildConfig`) from standard input, loads the model, serves llama.cpp's own HTTP API on a free
loopback port, says so in one JSON line on standard output, and lives until standard input is closed. Whoever started
it holds the other end of that pipe, so the child ends with its parent however the parent ends; on Linux the kernel
is asked for the same (`PR_SET_PDEATHSIG`), should this process hang. A lock file is held meanwhile: by it the next
server knows that this engine still lives.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from fust.core.locks import FileLock

PR_SET_PDEATHSIG = 1


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
    parent_pid: int


class ChildReady(msgspec.Struct, omit_defaults=True):
    """What the child says once: its port, or why it has none."""

    port: int = 0
    error: str = ""


def main() -> int:
    """Serves until standard input ends; returns the exit status."""
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=ChildConfig)
    _die_with_parent(config.parent_pid)
    lock = FileLock(Path(config.lock))
    lock.acquire()
    out = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints on standard output now and then; that channel carries one line only
    try:
        server = _start(config)
    except Exception as error:
        _say(out, ChildReady(error=str(error)))
        return 1
    port = int(str(server.listening_address).rsplit(":", 1)[1])
    _say(out, ChildReady(port=port))
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    os._exit(0)  # the model needs no farewell; a destructor that waits for a running request would


def _say(out: int, message: ChildReady) -> None:
    os.write(out, msgspec.json.encode(message) + b"\n")
    os.close(out)


def _die_with_parent(parent_pid: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(3)


def _start(config: ChildConfig) -> Any:
    # Imported here, since a wheel that does not fit this machine must become a message; it has no type stubs.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params: Any = xllamacpp.CommonParams()
    params.model.path = config.path
    params.model_alias = {config.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [config.api_key]
    params.n_parallel = config.slots
    params.n_ctx = config.context * config.slots  # llama.cpp divides it among the slots
    params.fit_params = False  # else it quietly shrinks the context
    params.ctx_shift = False
    params.cache_ram_mib = 0  # its default keeps up to 8 GiB of prompts that no estimate knows of
    params.cache_idle_slots = False
    params.ui = False
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.verbosity = 1  # errors; warnings too would put lines on the disk for every request
    params.sse_ping_interval = 15
    params.n_threads_http = max(8, config.slots * 4)
    params.cpuparams.n_threads = config.threads
    params.cpuparams_batch.n_threads = config.threads
    if config.embed:
        params.embedding = True
        params.n_batch = params.n_ubatch = config.context  # an input must fit one batch
        params.pooling_type = getattr(
            xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{config.pooling.upper()}"
        )
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main())
