"""The folder of a run, which server and worker share and which outlives both.

runs/<id>/lock            held by the worker as long as it lives; whoever holds it runs
          spec.json       what to do, written by the server before the start
          process.json    process group of the worker, to be believed only while the lock is held
          events.jsonl    append-only; the byte offset behind a line is that event's id
          log             what the worker and its children printed
          outcome.json    written whole by the worker as its last act
          end-early       there when the run is to end with what it has
          work/           the function's own files; gone when the run has succeeded
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from fust.accounts.rights import Asked
from fust.core.errors import FustError
from fust.core.files import write_atomic
from fust.core.i18n import Language, Words, fill
from fust.wire.runs import LogLine, Progress, RunError

LOCK_VARIABLE = "FUST_RUN_LOCK"
"""Environment variable with the number of the inherited descriptor that holds the run's lock."""
_TAIL_BYTES = 64 * 1024
Scalar = str | int | float


class Spoken(msgspec.Struct, frozen=True):
    """`Words` as JSON holds them: they are drawn when somebody reads them, and in that reader's language."""

    template: str
    params: dict[str, Field] = {}

    def words(self) -> Words:
        """Returns them as a field of a message."""
        return Words(self.template, **fields_of(self.params))


Field = Scalar | Spoken
"""What a field of a kept message may be."""


def plain(params: Mapping[str, object]) -> dict[str, Field]:
    """Returns a message's fields as JSON can hold them."""
    return {key: _plain(value) for key, value in params.items()}


def _plain(value: object) -> Field:
    if isinstance(value, Words):
        return Spoken(value.template, plain(value.params))
    return value if isinstance(value, Scalar) else str(value)


def fields_of(params: Mapping[str, Field]) -> dict[str, object]:
    """Returns a kept message's fields as `fill` takes them."""
    return {key: value.words() if isinstance(value, Spoken) else value for key, value in params.items()}


class Spec(msgspec.Struct, frozen=True):
    """What a worker is to do."""

    id: str
    kind: str
    owner: str
    asked: Asked
    """With which rights it was asked for."""
    params: dict[str, Any]
    cores: int
    memory_bytes: int
    attempt: int = 1
    settings: dict[str, str] = {}
    """The settings of that moment, for the record; secrets only as set or not set."""


class Process(msgspec.Struct, frozen=True):
    """The worker's process group."""

    pid: int
    group: int


class Fault(msgspec.Struct, frozen=True):
    """An error that can be drawn in any language later."""

    code: str
    template: str
    hint: str = ""
    params: dict[str, Field] = {}

    @classmethod
    def of(cls, error: FustError) -> Fault:
        """Returns the error with its fields as JSON can hold them."""
        return cls(error.code, error.template, error.hint_template, plain(error.params))

    def draw(self, language: Language) -> RunError:
        """Returns it in a language."""
        fields = fields_of(self.params)
        hint = fill(self.hint, fields, language) if self.hint else ""
        return RunError(self.code, fill(self.template, fields, language), hint)


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended, in the worker's words."""

    state: Literal["succeeded", "failed", "cancelled"]
    result: dict[str, Any] | None = None
    error: Fault | None = None


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of ``events.jsonl``."""

    kind: Literal["progress", "log"]
    at: str
    template: str = ""
    params: dict[str, Field] = {}
    done: float = 0
    total: float = 0
    unit: str = ""
    rate: float | None = None
    eta_s: float | None = None
    data: dict[str, Any] = {}

    def draw(self, language: Language) -> Progress | LogLine:
        """Returns what the event says, in a language."""
        message = fill(self.template, fields_of(self.params), language) if self.template else ""
        if self.kind == "log":
            return LogLine(message, self.at, self.data)
        return Progress(self.done, self.total, self.unit, message, self.rate, self.eta_s, self.data)


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, home: Path, run_id: str) -> None:
        self.path = home / "runs" / run_id
        self.lock = self.path / "lock"
        self.events = self.path / "events.jsonl"
        self.log = self.path / "log"
        self.work = self.path / "work"

    def create(self) -> None:
        """Makes the folder, readable by its owner only."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write_spec(self, spec: Spec) -> None:
        """Writes what is to be done."""
        write_atomic(self.path / "spec.json", msgspec.json.encode(spec), mode=0o600)

    def read_spec(self) -> Spec:
        """Returns what is to be done; raises FileNotFoundError when there is no such run."""
        return msgspec.json.decode((self.path / "spec.json").read_bytes(), type=Spec)

    def write_process(self, process: Process) -> None:
        """Records the worker's process group."""
        write_atomic(self.path / "process.json", msgspec.json.encode(process))

    def find_process(self) -> Process | None:
        """Returns the recorded process group; believe it only while the lock is held."""
        return _find(self.path / "process.json", Process)

    def write_outcome(self, outcome: Outcome) -> None:
        """Writes how it ended, whole and durable."""
        write_atomic(self.path / "outcome.json", msgspec.json.encode(outcome))

    def find_outcome(self) -> Outcome | None:
        """Returns how it ended, or None when the worker did not get to say."""
        return _find(self.path / "outcome.json", Outcome)

    def forget_outcome(self) -> None:
        """Removes what an earlier attempt left."""
        (self.path / "outcome.json").unlink(missing_ok=True)

    def ask_for_early_end(self, wished: bool) -> None:
        """Notes that the run is to end with what it has, or that it is not; it outlives server and worker."""
        if wished:
            write_atomic(self.path / "end-early", b"")
        else:
            (self.path / "end-early").unlink(missing_ok=True)

    def is_to_end_early(self) -> bool:
        """Returns whether the run is to end with what it has."""
        return (self.path / "end-early").exists()

    def is_alive(self) -> bool:
        """Returns whether a worker holds the lock. Takes a shared lock for an instant, so askers do not meet."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def take_lock(self) -> int | None:
        """Returns an open descriptor that holds the lock, to be handed to the worker; None when it is held."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def iter_events(self, offset: int = 0, limit_bytes: int = 1 << 20) -> Generator[tuple[int, Event]]:
        """Yields (offset behind the line, event) of the whole lines from ``offset`` on, at most ``limit_bytes``.

        A line that a killed worker left half is skipped.
        """
        try:
            with self.events.open("rb") as file:
                file.seek(offset)
                block = file.read(limit_bytes)
        except FileNotFoundError:
            return
        position = offset
        for line in block.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            position += len(line)
            with suppress(msgspec.DecodeError):
                yield position, msgspec.json.decode(line, type=Event)

    def events_size(self) -> int:
        """Returns the size of the events file in bytes; 0 when there is none."""
        try:
            return self.events.stat().st_size
        except FileNotFoundError:
            return 0

    def find_progress(self) -> Event | None:
        """Returns the last progress event near the end of the file."""
        start = max(0, self.events_size() - _TAIL_BYTES)
        last = None
        for _, event in self.iter_events(start, _TAIL_BYTES):
            if event.kind == "progress":
                last = event
        return last

    def read_log(self, limit_bytes: int = 1 << 20) -> str:
        """Returns the end of the log."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit_bytes))
                return file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""


_T = TypeVar("_T")


def _find(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
