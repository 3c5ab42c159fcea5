"""Admits queued runs, starts their processes, watches them by their locks, ends them when asked."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import select, update

from fust.core.clock import utc_naive
from fust.core.locks import FileLock
from fust.core.machine import machine_memory, usable_cores
from fust.core.settings import Settings, describe_settings
from fust.core.units import show_size
from fust.jobs.folder import LOCK_VARIABLE, Fault, Outcome, RunFolder, Spec, plain
from fust.jobs.kinds import Kind
from fust.jobs.models import RunRow, get_asked, visible_params
from fust.store.database import Database
from fust.store.outbox import emit

log = logging.getLogger(__name__)

CANCEL_GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""
_BUSY_S, _IDLE_S = 0.25, 2.0
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What runs may take together."""

    cores: int
    memory_bytes: int


def budget_of(settings: Settings) -> Budget:
    """Returns the budget of the settings; 0 there means all cores, and half of the memory."""
    return Budget(
        settings.jobs.cores or usable_cores(),
        settings.jobs.memory_bytes or machine_memory().total_bytes // 2,
    )


class Supervisor:
    """One thread that moves runs from queued to their end. Of several servers on a home, one supervises."""

    def __init__(
        self, database: Database, settings: Settings, kinds: Mapping[str, Kind], worker: str
    ) -> None:
        self._database = database
        self._settings = settings
        self._kinds = kinds
        self._worker = worker
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ending: dict[str, float] = {}
        """Run id -> monotonic time of its SIGTERM."""
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._only_one = FileLock(settings.home / "runs" / "supervisor.lock")

    def start(self) -> None:
        """Begins to watch; runs that live on from before are adopted, dead ones settled."""
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="fust-jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends watching; leaves processes alone."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        for child in self._children.values():
            child.returncode = (
                child.poll() or 0
            )  # let go of: it runs on, and its destructor need not complain
        self._children.clear()
        self._only_one.release()

    def wake(self) -> None:
        """Looks now."""
        self._wake.set()

    def _loop(self) -> None:
        has_lock = False
        while not self._stopping:
            busy = False
            try:
                has_lock = has_lock or self._only_one.acquire()
                busy = self.step() if has_lock else True
            except Exception:
                log.exception("runs could not be looked after; trying again")
            self._wake.wait(timeout=_BUSY_S if busy else _IDLE_S)
            self._wake.clear()

    def step(self) -> bool:
        """Settles, ends and admits once; returns whether some run is not at its end."""
        with self._database.read() as session:
            rows = list(
                session.scalars(
                    select(RunRow).where(RunRow.state.in_(("queued", "running"))).order_by(RunRow.id)
                )
            )
        running = [row for row in rows if row.state == "running" and not self._watch(row)]
        queued = [row for row in rows if row.state == "queued" and not self._drop_if_cancelled(row)]
        self._admit(queued, running)
        return bool(rows)

    # Running

    def _watch(self, row: RunRow) -> bool:
        """Looks at a running run; returns whether it has ended."""
        folder = RunFolder(self._settings.home, row.id)
        child = self._children.get(row.id)
        if child is not None and child.poll() is not None:
            del self._children[row.id]
        if folder.is_alive():
            if row.cancel_at is not None:
                self._end(row.id, folder)
            return False
        self._ending.pop(row.id, None)
        self._settle(row, folder)
        return True

    def _end(self, run_id: str, folder: RunFolder) -> None:
        """Asks a living run to end, and ends it when it does not within the grace."""
        process = folder.find_process()
        if process is None:
            return  # it has just been started and has not said who it is
        asked = self._ending.get(run_id)
        if asked is None:
            self._ending[run_id] = time.monotonic()
            _signal_group(process.group, signal.SIGTERM)
        elif time.monotonic() - asked > CANCEL_GRACE_S:
            _signal_group(process.group, signal.SIGKILL)

    def _settle(self, row: RunRow, folder: RunFolder) -> None:
        """Writes the end of a run whose process is gone into its row."""
        outcome = folder.find_outcome()
        kind = self._kinds.get(row.kind)
        if outcome is None and row.cancel_at is not None:
            outcome = Outcome("cancelled")
        if outcome is None and kind is not None and kind.resumable and row.attempts < kind.max_attempts:
            log.warning("run was killed and is queued again", extra={"run_id": row.id})
            self._move(row, "running", {"state": "queued"})
            return
        if outcome is None:
            fault = Fault(
                "killed",
                "The run's process ended without a word: it was killed, or the machine ran out of memory or stopped.",
                "See its log with `fust jobs {id} --log`, then start it again.",
                {"id": row.id},
            )
            outcome = Outcome("failed", error=fault)
        self._finish(row, "running", outcome)

    def _finish(self, row: RunRow, before: str, outcome: Outcome) -> None:
        progress = RunFolder(self._settings.home, row.id).find_progress()
        values = {
            "state": outcome.state,
            "result": outcome.result,
            "error": msgspec.to_builtins(outcome.error) if outcome.error else None,
            "progress": msgspec.to_builtins(progress) if progress else None,
            "ended_at": utc_naive(),
        }
        with self._database.write() as session:
            done = session.execute(
                update(RunRow).where(RunRow.id == row.id, RunRow.state == before).values(**values)
            )
            if done.rowcount:  # type: ignore[attr-defined] # CursorResult has it
                emit(session, "run_finished", run_id=row.id, kind=row.kind, state=outcome.state)
        log.info("run ended", extra={"run_id": row.id, "kind": row.kind, "state": outcome.state})

    def _move(self, row: RunRow, before: str, values: dict[str, Any]) -> bool:
        with self._database.write() as session:
            done = session.execute(
                update(RunRow).where(RunRow.id == row.id, RunRow.state == before).values(**values)
            )
            return bool(done.rowcount)  # type: ignore[attr-defined] # CursorResult has it

    # Queued

    def _drop_if_cancelled(self, row: RunRow) -> bool:
        if row.cancel_at is None:
            return False
        self._finish(row, "queued", Outcome("cancelled"))
        return True

    def _admit(self, queued: list[RunRow], running: list[RunRow]) -> None:
        """Starts what fits, in the order of the queue; the first that does not fit holds those behind it."""
        budget = budget_of(self._settings)
        cores = budget.cores - sum(row.cores for row in running)
        memory = budget.memory_bytes - sum(row.memory_bytes for row in running)
        memory = min(memory, machine_memory().available_bytes)
        blocked = False
        for row in queued:
            if blocked:
                self._say_wait(row, "Runs before it in the queue.", {})
            elif row.cores > cores and running:
                blocked = True
                self._say_wait(
                    row, "Cores: it needs {needed}, {free} are free.", {"needed": row.cores, "free": cores}
                )
            elif row.memory_bytes > memory:
                blocked = True
                sizes = {"needed": show_size(row.memory_bytes), "free": show_size(max(0, memory))}
                self._say_wait(row, "Memory: it needs {needed}, {free} is free.", sizes)
            elif self._launch(row):
                cores -= row.cores
                memory -= row.memory_bytes
                running = [*running, row]

    def _say_wait(self, row: RunRow, template: str, params: Mapping[str, object]) -> None:
        waits = msgspec.to_builtins(Fault("waits", template, params=plain(params)))
        if (row.waits_for or {}).get("template") != template:
            self._move(row, "queued", {"waits_for": waits})

    def _launch(self, row: RunRow) -> bool:
        """Starts the process of a run, which inherits the run's lock: there is no moment in which nobody holds it."""
        folder = RunFolder(self._settings.home, row.id)
        try:
            folder.create()
            descriptor = folder.take_lock()
        except OSError as error:
            self._finish(row, "queued", Outcome("failed", error=_not_started(row, error)))
            return False
        if descriptor is None:
            return False  # somebody looks at the lock just now; next time
        try:
            folder.forget_outcome()
            (folder.path / "process.json").unlink(missing_ok=True)
            folder.write_spec(self._spec(row))
            values = {"state": "running", "attempts": row.attempts + 1, "waits_for": None}
            if not self._move(row, "queued", {**values, "started_at": row.started_at or utc_naive()}):
                return False
            with folder.log.open("ab") as output:
                self._children[row.id] = subprocess.Popen(
                    [sys.executable, "-m", self._worker, row.id],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=folder.path,
                    env=self._environment(row, descriptor),
                    pass_fds=(descriptor,),
                    start_new_session=True,
                )
        except Exception as error:
            log.exception("run could not be started", extra={"run_id": row.id})
            outcome = Outcome("failed", error=_not_started(row, error))
            self._finish(row, "running", outcome)
            self._finish(row, "queued", outcome)
            return False
        finally:
            os.close(descriptor)
        log.info("run started", extra={"run_id": row.id, "kind": row.kind})
        return True

    def _spec(self, row: RunRow) -> Spec:
        return Spec(
            id=row.id,
            kind=row.kind,
            owner=row.owner,
            asked=get_asked(row.params),
            params=visible_params(row.params),
            cores=row.cores,
            memory_bytes=row.memory_bytes,
            attempt=row.attempts + 1,
            settings={key: str(value) for key, value, _ in describe_settings(self._settings)},
        )

    def _environment(self, row: RunRow, descriptor: int) -> dict[str, str]:
        """Returns the worker's environment: our settings, bounded threads, and none of the user's own hub logins."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        env.update({variable: str(row.cores) for variable in _THREAD_VARIABLES})
        env["FUST_HOME"] = str(self._settings.home)
        env[LOCK_VARIABLE] = str(descriptor)
        for key, source in self._settings.sources.items():
            if source == "flag":
                section, _, name = key.partition(".")
                value = getattr(getattr(self._settings, section), name)
                text = ",".join(value) if isinstance(value, tuple) else str(value)  # type: ignore[arg-type]
                env[f"FUST_{section}__{name}".upper()] = text
        return env


def _not_started(row: RunRow, error: Exception) -> Fault:
    return Fault(
        "not_started",
        "The run could not be started ({reason}).",
        "Look at `fust doctor`, then start it again.",
        {"reason": str(error)[:300], "id": row.id},
    )


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        log.debug("process group is gone", extra={"group": group})
