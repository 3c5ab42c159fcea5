"""The other processes of a run, as the first one sees them: started, told what to do, ended with it.

The run's own process is the first of the team: it has the hub, the log and the checkpoints. It starts the others, which
load the same base and the same rows and then wait for a line on their standard input. They end with it, however it
ends; when one of them ends, or does not answer, this attempt of the run is over, and the next one goes on from the
newest checkpoint, as after any other kill.
"""

# torch types its functions only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol, Self

import msgspec
import psutil

from fust.core.errors import FustError
from fust.jobs.folder import Fault
from fust.tune.recipe import Recipe
from fust.tune.team import Parted, Team, TeamLost, check_gloo

READY = b"ready\n"
"""What a peer says once, when all that it needs is loaded."""
LOST = 4
"""A peer's exit status when it lost the others; other ones than 0 and this are faults of its own."""
_MEETING = "meeting-"
_FAREWELL_S = 5.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer is to load, and where it meets the others."""

    rank: int
    recipe: Recipe
    base: str
    """Folder of the base's files."""
    work: str
    """The run's folder with its rows and checkpoints."""
    meeting: str
    patience_s: float
    parent_pid: int


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Take part in the measuring of a step."""


class Follow(msgspec.Struct, frozen=True, tag=True):
    """Train, to the end, from a checkpoint on."""

    recipe: Recipe
    recipe_key: str
    checkpoint: str
    """Empty: from the first weights."""


class Process(Protocol):
    """A process that was started; `subprocess.Popen` is one."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Returns the exit status, negative when a signal ended it; None while it runs."""
        ...

    def kill(self) -> None:
        """Ends it."""
        ...


Starter = Callable[[], Process]


class Peers:
    """All processes of a run but this one; of a run in one process there are none, and nothing here waits."""

    def __init__(
        self, recipe: Recipe, base: Path, work: Path, patience_s: float, start: Starter | None = None
    ) -> None:
        self._size = recipe.processes
        self._meeting = work / f"{_MEETING}{secrets.token_hex(4)}"
        self._work = work
        self._patience_s = patience_s
        self._processes: list[Process] = []
        self._team = Team()
        if self._size == 1:
            return
        check_gloo()
        for path in work.glob(f"{_MEETING}*"):  # of an attempt that was killed
            path.unlink(missing_ok=True)
        for rank in range(1, self._size):
            order = Order(
                rank=rank,
                recipe=recipe,
                base=str(base),
                work=str(work),
                meeting=str(self._meeting),
                patience_s=patience_s,
                parent_pid=os.getpid(),
            )
            self._processes.append((start or _start)())
            self._send(self._processes[-1], order)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pids(self) -> list[int]:
        """Returns their process ids."""
        return [process.pid for process in self._processes]

    def meet(self) -> Team:
        """Returns the team, once the others have loaded what they need.

        Raises:
            TeamLost: one of them has ended.

        """
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != READY:
                raise TeamLost("a process ended while it loaded the model")
        self._team = Team.meet(self._meeting, 0, self._size, self._patience_s)
        return self._team

    def order(self, what: Measure | Follow) -> None:
        """Tells all of them what to do next."""
        for process in self._processes:
            self._send(process, what)

    def memory_bytes(self) -> int:
        """Returns what they hold together."""
        total = 0
        for pid in self.pids:
            with contextlib.suppress(psutil.Error):
                total += int(psutil.Process(pid).memory_info().rss)
        return total

    def explain(self, lost: TeamLost) -> Fault:
        """Returns why this attempt is over.

        Raises:
            FustError: the next one would fail as well.

        """
        if isinstance(lost, Parted):
            return self._part(lost)
        deadline = time.monotonic() + 1.0
        ended = self._ended()
        while (
            not ended and time.monotonic() < deadline
        ):  # a connection is closed a little before its process is gone
            time.sleep(0.02)
            ended = self._ended()
        for rank, status in ended:
            if status < 0:
                return Fault(
                    "process_killed",
                    "Process {rank} of {size} was ended by signal {signal}; going on from the newest checkpoint.",
                    params={"rank": rank + 1, "size": self._size, "signal": -status},
                )
            if status != LOST:
                raise FustError(
                    "Process {rank} of {size} of the training failed (exit status {status}).",
                    hint="The run's log has its last words: fust jobs ID --log.",
                    rank=rank + 1,
                    size=self._size,
                    status=status,
                )
        if ended:
            return Fault(
                "processes_lost",
                "The processes of the training lost each other; going on from the newest checkpoint.",
            )
        return Fault(
            "process_silent",
            "Another of the {size} processes does not answer ({reason}); going on from the newest checkpoint.",
            params={"size": self._size, "reason": str(lost)[:200]},
        )

    def _part(self, parted: Parted) -> Fault:
        """Lets the copies part once."""
        marker = self._work / "parted"
        if marker.exists():
            raise FustError(
                "The processes' copies of {names} are no longer the same, for the second time.",
                hint="A processor or its memory computes wrongly; train in one process (--set processes=1).",
                code="copies_part",
                names=str(parted),
            )
        marker.touch()
        return Fault(
            "copies_part",
            "The processes' copies of {names} are no longer the same; going on from the newest checkpoint.",
            params={"names": str(parted)},
        )

    def end(self) -> None:
        """Has none of them left; those that are done leave by themselves."""
        self._team.leave()
        deadline = time.monotonic() + _FAREWELL_S
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # they leave when they hear nothing more
        for process in self._processes:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            if process.poll() is None:
                process.kill()
                process.poll()
            if process.stdout is not None:
                process.stdout.close()
        self._processes = []
        self._meeting.unlink(missing_ok=True)

    def _ended(self) -> list[tuple[int, int]]:
        """Returns (rank, status) of those that have ended, the killed ones first."""
        found = [(rank, process.poll()) for rank, process in enumerate(self._processes, 1)]
        return sorted(((rank, status) for rank, status in found if status is not None), key=lambda it: it[1])

    def _send(self, process: Process, what: Order | Measure | Follow) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is noticed where it is waited for
            process.stdin.write(msgspec.json.encode(what) + b"\n")
            process.stdin.flush()


def _start() -> Process:
    return subprocess.Popen(
        [sys.executable, "-m", "fust.tune.peer_main"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
