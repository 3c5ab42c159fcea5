"""Works on batches, a few lines at a time, while nobody else waits for a model.

What is answered is a line at the end of a file, synced before the next ones begin; nothing else has to be remembered.
After a kill the files are read again: half a last line is cut off, lines whose answers are there are not asked again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import msgspec

from fust.accounts.rights import Asked, Identity
from fust.accounts.service import Accounts
from fust.core.clock import utc_naive
from fust.core.errors import FustError
from fust.core.files import full_disk_is_clear
from fust.core.ids import new_id
from fust.gateway.batches import WINDOW, Batches, check_input, read_lines
from fust.gateway.models import BatchRow
from fust.wire.batches import BatchLine
from fust.wire.problems import draw_openai

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")
_AT_ONCE = 3  # one less than the slots that an engine has by default
_LOOK_S = 5.0
_BUSY_S = 0.1
_TRIES = 4
_PASSING = frozenset({429, 502, 503})
_SWEEP_S = 3600.0


class Ask(Protocol):
    """Answers one request as the API would; returns status and body."""

    def __call__(
        self, path: str, body: bytes, identity: Identity, request_id: str
    ) -> Coroutine[Any, Any, tuple[int, bytes]]:
        """Asks a model."""
        ...


class Done(msgspec.Struct):
    """The part of an output line that tells which request it answers."""

    custom_id: str


class BatchRunner:
    """Runs until it is stopped; belongs to one event loop."""

    def __init__(
        self, batches: Batches, accounts: Accounts, ask: Ask, is_idle: Callable[[], bool], pool: Executor
    ) -> None:
        self._batches, self._accounts, self._ask, self._is_idle, self._pool = (
            batches, accounts, ask, is_idle, pool,
        )  # fmt: skip
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Tells it that there is something to do."""
        self._wake.set()

    async def run(self) -> None:
        """Works on batches for ever."""
        swept = -_SWEEP_S
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() - swept > _SWEEP_S:
                swept = loop.time()
                await self._in_pool(self._batches.files.sweep)
            self._wake.clear()
            found = None
            try:
                found = await self._in_pool(self._batches.next_open)
                if found is not None:
                    await self._work(*found)
                    continue
            except FustError as error:
                log.warning("a batch waits", extra={"reason": str(error)})
            except Exception as error:
                log.exception("a batch could not be worked on")
                if found is not None:
                    fault = {"code": "internal", "message": type(error).__name__, "line": None, "param": None}
                    await self._in_pool(self._batches.end, found[0], "failed", errors={"data": [fault]})
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _in_pool(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def _work(self, row: BatchRow, user: str) -> None:
        batches = self._batches
        source = batches.files.path(row.input_file_id)
        if row.state == "validating":
            total, errors = await self._in_pool(check_input, source, row.endpoint)
            if errors:
                await self._in_pool(batches.end, row, "failed", total=total, errors={"data": errors})
                return
            await self._in_pool(
                batches.change,
                row.id,
                only=("validating",),
                state="in_progress",
                begun_at=utc_naive(),
                total=total,
            )
        sheet: _Sheet = await self._in_pool(
            _Sheet, batches.files.path(row.output_file_id), batches.files.path(row.error_file_id)
        )
        try:
            state = await self._answer_all(row, user, source, sheet)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        await self._in_pool(batches.end, row, state, completed=sheet.completed, failed=sheet.failed)
        log.info("a batch ended", extra={"batch": row.id, "state": state})

    async def _answer_all(self, row: BatchRow, user: str, source: Path, sheet: _Sheet) -> str:
        """Answers what is not answered yet; returns the state in which the batch ends."""
        gate = asyncio.Semaphore(_AT_ONCE)
        loop = asyncio.get_running_loop()
        looked, state = loop.time(), await self._in_pool(self._batches.state_of, row.id)
        asked = msgspec.convert(row.asked, Asked)
        async with asyncio.TaskGroup() as group:
            for _, raw in read_lines(source) if source.exists() else ():
                line = msgspec.json.decode(raw, type=BatchLine)
                if line.custom_id in sheet.done:
                    continue
                if state != "in_progress":
                    break
                if row.created_at + WINDOW < utc_naive():
                    await self._in_pool(sheet.put, line.custom_id, _expired(line), False)
                    continue
                await gate.acquire()
                while not self._is_idle():
                    await asyncio.sleep(_BUSY_S)
                if loop.time() - looked > 1:
                    looked = loop.time()
                    state = await self._in_pool(self._batches.state_of, row.id)
                    await self._in_pool(
                        self._batches.change, row.id, completed=sheet.completed, failed=sheet.failed
                    )
                task = group.create_task(self._answer(line, user, asked, sheet))
                task.add_done_callback(lambda _: gate.release())
        if await self._in_pool(self._batches.state_of, row.id) != "in_progress":
            return "cancelled"
        return "expired" if row.created_at + WINDOW < utc_naive() and sheet.expired else "completed"

    async def _answer(self, line: BatchLine, user: str, asked: Asked, sheet: _Sheet) -> None:
        request_id = new_id("req_")
        body = msgspec.json.encode(line.body)
        status, answer = 500, b"{}"
        for attempt in range(_TRIES):
            try:
                identity = await self._in_pool(self._accounts.of_run, user, asked)
                status, answer = await self._ask(line.url, body, identity, request_id)
            except FustError as error:  # whoever asked is gone or suspended
                status, answer = draw_openai(error, "en", request_id)
            if status not in _PASSING or attempt == _TRIES - 1:
                break
            await asyncio.sleep(4**attempt)
        made = {
            "id": new_id("batch_req_"),
            "custom_id": line.custom_id,
            "response": {"status_code": status, "request_id": request_id, "body": msgspec.Raw(answer)},
            "error": None,
        }
        await self._in_pool(sheet.put, line.custom_id, msgspec.json.encode(made), status < 300)


def _expired(line: BatchLine) -> bytes:
    message = "This request was not answered within the batch's 24 hours."
    error = {"code": "batch_expired", "message": message}
    made = {"id": new_id("batch_req_"), "custom_id": line.custom_id, "response": None, "error": error}
    return msgspec.json.encode(made)


class _Sheet:
    """What a batch has been answered: two files that only grow, and which requests they answer."""

    def __init__(self, output: Path, errors: Path) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        self._output, self._errors = output, errors
        good, bad = _read_done(output), _read_done(errors)
        self.done = good | bad
        self.completed, self.failed = len(good), len(bad)
        self.expired = False
        self._lock = threading.Lock()

    def put(self, custom_id: str, line: bytes, good: bool) -> None:
        """Adds an answer; it is on the disk when this returns."""
        path = self._output if good else self._errors
        self.expired = self.expired or b'"batch_expired"' in line
        with self._lock:
            with full_disk_is_clear(path):
                _append(path, line + b"\n")
            self.done.add(custom_id)
            if good:
                self.completed += 1
            else:
                self.failed += 1


def _append(path: Path, line: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as file:
        before = file.tell()
        try:
            view = memoryview(line)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)  # half a line would spoil the next one
            raise


def _read_done(path: Path) -> set[str]:
    """Returns which requests a file answers; half a line at its end, of a kill, is cut off."""
    if not path.exists():
        return set()
    done: set[str] = set()
    with path.open("r+b") as file:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            done.add(msgspec.json.decode(line, type=Done).custom_id)
        file.truncate(whole)
    return done
