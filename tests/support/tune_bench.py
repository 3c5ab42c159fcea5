"""A small tuning run without a server: base, rows, recipe, and a watcher that only remembers.

As a program (`python tune_bench.py FOLDER`) it kills runs at listed points with SIGKILL, lets each go on, and prints what
the weights hash to: one process that loads torch once and forks for every attempt.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec
import torch
from safetensors.torch import save as serialise
from tests.support.tiny_bases import CHATML, make_tokenizer, write_base, write_pairs, write_rows

from fust.tune import checkpoints, preference, tensor_file, train
from fust.tune.batches import Batches
from fust.tune.extend import key_of
from fust.tune.files import DataFile
from fust.tune.masks import Masker
from fust.tune.model import Tuned
from fust.tune.prepare import DataWish, Prepared, prepare
from fust.tune.progress import Point
from fust.tune.recipe import Recipe
from fust.tune.set_up import set_up_torch
from fust.tune.team import Team
from fust.tune.train import Training

RECIPE = Recipe(
    method="lora", base="me/base", base_revision="", data="me/rows", data_revision="", data_key="", seed=7, precision="fp32",
    threads=1, row_tokens=128, rows_per_pass=1, passes_per_step=2, steps=6, warmup_steps=2, learning_rate=5e-3, weight_decay=0.0,
    betas=(0.9, 0.999), clip_norm=1.0, lora_rank=4, lora_alpha=8, beta=0.0, checkpointing=False, evaluate_every=3, versions={},
)  # fmt: skip


class Quiet:
    """A watcher that remembers."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.points: list[Point] = []
        self.said: list[str] = []
        self.told: list[tuple[int, int]] = []
        self._stop_after = stop_after

    def point(self, point: Point, steps: int) -> None:
        self.points.append(point)

    def tell(self, done: int, total: int, template: str, /, **params: object) -> None:
        self.told.append((done, total))

    def say(self, template: str, /, **params: object) -> None:
        self.said.append(template.format(**params))

    def wants_to_stop(self) -> bool:
        return self._stop_after is not None and len(self.points) >= self._stop_after


def recipe_with(**changes: Any) -> Recipe:
    if changes.get("method") in ("full", "continue"):
        changes = {"lora_rank": 0} | changes
    return msgspec.structs.replace(RECIPE, **changes)


def prepare_rows(
    folder: Path, rows: Path, *, template: Any = CHATML, extra: Any = (), **wish: Any
) -> Prepared:
    tokenizer = make_tokenizer(template, extra=extra)
    fields = {"max_tokens": 128, "held_out_share": 0.1} | wish
    return prepare([DataFile(rows.name, rows)], Masker(tokenizer), DataWish(**fields), folder / "data")  # type: ignore[arg-type]


def make_bench(folder: Path, **base: Any) -> Path:
    """Fills a folder with a base and prepared rows."""
    write_base(folder / "base", **base)
    prepare_rows(folder, write_rows(folder / "rows.jsonl"))
    return folder


def open_training(
    folder: Path,
    recipe: Recipe,
    run: str = "run",
    watcher: Quiet | None = None,
    meet: Callable[[], Team] = Team,
) -> Training:
    set_up_torch(recipe)
    batches = Batches(Prepared.open(folder / "data"), recipe.row_tokens)
    tuned = Tuned(recipe, folder / "base")
    return Training(
        tuned, recipe, key_of(recipe), batches, folder / run / "checkpoints", watcher or Quiet(), team=meet()
    )


def sha256_of(training: Training) -> str:
    return hashlib.sha256(
        serialise({k: v.contiguous() for k, v in training.tuned.weights().items()})
    ).hexdigest()


# Killing


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at(owner: Any, name: str, call: int, *, after: bool = False) -> None:
    """Has the ``call``-th call of a function end the process: before it begins, or when it has ended."""
    real = getattr(owner, name)
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            die()
        result = real(*arguments, **named)
        if calls == call and after:
            die()
        return result

    setattr(owner, name, counted)


def half_written(call: int) -> None:
    """Has the process end when the ``call``-th file of tensors is half on the disk."""

    def half(path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)
        die()

    after_tensors(call, half)


def after_tensors(call: int, then: Callable[[Path], None]) -> None:
    """Has something happen when the ``call``-th file of tensors is written."""
    real, calls = checkpoints.write_tensors, 0

    def write(path: Path, tensors: Any) -> tuple[int, str]:
        nonlocal calls
        calls += 1
        found = real(path, tensors)
        if calls == call:
            then(path)
        return found

    checkpoints.write_tensors = write


