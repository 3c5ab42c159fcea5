"""From rows to weights: the whole loop on one page.

    tuned = Tuned(recipe, folder)                   the base, and the adapter on it (`fust.tune.model`)
    for step in range(steps):
        for batch in batches.of_step(step):         a pure function of (seed, step)
            loss of the learned tokens, backward
        clip, move, now and then evaluate and save

What makes it quick on a CPU: bf16 where the processor has instructions for it, samples packed into rows without
padding, the output matrix applied to learned tokens only, functions of our own where the time goes
(`fust.tune.products`, `quick` and `kernels`), and a malloc that keeps its pages. What makes it exact: the
rows and all random numbers of a step follow from the seed and the step's number, so a run that goes on from a
checkpoint does what it would have done. Several processes share the passes of a step (`fust.tune.team`); the same loop
runs in each, and the first one evaluates, saves and says.
"""

# torch, transformers and peft type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from fust.core.errors import StorageFull
from fust.tune.batches import Batch, Batches
from fust.tune.checkpoints import (
    Checkpoint,
    State,
    checkpoint_path,
    find_checkpoint,
)
from fust.tune.health import Diverged, check_numbers, is_diverging, note_loss, say_when_stuck
from fust.tune.model import Tuned
from fust.tune.mover import Mover
from fust.tune.preference import Preference, Reference
from fust.tune.progress import Point, Trained, Watcher
from fust.tune.recipe import Recipe
from fust.tune.saver import Saver
from fust.tune.scratch import give_holes_back
from fust.tune.team import Team

if TYPE_CHECKING:
    from fust.tune.samples import Sampler

CHECKPOINT_EVERY_S = 60.0
CHECKPOINT_SHARE = 0.03
"""Of the time that checkpoints may take: where one takes long, as of a large model on a slow disk, they come less often."""
_MEASURE_S = 1.5


@dataclass(slots=True)
class _Begun:
    """A step of which so many passes are done: what they came to. Their gradients lie with the weights."""

    step: int
    done: int = 0
    loss: float = 0.0
    gained: float = 0.0
    won: float = 0.0
    took_s: float = 0.0


