"""Whether a run goes well, by its losses: what breaks, and what does not fall."""

from __future__ import annotations

import math
from collections.abc import Callable

from fust.core.errors import FustError, InvalidInput
from fust.tune.checkpoints import State
from fust.tune.progress import Point, Trained, Watcher
from fust.tune.recipe import Recipe

_EARLY_STEPS = 10
_STUCK_AFTER = 50
"""Steps, at least, after which a loss that has not fallen is spoken of; else a quarter of all."""


class Diverged(FustError):
    """The loss broke twice."""

    status = 500
    code = "diverged"


def check_numbers(loss: float, repo_id: str) -> None:
    """Raises InvalidInput when the first passes of a base came to no number: then no step can be done."""
    if not math.isfinite(loss):
        raise InvalidInput(
            "{repo_id} answers with no numbers (its loss is {loss}).",
            hint="Its weights hold NaN or are damaged: push it again. In bf16 alone, --set precision=fp32 may help.",
            repo_id=repo_id or "the base",
            loss=f"{loss}",
        )


def note_loss(state: State, point: Point) -> None:
    """Takes a step's loss into the averages."""
    state.step = point.step
    if point.step == 1:
        state.first_loss = point.loss
    state.mean_loss = point.loss if point.step == 1 else 0.9 * state.mean_loss + 0.1 * point.loss
    state.best_loss = state.mean_loss if point.step == 1 else min(state.best_loss, state.mean_loss)
    if point.step == _EARLY_STEPS:
        state.early_loss = state.mean_loss


def is_diverging(state: State, recipe: Recipe, loss: float) -> bool:
    """Returns whether the loss is far above the best that it was, beyond what one odd batch does."""
    if state.step < max(20, recipe.warmup_steps):
        return False
    return 0.9 * state.mean_loss + 0.1 * loss > 1.5 * state.best_loss + 0.5


def say_when_stuck(state: State, recipe: Recipe, watcher: Watcher) -> None:
    """Says once that the loss does not fall; too high a rate leaves it above where it began, for that breaks the weights."""
    if state.step != max(_STUCK_AFTER, recipe.steps // 4) or not state.early_loss:
        return
    now = f"{state.mean_loss:.4f}"
    if _has_risen(state):
        watcher.say(
            "The loss is above where it began: {first} at the first step, {now} after {step}. Lower the learning rate "
            "(--set learning_rate=…).",
            first=f"{state.first_loss:.4f}",
            now=now,
            step=state.step,
        )
    elif state.mean_loss > 0.99 * state.early_loss:
        watcher.say(
            "The loss does not fall: {early} after {steps} steps, {now} after {step}. Raise the learning rate "
            "(--set learning_rate=…), or look at the rows with --dry-run.",
            early=f"{state.early_loss:.4f}",
            steps=_EARLY_STEPS,
            now=now,
            step=state.step,
        )


def _has_risen(state: State) -> bool:
    """Returns whether the loss is above its first, beyond what other rows do; the same rows tell it better."""
    if state.mean_loss <= state.first_loss or not state.first_loss:
        return False
    if state.held_out_loss and state.first_held_out_loss and state.held_out_loss != state.first_held_out_loss:
        return state.held_out_loss > 1.002 * state.first_held_out_loss
    return state.mean_loss > 1.01 * state.first_loss


def say_when_worse(trained: Trained, say: Callable[..., None]) -> None:
    """Says of a run that ended when what was held out is predicted worse than by its base."""
    before, after = trained.first_held_out_loss, trained.held_out_loss
    if before is not None and after is not None and after > before:
        say(
            "On rows it has not seen the result is worse than its base: held-out loss {before} before, {after} now. "
            "Take a lower learning rate (--set learning_rate=…), fewer epochs, or more rows.",
            before=f"{before:.4f}",
            after=f"{after:.4f}",
        )
