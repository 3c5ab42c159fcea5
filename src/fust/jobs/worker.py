"""The generic part of a run's process: lock, events, function, outcome. Knows neither database nor web."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from fust.core.clock import iso, now
from fust.core.errors import FustError, InvalidInput
from fust.core.files import full_disk_is_clear
from fust.core.logs import configure_logs
from fust.core.settings import Settings
from fust.jobs.folder import LOCK_VARIABLE, Event, Fault, Outcome, Process, RunFolder, Spec, plain

log = logging.getLogger(__name__)

_PROGRESS_EVERY_S = 0.25
_HOME_LOOK_S = 3.0
_FAREWELL_S = 10.0
_HOMELESS = 4
"""Exit status of a worker whose home was deleted."""


class RunCancelled(BaseException):
    """Raised in the function when the run is to end; clean up and let it pass."""


class AttemptLost(BaseException):
    """Raised in the function when it cannot go on here, but another process can: the run is started again, as if killed."""


class JobContext:
    """What a run's function gets: what to do, where, with how much, and how to say how far it is."""

    def __init__(self, spec: Spec, folder: RunFolder, settings: Settings) -> None:
        self.spec = spec
        self.params: dict[str, Any] = spec.params
        self.settings = settings
        self.folder = folder
        self._events = os.open(folder.events, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._mend_last_line()
        self._last_progress = 0.0
        self.too_late_to_cancel = False
        """Set by the function for its last steps, which are to be done whole: a wish to end is not heard then."""
        self._rate = Rate()

    @property
    def work(self) -> Path:
        """A folder for the function's own files; it is kept until the run has succeeded."""
        self.folder.work.mkdir(exist_ok=True)
        return self.folder.work

    def progress(
        self,
        done: float,
        total: float,
        unit: str = "",
        template: str = "",
        /,
        *,
        now: bool = False,
        data: dict[str, Any] | None = None,
        **params: object,
    ) -> None:
        """Says how far the run is; written at most four times a second, unless ``now`` or at the end."""
        moment = time.monotonic()
        rate = self._rate.add(done, moment)
        is_end = 0 < total <= done
        if not now and not is_end and moment - self._last_progress < _PROGRESS_EVERY_S:
            return
        self._last_progress = moment
        eta_s = (total - done) / rate if rate and total > done else None
        self._write(
            Event(
                "progress",
                _stamp(),
                template,
                plain(params),
                done,
                total,
                unit,
                rate,
                eta_s and round(eta_s, 1),
                data or {},
            )
        )

    def restart_rate(self) -> None:
        """Forgets the rate so far: after a jump that was not work, such as bytes that were here already."""
        self._rate = Rate()

    def say(self, template: str, /, *, data: dict[str, Any] | None = None, **params: object) -> None:
        """Says something that a person may want to read; ``data`` goes with it for programs."""
        event = Event("log", _stamp(), template, plain(params), data=data or {})
        self._write(event)
        log.info("%s", getattr(event.draw("en"), "message", ""))

    def _write(self, event: Event) -> None:
        with full_disk_is_clear(self.folder.events):
            os.write(self._events, msgspec.json.encode(event) + b"\n")

    def _mend_last_line(self) -> None:
        # A killed attempt may have left half a line; it must not swallow our first one.
        size = self.folder.events_size()
        if size:
            with self.folder.events.open("rb") as file:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    os.write(self._events, b"\n")


class Rate:
    """Units a second over the last ten seconds or so."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []

    def add(self, done: float, moment: float) -> float | None:
        """Takes a point, returns the rate; None in the first second."""
        if self._points and done < self._points[-1][1]:
            self._points.clear()
        if not self._points or moment - self._points[-1][0] >= 0.2:
            self._points.append((moment, done))
        while len(self._points) > 2 and moment - self._points[0][0] > 10:
            self._points.pop(0)
        span = moment - self._points[0][0]
        return (done - self._points[0][1]) / span if span >= 1 else None


JobFunction = Callable[[JobContext], Any]


def run_job(settings: Settings, run_id: str, functions: Mapping[str, JobFunction]) -> int:
    """Runs one run to its end and returns the process's exit code; ``functions`` maps kinds to what does them."""
    folder = RunFolder(settings.home, run_id)
    spec = folder.read_spec()
    lock = _hold_lock(folder)
    if lock is None:
        print(f"run {run_id} is being run by another process", file=sys.stderr)
        return 1
    os.nice(10)
    configure_logs(settings.log.level, terminal=False)
    _log_to_stderr()
    context = JobContext(spec, folder, settings)

    def on_terminate(_: int, __: FrameType | None) -> None:
        if not context.too_late_to_cancel:
            raise RunCancelled

    signal.signal(signal.SIGTERM, on_terminate)
    threading.Thread(target=_watch_home, args=(folder.path,), name="fust-home", daemon=True).start()
    try:
        folder.write_process(Process(os.getpid(), os.getpgrp()))
        outcome = _outcome(context, functions)
    except RunCancelled:
        outcome = Outcome("cancelled")
    except AttemptLost:
        return 1  # without an outcome, which is how a killed process leaves
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        folder.write_outcome(outcome)
    except FileNotFoundError:
        return _homeless(folder.path)
    return 0 if outcome.state == "succeeded" else 1


def _watch_home(folder: Path) -> None:
    """Ends this process and its children when the run's folder was deleted: nobody learns of what they do."""
    missing = 0
    while missing < 2:
        time.sleep(_HOME_LOOK_S)
        missing = 0 if folder.exists() else missing + 1
    _homeless(folder)
    leads = os.getpgrp() == os.getpid()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if leads:
            os.killpg(os.getpgrp(), number)
        else:
            os.kill(os.getpid(), number)
        time.sleep(_FAREWELL_S)


def _homeless(folder: Path) -> int:
    print(f"{folder} was deleted while its run went on: the run ends", file=sys.stderr, flush=True)
    return _HOMELESS


def _outcome(context: JobContext, functions: Mapping[str, JobFunction]) -> Outcome:
    spec = context.spec
    try:
        result = _function(spec.kind, functions)(context)
        return Outcome("succeeded", result=msgspec.to_builtins(result) if result is not None else None)
    except RunCancelled:
        return Outcome("cancelled")
    except FustError as error:
        log.warning("%s", error.sentence())
        return Outcome("failed", error=Fault.of(error))
    except Exception as error:  # the edge of the process: the log has the trace, the row the short form
        log.exception("the run failed")
        return Outcome(
            "failed",
            error=Fault(
                "internal",
                "The run failed unexpectedly ({reason}).",
                "See its log with `fust jobs {id} --log`, and report it if it comes again.",
                {"reason": f"{type(error).__name__}: {error}"[:300], "id": spec.id},
            ),
        )


def _function(kind: str, functions: Mapping[str, JobFunction]) -> JobFunction:
    function = functions.get(kind)
    if function is None:
        raise InvalidInput(
            "There is no kind of run {kind!r}.",
            hint="There are: {kinds}.",
            kind=kind,
            kinds=", ".join(functions),
        )
    return function


def _hold_lock(folder: RunFolder) -> int | None:
    """Returns the descriptor of the held lock: inherited from the server, else taken now."""
    inherited = os.environ.pop(LOCK_VARIABLE, "")
    if not inherited:
        return folder.take_lock()
    descriptor = int(inherited)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.set_inheritable(descriptor, False)
    return descriptor


def _log_to_stderr() -> None:
    from fust.core.logs import PlainLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainLines())
    logging.getLogger().addHandler(handler)


def _stamp() -> str:
    return iso(now()) or ""