def half_written_meanwhile(name: str) -> None:
    """Has the process end in the next step's ``name``, a function of the training, while the weights are half written."""
    is_half = threading.Event()
    real = getattr(train.Training, name)

    def half(path: Path) -> None:
        os.truncate(path, path.stat().st_size // 2)
        is_half.set()
        threading.Event().wait()

    def meanwhile(training: train.Training, *arguments: Any) -> Any:
        if training._saver.step == training.state.step == SAVES:
            is_half.wait()
            die()
        return real(training, *arguments)

    after_tensors(2 * SAVES + 1, half)
    setattr(train.Training, name, meanwhile)


def half_manifest() -> None:
    real = checkpoints._write

    def write(path: Path, said: Any) -> Any:
        found = real(path, said)
        if path.name == "manifest.json" and "00000003" in str(path):
            os.truncate(path, path.stat().st_size // 2)
            die()
        return found

    checkpoints._write = write


SAVES = 3
"""Checkpoint at step 0 is the first save, so the save of step 3 is the fourth, and so on; two tensor files in each."""
POINTS: dict[str, Callable[[], None]] = {
    "before the model is loaded": lambda: at(Tuned, "_add_adapter", 1),
    "before the first evaluation": lambda: at(train.Training, "_evaluate", 1),
    "in the first save, before anything is written": lambda: at(checkpoints, "write_tensors", 1),
    "before the first step": lambda: at(train.Training, "_step", 1),
    "in the forward pass": lambda: at(Tuned, "_head_loss", 7),
    "between two passes of a step": lambda: at(Tuned, "loss", 8, after=True),
    "before the weights move": lambda: at(train.Mover, "move", 3),
    "when the weights have moved and nothing is noted": lambda: at(train.Mover, "move", 3, after=True),
    "in a later evaluation": lambda: at(train.Training, "_evaluate", 2),
    "when a step is noted and not saved": lambda: at(train.Training, "_note", 4, after=True),
    "when the weights are half written": lambda: half_written(2 * SAVES + 1),
    "when the optimizer is half written": lambda: half_written(2 * SAVES + 2),
    "when the tensors are written and not the state": lambda: at(
        checkpoints, "write_tensors", 2 * SAVES + 2, after=True
    ),
    "when a block is hashed and not written": lambda: at(tensor_file.os, "write", 2 * SAVES + 1),
    "when a file may not be on the disk yet": lambda: at(
        tensor_file._HashedFile, "close_synced", 2 * SAVES + 2
    ),
    "when all is hashed and there is no manifest": lambda: at(
        checkpoints, "_write", 2 * SAVES + 1, after=True
    ),
    "in a pass of the next step, when the weights are half written": lambda: half_written_meanwhile("_learn"),
    "when the next step waits, and the weights are half written": lambda: half_written_meanwhile("_saved"),
    "when the manifest is half written": half_manifest,
    "before the folder is renamed": lambda: at(checkpoints, "_put", SAVES + 1),
    "when the folder is renamed": lambda: at(checkpoints, "_put", SAVES + 1, after=True),
    "before old checkpoints are removed": lambda: at(checkpoints, "_folders", SAVES + 1, after=True),
    "while an old checkpoint is removed": lambda: at(checkpoints.shutil, "rmtree", 2 * SAVES, after=True),
    "after the last step": lambda: at(train.Training, "_ended", 1),
}
SAVE_POINTS = {
    point
    for point in POINTS
    if point.startswith(
        ("in the first save", "when the weights are half", "when the optimizer", "when the tensors are")
    )
    or any(
        word in point
        for word in ("a block is hashed", "a file may not", "manifest", "folder is renamed", "old checkpoint")
    )
}
"""Those within a save: between its first byte and the removal of what it replaces."""


def half_line() -> None:
    """Has the process end when the third pass of the reference is half on the disk."""
    real, calls = preference.log_probabilities, 0
    open_file = preference.Reference.__init__

    def remember(self: Any, path: Path, key: str) -> None:
        open_file(self, path, key)
        half_line.path = path  # type: ignore[attr-defined]

    def counted(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            with half_line.path.open("ab") as file:  # type: ignore[attr-defined]
                file.write(b'{"samples":[4,5,6,7],"log')
            die()
        return real(model, batch)

    preference.Reference.__init__ = remember  # type: ignore[method-assign]
    preference.log_probabilities = counted


DPO = recipe_with(method="dpo", beta=0.1, rows_per_pass=2, passes_per_step=1)
DPO_POINTS: dict[str, Callable[[], None]] = {
    "in the reference, before a pass": lambda: at(preference, "log_probabilities", 2),
    "in the reference, when a line is half written": half_line,
    "when the reference is whole and nothing else is": lambda: at(train.Training, "_resume", 1),
    "between a pair's loss and the move": lambda: at(train.Mover, "move", 3),
    "when the weights are half written": lambda: half_written(2 * SAVES + 1),
    "when the manifest is half written": half_manifest,
    "before the folder is renamed": lambda: at(checkpoints, "_put", SAVES + 1),
}
"""Of preferences: what they have besides, and saves again."""


def attempt(folder: Path, recipe: Recipe, run: str, kill: Callable[[], None] | None) -> str | None:
    """Runs in a fork; returns the hash of the weights, or None when the process was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        train.CHECKPOINT_EVERY_S, train.CHECKPOINT_SHARE = 0.0, math.inf
        if kill is not None:
            kill()
        training = open_training(folder, recipe, run)
        done = training.run()
        os.write(write, json.dumps([done.steps, sha256_of(training)]).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    said = os.read(read, 1000)
    os.close(read)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.waitstatus_to_exitcode(status) == 0
    steps, digest = json.loads(said)
    assert steps == recipe.steps
    return digest


def disturb(folder: Path, recipe: Recipe, points: dict[str, Callable[[], None]]) -> dict[str, Any]:
    """Kills a run at each point and lets it go on; returns whether it was killed, and the hash of what came of it."""
    found: dict[str, Any] = {"undisturbed": attempt(folder, recipe, "undisturbed", None)}
    for number, (point, kill) in enumerate(points.items()):
        killed = attempt(folder, recipe, f"run{number}", kill) is None
        found[point] = [killed, attempt(folder, recipe, f"run{number}", None)]
    return found


def warm(folder: Path) -> None:
    """Imports what a run imports, once for all forks: it takes each of them longer than the run."""
    torch.set_num_threads(1)
    open_training(make_bench(folder), RECIPE)


def main() -> None:
    folder = Path(sys.argv[1])
    warm(folder / "warm")
    pairs = folder / "pairs"
    write_base(pairs / "base")
    prepare_rows(pairs, write_pairs(pairs / "rows.jsonl"), pairs=True, held_out_share=0.2)
    found = [disturb(make_bench(folder), RECIPE, POINTS), disturb(pairs, DPO, DPO_POINTS)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
