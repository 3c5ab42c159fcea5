"""Runs in two processes without a server, as a program: `python tune_team.py FOLDER steps|kills`.

It forks both processes from one that has torch, and prints what came of them as JSON: for `steps` the first step of one
process and of two, for `kills` the hash of the weights after one of them was killed at a listed point and the run went on.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec
import torch
from tests.support.tiny_bases import write_base, write_pairs
from tests.support.tune_bench import (
    DPO,
    SAVES,
    Quiet,
    after_tensors,
    at,
    half_manifest,
    half_written,
    half_written_meanwhile,
    make_bench,
    open_training,
    prepare_rows,
    recipe_with,
    sha256_of,
    warm,
)

from fust.tune import checkpoints, peer_main, tensor_file, train
from fust.tune.batches import Batches
from fust.tune.extend import key_of
from fust.tune.mover import Mover
from fust.tune.peers import Follow, Peers
from fust.tune.prepare import Prepared
from fust.tune.recipe import Recipe
from fust.tune.team import Team, TeamLost

PAIR = recipe_with(passes_per_step=4, processes=2)
PATIENCE_S = 4.0


class Forked:
    """A process as `Peers` wants it, forked: it has torch already."""

    def __init__(self, spoil: Callable[[], None]) -> None:
        orders, stdin = os.pipe()
        stdout, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(stdin)
            os.close(stdout)
            spoil()
            os._exit(peer_main.serve(os.fdopen(orders, "rb"), answers))
        os.close(orders)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


def nothing() -> None:
    """Spoils nothing."""


Spoil = Callable[[], None]


def lead(folder: Path, recipe: Recipe, run: str, mine: Spoil, others: Spoil, watcher: Quiet) -> str:
    """Trains as the first process of two; returns the hash of the weights."""
    work = folder / run
    work.mkdir(exist_ok=True)
    if not (work / "data").exists():
        (work / "data").symlink_to(folder / "data")
    with Peers(recipe, folder / "base", work, PATIENCE_S, lambda: Forked(others)) as peers:
        lead.peers = peers  # type: ignore[attr-defined]
        mine()
        try:
            training = open_training(folder, recipe, run, watcher, peers.meet)
            done = training.run(lambda name: peers.order(Follow(recipe, key_of(recipe), name)))
        except TeamLost as lost:
            why = peers.explain(lost)
            return why.template.format(**why.params)
        if not done.finished:
            return f"paused at step {done.steps}"
        assert done.steps == recipe.steps
        return sha256_of(training)


def in_fork(do: Callable[[], Any]) -> Any:
    """Returns what a fork of this process says; None when it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(do()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    assert os.waitstatus_to_exitcode(status) == 0
    return json.loads(said)


def attempt(
    folder: Path,
    recipe: Recipe,
    run: str,
    mine: Spoil = nothing,
    others: Spoil = nothing,
    stop_after: int | None = None,
) -> Any:
    def do() -> str:
        train.CHECKPOINT_EVERY_S, train.CHECKPOINT_SHARE = 0.0, math.inf
        return lead(folder, recipe, run, mine, others, Quiet(stop_after))

    return in_fork(do)


# Killing


def kill_peer() -> None:
    """Kills the other process while this one saves."""
    after_tensors(2 * SAVES + 2, lambda _: os.kill(lead.peers.pids[0], signal.SIGKILL))  # type: ignore[attr-defined]


def drift() -> None:
    """Has one bit of a weight differ from the third move on."""
    real, calls = Mover.move, 0

    def move(self: Mover, rate: float) -> float:
        nonlocal calls
        calls += 1
        norm = real(self, rate)
        if calls == 3:
            with torch.no_grad():
                self._parameters[0].view(torch.int32).flatten()[0] ^= 1
        return norm

    Mover.move = move  # type: ignore[method-assign]


def freeze() -> None:
    """Has the process stop, and not end, when it has computed its third step."""
    real, calls = Team.add_gradients, 0

    def add(self: Team, parameters: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        real(self, parameters)

    Team.add_gradients = add  # type: ignore[method-assign]


def break_loss() -> None:
    """Has the loss of the fifth pass be no number."""
    real, calls = train.Tuned.loss, 0

    def loss(self: train.Tuned, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(self, batch) * (float("nan") if calls == 5 else 1.0)

    train.Tuned.loss = loss  # type: ignore[method-assign]


FIRST: dict[str, Spoil] = {
    "in a pass": lambda: at(train.Tuned, "loss", 9),
    "before the gradients are added": lambda: at(Team, "add_gradients", 3),
    "when the weights have moved and nothing is noted": lambda: at(Mover, "move", 3, after=True),
    "when the weights are half written": lambda: half_written(2 * SAVES + 1),
    "when the optimizer is half written": lambda: half_written(2 * SAVES + 2),
    "when a file may not be on the disk yet": lambda: at(
        tensor_file._HashedFile, "close_synced", 2 * SAVES + 2
    ),
    "in a pass of the next step, when the weights are half written": lambda: half_written_meanwhile("_learn"),
    "when the manifest is half written": half_manifest,
    "before the folder is renamed": lambda: at(checkpoints, "_put", SAVES + 1),
    "when the folder is renamed": lambda: at(checkpoints, "_put", SAVES + 1, after=True),
    "after the last step": lambda: at(train.Training, "_ended", 1),
}
"""Where the first process, which is the run's own, is killed."""
SECOND: dict[str, Spoil] = {
    "while it loads the model": lambda: at(train.Tuned, "_add_adapter", 1),
    "in a pass": lambda: at(train.Tuned, "loss", 5),
    "when the gradients are added": lambda: at(Team, "add_gradients", 3, after=True),
    "when its weights have moved": lambda: at(Mover, "move", 3, after=True),
    "when the copies are compared": lambda: at(Team, "check_same", 4),
    "when it stops and does not end": freeze,
    "when its weights are other ones": drift,
}
"""Where the second is killed, or worse."""


def kills(folder: Path) -> dict[str, Any]:
    """Returns for each point what the disturbed attempt said, and the hash of what the next one came to."""
    make_bench(folder)
    found: dict[str, Any] = {"undisturbed": attempt(folder, PAIR, "calm")}
    cases: list[tuple[str, Spoil, Spoil]] = [
        *((f"first {name}", spoil, nothing) for name, spoil in FIRST.items()),
        *((f"second {name}", nothing, spoil) for name, spoil in SECOND.items()),
        ("second while the first one saves", kill_peer, nothing),
    ]
    for number, (name, mine, others) in enumerate(cases):
        said = attempt(folder, PAIR, f"run{number}", mine, others)
        found[name] = [said, attempt(folder, PAIR, f"run{number}")]
    paused = attempt(folder, PAIR, "paused", stop_after=2)
    found["both are paused"] = [paused, attempt(folder, PAIR, "paused")]
    return found


# First steps


def first_steps(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Returns losses, tokens and the first gradient of one process and of two, and what each of the two learns at first."""

    def do(processes: int) -> dict[str, Any]:
        kept: list[torch.Tensor] = []
        real = Mover.move

        def move(self: Mover, rate: float) -> float:
            if not kept:
                kept.extend(p.grad.clone().flatten() for p in self._parameters if p.grad is not None)
            return real(self, rate)

        Mover.move = move  # type: ignore[method-assign]
        one = msgspec.structs.replace(recipe, processes=processes)
        watcher = Quiet()
        if processes == 1:
            open_training(folder, one, "one", watcher).run()
        else:
            lead(folder, one, "two", nothing, nothing, watcher)
        points = watcher.points
        return {
            "losses": [point.loss for point in points],
            "margins": [point.reward_margin for point in points],
            "held_out": [point.held_out_loss for point in points],
            "tokens": points[-1].tokens,
            "gradient": torch.cat(kept).tolist(),
        }

    batches = list(Batches(Prepared.open(folder / "data"), recipe.row_tokens).of_step(recipe, 0))
    learned = [sum(batch.learned for batch in batches[rank::2]) for rank in (0, 1)]
    return {"1": in_fork(lambda: do(1)), "2": in_fork(lambda: do(2)), "learned": learned}


def broken(folder: Path) -> list[Any]:
    """Returns what a run says in whose second process the loss breaks once, and the steps that it did."""

    def do() -> list[Any]:
        lead(folder, PAIR, "broken", nothing, break_loss, watcher := Quiet())
        return [watcher.said, [point.step for point in watcher.points]]

    return in_fork(do)


def steps(folder: Path) -> dict[str, Any]:
    rows, pairs = make_bench(folder / "rows"), folder / "pairs"
    write_base(pairs / "base")
    prepare_rows(pairs, write_pairs(pairs / "rows.jsonl"), pairs=True, held_out_share=0.2)
    uneven = recipe_with(
        passes_per_step=3
    )  # one process has twice as many passes as the other, and other tokens
    return {
        "broken": broken(rows),
        "lora": first_steps(rows, uneven),
        "full": first_steps(rows, recipe_with(method="full", passes_per_step=2, steps=3)),
        "dpo": first_steps(pairs, msgspec.structs.replace(DPO, rows_per_pass=1, passes_per_step=2)),
    }


def main() -> None:
    warm(Path(sys.argv[1]) / "warm")
    print(json.dumps({"steps": steps, "kills": kills}[sys.argv[2]](Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
