"""A supervised child process: own group, ended with its parent, known to the next server, its last words kept."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import psutil

from fust.core.files import atomic_file
from fust.core.locks import is_held
from fust.serve.engines.base import Mode

log = logging.getLogger(__name__)

_LOG_KEPT_BYTES = 1_000_000
_MOST_LINE_BYTES = 1_000_000
_SPINNING = frozenset({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"})
"""Would keep an engine's idle threads busy: an engine that works for nobody is taken for one that hangs."""
# The kernel's parent-death signal follows the *thread* that started the child, so one thread that lives as long as
# the process starts all of them.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fust-engine-starter")


class EngineRecord(msgspec.Struct):
    """What a later server needs to find an engine that outlived its own."""

    engine_id: str
    pid: int
    created_s: float
    """The process's start as the system gives it: tells a reused pid apart."""


class Child:
    """One child process of an engine."""

    def __init__(self, engine_id: str, log_name: str, home: Path) -> None:
        self.engine_id = engine_id
        self.lock_path = home / "engines" / f"{engine_id}.lock"
        self.record_path = home / "engines" / f"{engine_id}.json"
        self.log_path = home / "log" / f"{log_name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._gone = threading.Event()

    @property
    def pid(self) -> int:
        """The process's id; 0 before it was started."""
        return self._process.pid if self._process else 0

    def start(self, module: str, config: bytes, timeout_s: float) -> bytes:
        """Starts `python -m module`, hands it the config line and returns the first line it says.

        Returns an empty line when it ended, or said nothing for `timeout_s`, and leaves nothing running then.
        """
        for path in (self.lock_path, self.log_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        process = _starter.submit(self._spawn, module).result()
        self._process = process
        with contextlib.suppress(psutil.Error), atomic_file(self.record_path, mode=0o600) as file:
            created = psutil.Process(process.pid).create_time()
            file.write(msgspec.json.encode(EngineRecord(self.engine_id, process.pid, created)))
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(config + b"\n")
            process.stdin.flush()
        line = self._first_line(timeout_s)
        if not line:
            self.stop()
        return line

    def _spawn(self, module: str) -> subprocess.Popen[bytes]:
        _shorten(self.log_path)
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("LLAMA_", "FUST_")) and key not in _SPINNING
        } | {"GGML_NO_BACKTRACE": "1"}  # ggml that aborts would call a debugger on itself first
        with self.log_path.open("ab") as stderr:
            os.chmod(self.log_path, 0o600)
            return subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env=environment,
            )

    def _first_line(self, timeout_s: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        received = b""
        while b"\n" not in received:
            left = deadline - time.monotonic()
            if left <= 0 or self._stopping:
                return b""
            if not select.select([descriptor], [], [], min(left, 0.5))[0]:
                continue
            piece = os.read(descriptor, 65536)
            if not piece:
                return b""
            received += piece
            if len(received) > _MOST_LINE_BYTES:
                return received  # rubbish without an end
        return received.partition(b"\n")[0]

    def ended(self) -> int | None:
        """Returns the status with which the process ended; None while it runs."""
        return self._process.poll() if self._process is not None else None

    def watch(self, on_exit: Callable[[int], None]) -> None:
        """Calls `on_exit(status)` from a thread when the process ends without having been stopped."""
        process = self._process
        assert process is not None

        def wait() -> None:
            status = process.wait()
            stopped = self._stopping
            self._clear()
            if not stopped:
                on_exit(status)

        threading.Thread(target=wait, name=f"fust-engine-{self.engine_id}", daemon=True).start()

    def stop(self) -> None:
        """Ends the whole process group and returns when it is gone."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # it holds nothing that must be written
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        self._clear()

    def _clear(self) -> None:
        if self._gone.is_set():
            return
        self._gone.set()
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self.record_path.unlink(missing_ok=True)
        self.lock_path.unlink(missing_ok=True)

    def log_tail(self, size_bytes: int = 16_384) -> str:
        """Returns the end of what the process wrote."""
        return read_tail(self.log_path, size_bytes)

    def is_stopped(self) -> bool:
        """Returns whether it was halted, as by SIGSTOP."""
        try:
            return bool(self.pid) and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def cpu_s(self) -> float:
        """Returns the processor time of all its threads; 0 when it is gone."""
        try:
            times = psutil.Process(self.pid).cpu_times() if self.pid else None
        except psutil.Error:
            return 0.0
        return times.user + times.system if times else 0.0

    def memory_bytes(self) -> int:
        """Returns PSS where the system tells it, else RSS, of it and what it started; 0 when it is gone."""
        if not self.pid:
            return 0
        try:
            process = psutil.Process(self.pid)
            return sum(_memory_of(one) for one in (process, *process.children(recursive=True)))
        except psutil.Error:
            return 0


def _memory_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (AttributeError, psutil.AccessDenied):
        return int(process.memory_info().rss)


def log_name(deployment_id: str, mode: Mode) -> str:
    """Returns the name of a deployment's log for a mode: its engines follow one another in it."""
    return f"engine-{deployment_id}" + ("" if mode == "generate" else f"-{mode}")


def read_tail(path: Path, size_bytes: int = 16_384) -> str:
    """Returns the end of a log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size_bytes))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _shorten(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.stat().st_size > _LOG_KEPT_BYTES:
            os.replace(path, path.with_suffix(".log.1"))


def end_orphans(home: Path) -> list[int]:
    """Ends engines that outlived the server that started them; returns their process ids.

    An engine is taken for alive only while its lock is held, and for the right process only when its start time fits.
    """
    ended: list[int] = []
    for path in sorted((home / "engines").glob("*.json")):
        lock_path = path.with_suffix(".lock")
        try:
            record = msgspec.json.decode(path.read_bytes(), type=EngineRecord)
        except (msgspec.DecodeError, OSError):
            record = None
        if record is not None and is_held(lock_path) and _is_same(record):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(record.pid, signal.SIGKILL)
            _wait_gone(record.pid)
            ended.append(record.pid)
            log.warning("ended an engine that a former server left behind", extra={"engine_pid": record.pid})
        path.unlink(missing_ok=True)
        lock_path.unlink(missing_ok=True)
    return ended


def _is_same(record: EngineRecord) -> bool:
    try:
        return abs(psutil.Process(record.pid).create_time() - record.created_s) < 1.0
    except psutil.Error:
        return False


def _wait_gone(pid: int, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.Error:
            return
        time.sleep(0.02)
