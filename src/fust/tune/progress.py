"""What is known of a run while it goes and when it ends, and who hears of it. Needs no torch."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Point(msgspec.Struct, frozen=True):
    """What is known after a step."""

    step: int
    loss: float
    """Mean over the step's learned tokens, in nats."""
    learning_rate: float
    gradient_norm: float
    tokens_per_s: float
    tokens: int
    held_out_loss: float | None = None
    reward_margin: float | None = None
    """Of preferences: how much more than the reference the model favours the better answers, mean, in nats times beta."""
    reward_accuracy: float | None = None
    """Of preferences: the share of pairs whose better answer it favours more than the worse."""
    held_out_accuracy: float | None = None


class Trained(msgspec.Struct, frozen=True):
    """How a run ended."""

    steps: int
    tokens: int
    learned_tokens: int
    spent_s: float
    loss: float
    held_out_loss: float | None
    first_held_out_loss: float | None
    finished: bool
    """False: it was asked to stop; its newest checkpoint is where it stopped."""
    held_out_accuracy: float | None = None
    """Of preferences: the share of held-out pairs whose better answer is favoured."""


class Watcher(Protocol):
    """Whoever follows a run."""

    def point(self, point: Point, steps: int) -> None:
        """Hears of a step."""
        ...

    def sampled(self, step: int, items: list[dict[str, str]]) -> None:
        """Hears what the model writes at a step: prompts and texts."""
        ...

    def tell(self, done: int, total: int, template: str, /, **params: object) -> None:
        """Hears how far a stage beside the steps is."""
        ...

    def say(self, template: str, /, **params: object) -> None:
        """Hears of something worth a sentence."""
        ...

    def wants_to_stop(self) -> bool:
        """Returns whether the run is to stop after this step."""
        ...