class Training:
    """One run, from its newest checkpoint or from the start."""

    def __init__(
        self,
        tuned: Tuned,
        recipe: Recipe,
        recipe_key: str,
        batches: Batches,
        folder: Path,
        watcher: Watcher,
        sampler: Sampler | None = None,
        team: Team | None = None,
    ) -> None:
        self.tuned = tuned
        self._recipe = recipe
        self._key = recipe_key
        self._batches = batches
        self._folder = folder
        self._watcher = watcher
        self._sampler = sampler
        self._team = team or Team()
        self._mover = Mover(tuned.trained, recipe)
        self._preference: Preference | None = None
        self._begun: _Begun | None = None
        self.state = State()
        self._saver = Saver(folder)
        self._saved_at = time.monotonic()
        self._save_s = 0.0

    def run(self, begin: Callable[[str], None] = lambda _: None) -> Trained:
        """Trains to the end, or until the watcher wants to stop.

        Args:
            begin: called before the first step with the name of the checkpoint that it follows; empty: there is none.

        Raises:
            Diverged: the loss broke a second time.
            TeamLost: another process of the run has ended.

        """
        if self._recipe.method == "dpo" and not self._refer():
            return self._ended(finished=False)
        try:
            begin(self._resume())
            return self._train()
        finally:
            self._saver.finish()

    def follow(self, checkpoint: str) -> None:
        """Trains as one of several processes, from where the first one begins; nothing is written."""
        if self._recipe.method == "dpo":
            self._refer()  # whole by now, so it is only read
        if checkpoint:
            self._load(Checkpoint.at(self._folder / checkpoint))
        self._train()

    def _train(self) -> Trained:
        team = self._team
        team.check_same(self.tuned.weights())
        while self.state.step < self._recipe.steps:
            if team.agree(self._watcher.wants_to_stop()):
                self._save()
                return self._ended(finished=False)
            began = time.monotonic() - (self._begun.took_s if self._begun else 0.0)
            point = self._step(self.state.step)
            if point is None:
                self._roll_back()
                continue
            self._note(point, time.monotonic() - began)
            if team.agree(self._is_due()):
                self._save()
        self._save()
        return self._ended(finished=True)

    def conclude(self) -> Trained:
        """Returns how a run ended that was stopped early: its newest weights are evaluated and asked once more."""
        self.state.held_out_loss, self.state.held_out_accuracy = self._evaluate()
        self._show(self.state.step, always=True)
        return self._ended(finished=True)

    # A step

    def _passes(self, step: int) -> tuple[list[Batch], int]:
        """Returns the passes of a step, and what they weigh together."""
        batches = list(self._batches.of_step(self._recipe, step))
        return batches, sum(self._weight(batch) for batch in batches)

    def _learn(self, begun: _Begun, number: int, batch: Batch, weight: int) -> None:
        """Adds the gradients of a pass to those of its step."""
        torch.manual_seed(((self._recipe.seed * 1_000_003 + begun.step) * 1009 + number) % 2**63)
        loss, margins = self._loss(batch)
        (loss / weight).backward()  # pyright: ignore[reportUnknownMemberType]
        begun.done += 1
        begun.loss += loss.item()
        begun.gained += sum(margins)
        begun.won += _won(margins)

    def _step(self, step: int) -> Point | None:
        """Does one step; None when the loss broke, and then nothing has moved."""
        batches, weight = self._passes(step)
        begun, self._begun = self._begun or _Begun(step), None
        for number, batch in self._team.share_of(batches)[begun.done :]:
            self._learn(begun, number, batch, weight)
        total, gained, won = self._team.add([begun.loss, begun.gained, begun.won])
        mean = total / weight
        if not math.isfinite(mean) or is_diverging(self.state, self._recipe, mean):
            self._mover.forget()
            return None
        rate = self._mover.rate(step, self.state.rate_scale)
        self._team.add_gradients(self.tuned.trained.values())
        self._saved()
        norm = self._mover.move(rate)
        if not math.isfinite(norm):
            return None
        tokens = sum(batch.tokens for batch in batches)
        self.state.tokens += tokens
        self.state.learned_tokens += sum(batch.learned for batch in batches)
        point = Point(step + 1, mean, rate, norm, tokens, self.state.tokens)
        if self._preference is None:
            return point
        return msgspec.structs.replace(point, reward_margin=gained / weight, reward_accuracy=won / weight)

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, list[float]]:
        """Returns the loss summed over what counts, and of pairs their margins."""
        if self._preference is None:
            return self.tuned.loss(batch), []
        judged = self._preference.judge(self.tuned, batch)
        return judged.loss, judged.margins.tolist()

    def _weight(self, batch: Batch) -> int:
        """Returns what the loss is a mean over: the learned tokens, or the pairs."""
        return batch.learned if self._preference is None else len(batch.samples) // 2

    def _refer(self) -> bool:
        """Has the reference ready; to be called while the weights are those of the start. False: asked to stop."""
        watcher = self._watcher

        def go_on(done: int, total: int) -> bool:
            watcher.tell(done, total, "Asking the base about both answers")
            return not watcher.wants_to_stop()

        self.tuned.model.eval()
        reference = Reference(self._folder.parent / "reference.jsonl", self._key)
        found = reference.compute(self.tuned, self._batches, self._recipe.rows_per_pass, go_on)
        self.tuned.model.train()
        if found is not None:
            self._preference = Preference(self._recipe.beta, found)
        return found is not None

    # Behind a step

    def _note(self, point: Point, took_s: float) -> None:
        state, recipe = self.state, self._recipe
        state.spent_s += took_s
        note_loss(state, point)
        say_when_stuck(state, recipe, self._watcher)
        held_out = won = None
        if point.step % recipe.evaluate_every == 0 or point.step == recipe.steps:
            held_out, won = self._evaluate()
            state.held_out_loss, state.held_out_accuracy = held_out, won
        speed = point.tokens_per_s / max(took_s, 1e-9)
        known = msgspec.structs.replace(
            point, tokens_per_s=speed, held_out_loss=held_out, held_out_accuracy=won
        )
        self._watcher.point(known, recipe.steps)
        if point.step == 1 and recipe.is_adapter:  # nobody had to wait for it before the first step
            with self.tuned.as_base():
                self._look_first()
        if point.step % recipe.evaluate_every == 0 or point.step == recipe.steps:
            self._show(point.step, always=point.step == recipe.steps)

    def _look_first(self) -> None:
        """Evaluates and asks what has learned nothing."""
        state = self.state
        state.first_held_out_loss, won = self._evaluate()
        if state.held_out_loss is None:
            state.held_out_loss, state.held_out_accuracy = state.first_held_out_loss, won
        self._show(0, always=True)

    def _show(self, step: int, *, always: bool) -> None:
        """Shows what the model writes, unless that took too much of the time already and need not be."""
        if self._sampler and (items := self._sampler.take(always=always)):
            self._watcher.sampled(step, items)

    def _roll_back(self) -> None:
        """Goes back to the newest checkpoint with half the learning rate, once."""
        broke_at = self.state.step + 1
        if self.state.rolled_back_at:
            raise Diverged(
                "The loss broke at step {step}, and again after half the learning rate from the checkpoint before it.",
                hint="Lower the learning rate (--set learning_rate=…), or look at the rows with --dry-run.",
                step=broke_at,
            )
        self._saved()
        found = find_checkpoint(self._folder, self._key)[0] if self._team.leads else None
        back = self._team.tell(-1 if found is None else found.state.step)
        if back < 0:
            raise Diverged(
                "The loss broke at step {step}, and there is no checkpoint to go back to.", step=broke_at
            )
        self._load(found or Checkpoint.at(checkpoint_path(self._folder, back)))
        self.state.rate_scale *= 0.5
        self.state.rolled_back_at = broke_at
        self._watcher.say(
            "The loss broke at step {step}; going on from step {back} with half the learning rate.",
            step=broke_at,
            back=self.state.step,
        )
        self._save()

    @torch.no_grad()
    def _evaluate(self) -> tuple[float | None, float | None]:
        """Returns the held-out loss, None when nothing is held out; and of pairs the share that is judged right.

        Only the first process looks.
        """
        give_holes_back()
        if not self._team.leads:
            return None, None
        total, weight = 0.0, 0
        margins: list[float] = []
        self.tuned.model.eval()
        for batch in self._batches.of_held_out(self._recipe.rows_per_pass):
            loss, of_batch = self._loss(batch)
            total += loss.item()
            weight += self._weight(batch)
            margins += of_batch
        self.tuned.model.train()
        return (total / weight if weight else None), (_won(margins) / len(margins) if margins else None)

    def _ended(self, *, finished: bool) -> Trained:
        self._saved()
        state = self.state
        return Trained(
            state.step,
            state.tokens,
            state.learned_tokens,
            state.spent_s,
            state.mean_loss,
            state.held_out_loss,
            state.first_held_out_loss,
            finished,
            state.held_out_accuracy,
        )

    # Checkpoints

    def _save(self) -> None:
        """Saves what is the same in all processes."""
        self._team.check_same(self.tuned.weights() | self._mover.state())
        if self._team.leads:
            self._write()

    def _is_due(self) -> bool:
        since_s = time.monotonic() - self._saved_at
        return since_s >= max(CHECKPOINT_EVERY_S, self._save_s / CHECKPOINT_SHARE)

    def _write(self) -> None:
        """Begins to write a checkpoint, which goes on while the next step's passes do."""
        self._saved()
        self._saver.begin(self._key, self.tuned.weights(), self._mover.state(), self.state)
        self._saved_at = time.monotonic()

    def _saved(self) -> None:
        """Waits for the checkpoint that is being written; a full disk costs the checkpoint and not the run."""
        try:
            saved = self._saver.wait()
        except StorageFull:
            self._watcher.say(
                "The disk is full: no checkpoint at step {step}. Training goes on.", step=self._saver.step
            )
        else:
            if saved is not None:
                self._save_s = saved
                self._watcher.say("Checkpoint at step {step}.", step=self._saver.step)

    def _resume(self) -> str:
        """Takes up the newest checkpoint, whose name it returns; or makes that of the start."""
        found, damaged = find_checkpoint(self._folder, self._key)
        for name in damaged:
            self._watcher.say("Checkpoint {name} is damaged; using the one before it.", name=name)
        if found is not None:
            self._load(found)
            self._watcher.say("Going on from step {step}.", step=self.state.step)
            return found.path.name
        if not self._recipe.is_adapter:
            self._look_first()
        self._write()  # where a loss that breaks early goes back to
        return ""

    def _load(self, found: Checkpoint) -> None:
        self.tuned.load(found.weights())
        self._mover.load(found.optimizer())
        self._mover.forget()
        self._begun = None
        self.state = found.state

    # Measuring, before a run

    def measure(self) -> float:
        """Returns seconds for one step, from passes of the first one; nothing is moved by it.

        All memory that training takes has been taken once after it. What an adapter learns of the passes is kept, and the
        first step goes on behind them; of whole weights a copy of the gradients would be as large as the model.
        """
        if self._recipe.method == "dpo":  # any reference will do
            self._preference = Preference(self._recipe.beta, torch.zeros(self._batches.count))
        took: list[float] = []
        begun = _Begun(0)
        # From the second step on there are moments while passes are computed; until then others stand for them.
        moments = [torch.ones_like(p) for p in self.tuned.trained.values() for _ in range(2)]
        batches, weight = self._passes(0)
        mine = self._team.share_of(batches)
        for number, batch in mine:
            began = time.monotonic()
            self._learn(begun, number, batch, weight)
            took.append(time.monotonic() - began)
            if len(took) >= 3 and sum(took) > _MEASURE_S:
                break
        check_numbers(begun.loss, self._recipe.base)
        turns = self._recipe.turns_per_step
        if turns < 3:
            # The first pass also fills caches and takes memory from the system, and so does the first move.
            moments.clear()
            self._move_nowhere()
            began = time.monotonic()
            for number, batch in mine:
                self._learn(begun, number, batch, weight)
            return time.monotonic() - began + self._move_nowhere()
        trained = self.tuned.trained.values()
        keeps = self._recipe.is_adapter and self._preference is None
        kept = [None if p.grad is None else p.grad.clone() for p in trained] if keeps else []
        moments.clear()
        moved_s = self._move_nowhere()
        if keeps:
            begun.took_s = sum(took)
            self._begun = begun
            for parameter, gradient in zip(trained, kept, strict=True):
                parameter.grad = gradient
        return sorted(took[1:])[len(took[1:]) // 2] * turns + moved_s

    def settle(self, recipe: Recipe, recipe_key: str) -> None:
        """Takes the recipe that was decided by the measuring: it differs in how many steps there are, and how large.

        Passes of a step of another size are forgotten: what they have learned is a share of that one.
        """
        if recipe.passes_per_step != self._recipe.passes_per_step:
            self._begun = None
            self._mover.forget()
        self._recipe, self._key = recipe, recipe_key
        self._mover = Mover(self.tuned.trained, recipe)

    def _move_nowhere(self) -> float:
        """Returns the seconds of a move with a rate of 0, by the gradients of all processes."""
        self._team.agree(True)  # all have come so far
        began = time.monotonic()
        self._team.add_gradients(self.tuned.trained.values())
        self._mover.move(0.0)
        self._mover.load({})
        return time.monotonic() - began


def _won(margins: list[float]) -> float:
    """Returns how many of the pairs favour the better answer; a draw, as at the start, counts as half."""
    return sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins)
