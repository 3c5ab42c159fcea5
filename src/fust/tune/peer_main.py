"""The process of a peer: loads what the first process of its run has loaded, and then does as that one says.

`python -m fust.tune.peer_main` reads one JSON line (`Order`), says `ready`, then one line for each thing to do. It writes
nothing but to its standard error, which is the run's log, and ends with its parent.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import msgspec

from fust.core.children import die_with_parent
from fust.core.errors import FustError
from fust.tune.batches import Batches
from fust.tune.estimate import memory_taken
from fust.tune.model import Tuned
from fust.tune.peers import LOST, READY, Follow, Measure, Order
from fust.tune.prepare import Prepared
from fust.tune.progress import Point
from fust.tune.set_up import keep_malloc_pages, set_up_torch
from fust.tune.team import Team, TeamLost
from fust.tune.train import Training

log = logging.getLogger(__name__)


class _Silent:
    """A watcher whom nobody hears: the first process says everything."""

    def point(self, point: Point, steps: int) -> None:
        pass

    def sampled(self, step: int, items: list[dict[str, str]]) -> None:
        pass

    def tell(self, done: int, total: int, template: str, /, **params: object) -> None:
        pass

    def say(self, template: str, /, **params: object) -> None:
        pass

    def wants_to_stop(self) -> bool:
        return False


def serve(orders: BinaryIO, answers: int) -> int:
    """Does what comes in until it ends; returns the exit status."""
    order = msgspec.json.decode(orders.readline(), type=Order)
    die_with_parent(order.parent_pid)
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # the whole group gets it, and the first process hears it for all
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(orders, lines), daemon=True).start()
    keep_malloc_pages()
    set_up_torch(order.recipe)
    work = Path(order.work)
    batches = Batches(Prepared.open(work / "data"), order.recipe.row_tokens)
    tuned = Tuned(order.recipe, Path(order.base))
    os.write(answers, READY)
    try:
        team = Team.meet(Path(order.meeting), order.rank, order.recipe.processes, order.patience_s)
        training = Training(tuned, order.recipe, "", batches, work / "checkpoints", _Silent(), team=team)
        while True:
            what = msgspec.json.decode(lines.get(), type=Measure | Follow)
            if isinstance(what, Measure):
                training.measure()
                team.add([float(memory_taken())])
                continue
            training.settle(what.recipe, what.recipe_key)
            training.follow(what.checkpoint)
            team.leave()
            return 0
    except TeamLost as lost:
        log.warning("lost the other processes", extra={"reason": str(lost)})
        return LOST
    except FustError:
        return 0  # the first process has met the same, and says it


def _read(orders: BinaryIO, lines: queue.SimpleQueue[bytes]) -> None:
    """Hands lines on; when there are no more, the parent is gone or wants nothing else."""
    for line in orders:
        lines.put(line)
    os._exit(0)


def main() -> None:
    """Is the program."""
    answers = os.dup(1)
    os.dup2(2, 1)  # libraries print on standard output now and then; that channel carries one word only
    status = serve(sys.stdin.buffer, answers)
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
