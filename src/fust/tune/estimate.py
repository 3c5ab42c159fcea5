"""What a run will take, before it runs: memory from the shape of the model, work from its size. Needs no torch."""

from __future__ import annotations

import math
import resource
import sys

from fust.tune.base import PROVEN, BaseConfig
from fust.tune.recipe import Recipe

PROCESS_BYTES = 700 * 10**6
"""Python, torch, transformers and their threads."""
_PASS_TOKENS = 2048
_HEAD_VALUES = 2**26
SAMPLES_SHARE = 0.02
"""Of the time since the start that samples may take, besides those before the first step and after the last."""
TOKENS_PER_PARAMETER = 20
"""Training from scratch reads so many tokens for each parameter (Hoffmann et al. 2022, arXiv 2203.15556)."""


def memory_needed(config: BaseConfig, parameters: int, rank: int, *, checkpointing: bool = False) -> int:
    """Returns bytes that a process takes at most: itself, the weights, what belongs to them, one pass's activations.

    It errs on the large side by up to two times; a dry run measures. Several processes take it several times.
    """
    if rank:
        weights = parameters * (4 if parameters <= 300_000_000 else 2) + parameters * 2
        adapter = (
            config.num_hidden_layers * rank * 7 * 2 * max(config.hidden_size, config.intermediate_size) // 2
        )
        trained = adapter * 16
    else:
        weights = parameters * 6  # fp32, and the copy in bf16 of the moment
        trained = parameters * 12  # gradient and two moments
    layer = config.hidden_size * 24 + config.intermediate_size * 10
    layers = 1 if checkpointing else config.num_hidden_layers
    activations = _PASS_TOKENS * (layers * layer + config.num_hidden_layers * config.hidden_size) * 2
    head = min(_PASS_TOKENS * max(1, config.vocab_size), _HEAD_VALUES) * 4 * 3
    return PROCESS_BYTES + weights + trained + activations + head


def memory_within(
    config: BaseConfig, parameters: int, rank: int, room_bytes: int, *, checkpointing: bool | None
) -> tuple[int, bool]:
    """Returns what `memory_needed` does, and whether activations are computed twice: as asked (None: not), or to fit the room.

    Families that no test covers are left as they are: not all of them can.
    """
    plain = memory_needed(config, parameters, rank, checkpointing=bool(checkpointing))
    if checkpointing is not None or plain <= room_bytes or config.model_type not in PROVEN:
        return plain, bool(checkpointing)
    return memory_needed(config, parameters, rank, checkpointing=True), True


def training_flops(parameters: int, tokens: int, *, is_adapter: bool) -> float:
    """Returns floating-point operations: 6 for each parameter and token, 4 where weights get no gradient (LoRA)."""
    return (4.0 if is_adapter else 6.0) * parameters * tokens


def flops_from_scratch(parameters: int) -> float:
    """Returns the operations of training such a model from nothing: 6 N D, with D = 20 N tokens."""
    return 6.0 * parameters * (TOKENS_PER_PARAMETER * parameters)


def run_seconds(
    recipe: Recipe, step_s: float, packed_rows: int, held_out_rows: int, samples_s: float = 0.0
) -> float:
    """Returns the time from the first look at the held-out rows to the last checkpoint, for steps of ``step_s``.

    Besides the steps: the looks at what is held out and, with preferences, at every row once for the reference. They go
    forward only: half of the work where weights are frozen, a third where all learn. Then what the model writes after a
    look, ``samples_s`` each time (before the first step it has been written when the speed was measured). Checkpoints
    take 3 %.
    """
    steps = recipe.steps - recipe.first_step
    forward_s = step_s / recipe.turns_per_step / (2 if recipe.is_adapter else 3)
    looks = 1 + math.ceil(steps / recipe.evaluate_every)
    rows = looks * held_out_rows + (packed_rows + held_out_rows if recipe.method == "dpo" else 0)
    steps_s = 1.03 * step_s * steps + math.ceil(rows / recipe.rows_per_pass) * forward_s
    return steps_s + _times_sampled(samples_s, steps_s, looks - 1) * samples_s


def _times_sampled(samples_s: float, steps_s: float, looks: int) -> int:
    """Returns how often samples are taken in a run: after a look unless they took their share already, and at the end."""
    times = 1  # that of before the first step, which counts for the share; it stands for that at the end, which does not
    for look in range(1, looks):
        times += times * samples_s <= SAMPLES_SHARE * steps_s * look / looks
    return times


def patience_s(parameters: int, held_out_tokens: int) -> float:
    """Returns how long one process waits for another at most: while one looks at what is held out, the others wait.

    Ten minutes, or what the look takes (2 N D) where a process does no more than 10 GFLOP/s.
    """
    return max(600.0, 2.0 * parameters * held_out_tokens / 10e9)


def memory_taken() -> int:
    """Returns the most bytes that this process has held so far: what a run takes, once a step has been measured in it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
