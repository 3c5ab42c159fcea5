"""How weights move: AdamW with the recipe's schedule, whose state goes into checkpoints and comes out of them."""

# torch types its functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from fust.tune.checkpoints import Tensors
from fust.tune.recipe import Recipe


class Mover:
    """AdamW with the schedule: a linear rise, then a linear fall to nothing."""

    def __init__(self, trained: Mapping[str, torch.nn.Parameter], recipe: Recipe) -> None:
        self._recipe = recipe
        self._names = list(trained)
        self._parameters = list(trained.values())
        matrices = [p for p in self._parameters if p.dim() > 1]
        vectors = [p for p in self._parameters if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW([g for g in groups if g["params"]], betas=recipe.betas, fused=True)

    def rate(self, step: int, scale: float) -> float:
        """Returns the learning rate of step ``step`` (from 0)."""
        return self._recipe.rate(step) * scale

    def move(self, rate: float) -> float:
        """Clips, moves, forgets the gradients; returns their norm. Nothing moves when the norm is not a number."""
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_norm))
        if math.isfinite(norm):
            for group in self._adam.param_groups:
                group["lr"] = rate
            self._adam.step()
            # The fused step tells nobody that weights have moved, and copies of them are made again by their version.
            torch.autograd.graph.increment_version(self._parameters)
        self._adam.zero_grad(set_to_none=True)
        return norm

    def forget(self) -> None:
        """Drops gradients."""
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> Tensors:
        """Returns moments and counts, by name."""
        found: Tensors = {}
        for name, parameter in zip(self._names, self._parameters, strict=True):
            for key, value in self._adam.state.get(parameter, {}).items():
                found[f"{key}.{name}"] = value
        return found

    def load(self, state: Tensors) -> None:
        """Takes them from a checkpoint; an empty state is that of step 0."""
        self._adam.state.clear()
        for key, value in state.items():
            kind, _, name = key.partition(".")
            self._adam.state[self._parameters[self._names.index(name)]][kind] = value.clone()
