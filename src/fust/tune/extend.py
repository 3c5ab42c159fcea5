"""Going on with a run that has ended: for more steps, epochs or time, from its last checkpoint, to a new revision of its repo.

It is a run of its own, which names the one it extends. Steps are counted on, so which rows a step takes follows from
the same (seed, step). The learning rate, which had fallen, rises again to half of its first peak and falls to nothing
once more (Ibrahim et al. 2024, arXiv 2403.08763); that of a run that was stopped early goes on from where it was.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fust.accounts.rights import Identity
from fust.core.errors import Conflict, InvalidInput
from fust.jobs.models import RunRow, visible_params
from fust.jobs.service import Jobs
from fust.tune.asked import as_wish
from fust.tune.recipe import Extended, Planned, Reasoned, Recipe, Wish, within_tokens
from fust.tune.report import DataReport
from fust.tune.result import Decided

_MAY_CHANGE = {"extends", "budget", "steps", "epochs", "merge", "gguf", "dry_run"}
_AMOUNTS = {"budget", "steps", "epochs"}
_MOST_EPOCHS = 10.0


def is_extension(params: dict[str, Any]) -> bool:
    """Returns whether params ask for more of a run."""
    return bool(params.get("extends"))


def read_extension(jobs: Jobs, identity: Identity, params: dict[str, Any]) -> tuple[Wish, int]:
    """Returns the whole wish of an extension, that of the run before it and what is wished of this one; and its memory.

    Raises:
        NotFound: no such run that the caller may see.
        InvalidInput: something that cannot change is to change, or nothing is said of how much more.
        Conflict: the run has left nothing to go on from.

    """
    extra = sorted(params.keys() - _MAY_CHANGE - {"memory_bytes"})
    if extra:
        raise InvalidInput(
            "A run goes on with base, data and recipe as they were; {names} cannot change.",
            hint="Tune what it made with `fust tune REPO --data …` for a change.",
            names=", ".join(extra)[:200],
        )
    if not any(params.get(name) for name in _AMOUNTS):
        raise InvalidInput(
            "How much more is not said.",
            hint="Add --budget 30m, --set steps=100 or --set epochs=1.",
            code="no_amount",
        )
    row = _find_ended(jobs, identity, params["extends"])
    before = visible_params(row.params)
    memory_bytes = int(before["memory_bytes"])
    kept = {name: value for name, value in before.items() if name not in _MAY_CHANGE | {"memory_bytes"}}
    wished = {name: value for name, value in params.items() if name in _MAY_CHANGE}
    wish = as_wish(kept | wished)
    if wish.method == "pretrain":  # what it made is its own base: tokenizer and shape are there
        wish = msgspec.structs.replace(wish, revision=str((row.result or {})["revision"]))
    return wish, memory_bytes


def _find_ended(jobs: Jobs, identity: Identity, run_id: str) -> RunRow:
    row = jobs.get(identity, str(run_id))
    if row.kind != "tune" or row.state != "succeeded" or not (row.result or {}).get("repo_id"):
        raise Conflict(
            "The run {id} has nothing to go on from ({kind}, {state}).",
            hint="Tunings that have ended can be extended; one that was paused or failed goes on with `fust jobs {id} --resume`.",
            id=row.id,
            kind=row.kind,
            state=row.state,
        )
    if not any((jobs.folder(row.id).work / "checkpoints").glob("step-*/manifest.json")):
        raise Conflict(
            "The checkpoints of the run {id} are gone: they are kept for a time after its end.",
            hint="Tune what it made: fust tune {repo_id} --data …",
            id=row.id,
            repo_id=(row.result or {})["repo_id"],
        )
    return row


@dataclass(frozen=True, slots=True)
class Before:
    """The run that is extended: its folder, what it decided, and the step and revision with which it ended."""

    work: Path
    decided: Decided
    step: int

    @classmethod
    def read(cls, work: Path) -> Before:
        """Returns it from its folder; the last line of its log tells the step."""
        decided = msgspec.json.decode((work / "recipe.json").read_bytes(), type=Decided)
        steps = [
            path.name.removeprefix("step-")
            for path in (work / "checkpoints").glob("step-*")
            if not path.suffix
        ]
        return cls(work, decided, max(int(step) for step in steps))

    @property
    def key(self) -> str:
        """Returns the key of its checkpoints."""
        return key_of(self.decided.recipe)


def key_of(recipe: Recipe) -> str:
    """Returns the key that checkpoints of a recipe bear."""
    return hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()


def plan_extension(
    before: Before, wish: Wish, report: DataReport, packed_rows: int, versions: dict[str, str]
) -> Planned:
    """Returns the recipe with more steps, and how its learning rate goes on.

    Raises:
        InvalidInput: the rows are other ones than before.

    """
    old = before.decided.recipe
    if report.key != old.data_key:
        raise InvalidInput(
            "The rows of {data} come out otherwise than when the run {id} read them.",
            hint="Another version of Fust or of its libraries reads them. Tune what it made with `fust tune REPO --data …`.",
            data=old.data,
            id=wish.extends,
        )
    per_epoch = packed_rows / old.rows_per_step
    more = wish.steps or max(1, math.ceil(round(per_epoch * (wish.epochs or _MOST_EPOCHS), 6)))
    reasons = [it for it in before.decided.reasons if it.name not in ("learning_rate", "steps", "epochs")]
    more = within_tokens(wish, more, report.tokens / per_epoch, reasons)
    first_peak = old.extends.first_peak if old.extends else old.learning_rate
    now = old.rate(before.step)
    peak = max(now, first_peak / 2)
    said: dict[str, str | int | float] = {
        "now": f"{now:.2g}",
        "step": before.step,
        "peak": f"{first_peak:.2g}",
    }
    why = (
        Reasoned("learning_rate", f"{peak:.2g}", "It goes on from {now}, where it was at step {step}, and falls to nothing.", said)
        if peak == now
        else Reasoned(
            "learning_rate",
            f"{peak:.2g}",
            "At step {step} it was {now}: it rises to half of its first peak of {peak}, then falls to nothing.",
            said,
        )
    )  # fmt: skip
    recipe = msgspec.structs.replace(
        old,
        steps=before.step + more,
        warmup_steps=max(1, min(100, more // 20)),
        evaluate_every=max(1, more // 8),
        learning_rate=peak,
        versions=versions,
        extends=Extended(run=wish.extends, step=before.step, rate=now, first_peak=first_peak),
    )
    return Planned(recipe, [*reasons, why])


def take_over(before: Before, folder: Path, recipe: Recipe) -> None:
    """Puts the last checkpoint and the log of the run before into a new run's folder; done again it changes nothing.

    Raises:
        Conflict: no checkpoint of it is whole any more.

    """
    from fust.tune.checkpoints import adopt_checkpoint  # it brings torch

    if not adopt_checkpoint(before.work / "checkpoints", before.key, folder / "checkpoints", key_of(recipe)):
        raise Conflict(
            "No checkpoint of the run {id} is whole.", id=recipe.extends.run if recipe.extends else ""
        )
    log = folder / "log.jsonl"
    if not log.exists() or not log.stat().st_size:
        log.write_bytes((before.work / "log.jsonl").read_bytes())
