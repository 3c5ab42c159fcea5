"""The recipe of a run: what a person asks (few dials), and what follows from model, data and machine, with reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from fust.core.errors import InvalidInput
from fust.core.units import show_span
from fust.formats.ggml_types import FileType
from fust.tune.base import Base, BaseConfig
from fust.tune.budget import parse_budget
from fust.tune.report import DataReport
from fust.tune.shape import ModelWish, Shape

Method = Literal["lora", "full", "dpo", "continue", "pretrain"]
Precision = Literal["bf16", "fp32"]

_BETA = 0.1
_MAX_EPOCHS = 10.0
FRESH_EPOCHS = 4.0
"""Of a model that begins from nothing: up to here a second reading teaches nearly as much as new text (Muennighoff et al.
2023, arXiv 2305.16264)."""
_STEPS_SHARE = 0.8
"""Of a budget that steps should have; looks at what is held out come less often for it."""
_MOST_STEPS = 10**8
_LEAST_STEPS = 40
"""That a budget is to leave time for; with fewer the rate has hardly risen when it falls again."""
_PASS_TOKENS = 2048
"""Token places that are computed at once; more are quicker by little and take more memory."""


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a person asks. None: derived."""

    data: str
    to: str
    base: str = ""
    """Of `pretrain`, which begins from nothing, empty."""
    method: Method = "lora"
    revision: str = "main"
    """Of the base."""
    data_revision: str = "main"
    budget: str = ""
    """Time to train, such as `30m`, or tokens, such as `2Mtok`; empty: a number of epochs that suits the data."""
    dry_run: bool = False
    steps: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    lora_rank: int | None = None
    """Of `lora` and `dpo`; 0 with `dpo`: all weights are trained."""
    beta: float | None = None
    """Of `dpo`: how firmly the model is kept near its base."""
    row_tokens: int | None = None
    step_tokens: int | None = None
    precision: Precision | None = None
    checkpointing: bool | None = None
    """Whether activations are computed twice: a third slower, in much less memory. None: where memory asks for it."""
    processes: int | None = None
    """Among which the passes of a step are shared; each holds the whole model. None: one."""
    compile: bool = False
    """Whether the layers become code of their own before the first step; needs a C++ compiler."""
    seed: int = 1455
    private: bool | None = None
    merge: bool = False
    """Whether the whole weights go into a repo of their own (`…-merged`), beside the adapter."""
    gguf: list[FileType] = []
    """GGUF files that are made of the result, in a repo of their own (`…-GGUF`)."""
    model: ModelWish = ModelWish()
    """Of `pretrain`."""
    extends: str = ""
    """A run that has ended and goes on; ``steps``, ``epochs`` and ``budget`` then say how much more."""

    @property
    def budget_s(self) -> float | None:
        """Returns the budget in seconds, or None."""
        return parse_budget(self.budget).seconds

    @property
    def budget_tokens(self) -> int | None:
        """Returns the budget in tokens, or None."""
        return parse_budget(self.budget).tokens

    def fresh_epochs(self, tokens: int) -> float | None:
        """Returns how often texts of so many tokens are read from nothing, as far as it was said."""
        if self.budget_tokens is None:
            return self.epochs
        return min(self.epochs or FRESH_EPOCHS, self.budget_tokens / max(1, tokens))


class Reasoned(msgspec.Struct, frozen=True):
    """A value of the recipe and why it is so; ``why`` is a template."""

    name: str
    value: str
    why: str
    params: dict[str, str | int | float] = {}


class Extended(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run goes on that had ended."""

    run: str
    step: int
    rate: float
    """The learning rate at that step."""
    first_peak: float
    """That of the first of the runs."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that decides the weights; stored whole with the run and with what came of it.

    Its hash tells whose checkpoints are whose: new fields have defaults, which are left out.
    """

    method: Method
    base: str
    base_revision: str
    data: str
    data_revision: str
    data_key: str
    seed: int
    precision: Precision
    threads: int
    row_tokens: int
    rows_per_pass: int
    passes_per_step: int
    """Gradients of so many passes make one step."""
    steps: int
    warmup_steps: int
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    clip_norm: float
    lora_rank: int
    lora_alpha: int
    beta: float
    """Of `dpo`, else 0."""
    checkpointing: bool
    """Whether activations are computed twice to save memory."""
    evaluate_every: int
    versions: dict[str, str]
    model: Shape | None = None
    """Of `pretrain`: what was made from nothing."""
    extends: Extended | None = None
    processes: int = 1
    """Each with ``threads``; another number adds gradients in another order, and gives other bits."""
    compile: bool = False
    """Whether the layers are compiled for this machine."""

    @property
    def first_step(self) -> int:
        """Returns the step at which this run began; 0 unless it goes on from another."""
        return self.extends.step if self.extends else 0

    def rate(self, step: int) -> float:
        """Returns the learning rate of step ``step`` (from 0): a linear rise, then a linear fall to nothing."""
        before = self.extends.rate / self.learning_rate if self.extends else 0.0
        rise = before + (1.0 - before) * ((step + 1 - self.first_step) / self.warmup_steps)
        fall = (self.steps - step) / max(1, self.steps - self.first_step - self.warmup_steps)
        return self.learning_rate * max(0.0, min(1.0, rise, fall))

    @property
    def is_adapter(self) -> bool:
        """Returns whether an adapter is trained, and not all weights."""
        return self.lora_rank > 0

    @property
    def rows_per_step(self) -> int:
        """Returns the rows that one step learns from."""
        return self.rows_per_pass * self.passes_per_step

    @property
    def turns_per_step(self) -> int:
        """Returns the passes of a step that come one after another, while each process computes its own."""
        return math.ceil(self.passes_per_step / self.processes)

    @property
    def step_tokens(self) -> int:
        """Returns the token places of one step, padding included."""
        return self.rows_per_step * self.row_tokens


@dataclass(slots=True)
class Planned:
    """A recipe with the reasons of its values; ``steps`` may be cut to a budget once the speed is known."""

    recipe: Recipe
    reasons: list[Reasoned]


def rank_of(wish: Wish) -> int:
    """Returns the rank of the adapter; 0 where all weights are trained.

    Raises:
        InvalidInput: it is not one that an adapter can have.

    """
    least = 0 if wish.method == "dpo" else 1
    if wish.lora_rank is not None and not least <= wish.lora_rank <= 1024:
        raise InvalidInput(
            "lora_rank is {value}, and goes from {least} to 1024.", value=wish.lora_rank, least=least
        )
    if wish.method not in ("lora", "dpo"):
        return 0
    return 16 if wish.lora_rank is None else wish.lora_rank


def processes_of(wish: Wish, cores: int) -> int:
    """Returns how many processes train together on so many cores.

    Raises:
        InvalidInput: there is not a core for each.

    """
    if wish.processes is not None and not 1 <= wish.processes <= cores:
        raise InvalidInput(
            "processes is {value}, and goes from 1 to {most}: each needs a core that runs may use.",
            hint="Leave processes out, or give runs more cores (jobs.cores).",
            value=wish.processes,
            most=cores,
        )
    return wish.processes or 1


def longest_sample(config: BaseConfig, wish: Wish) -> int:
    """Returns how many tokens a sample may have; two that are compared share a row."""
    most = min(config.max_position_embeddings, 4096)
    if wish.row_tokens is None:
        return min(most, 2048)
    if not 16 <= wish.row_tokens <= config.max_position_embeddings:
        raise InvalidInput(
            "row_tokens is {value}, and the base takes 16 to {most}.",
            value=wish.row_tokens,
            most=config.max_position_embeddings,
        )
    return wish.row_tokens // 2 if wish.method == "dpo" else wish.row_tokens


def derive(
    wish: Wish,
    base: Base,
    report: DataReport,
    packed_rows: int,
    row_tokens: int,
    *,
    base_revision: str,
    data_revision: str,
    precision: Reasoned,
    cores: int,
    versions: dict[str, str],
    shape: Shape | None = None,
) -> Planned:
    """Returns the recipe for what was asked; everything that was not asked follows from model, data and machine."""
    processes = processes_of(wish, cores)
    why = [precision, _why_processes(wish, processes, cores)]
    why.append(
        Reasoned(
            "row_tokens",
            str(row_tokens),
            "The longest sample has {longest} tokens.",
            {"longest": report.longest},
        )
    )
    flops = _fresh_flops(wish, shape, report) if shape else 0.0
    per_pass, passes = _rows(wish, packed_rows, row_tokens, flops, processes)
    step_tokens = per_pass * passes * row_tokens
    why.append(
        Reasoned(
            "step_tokens", str(step_tokens), "{rows} rows of packed samples in all.", {"rows": packed_rows}
        )
    )
    per_epoch = packed_rows / (per_pass * passes)  # a step reaches over the end of one into the next
    steps = within_tokens(wish, _steps(wish, report, per_epoch, why), report.tokens / per_epoch, why)
    rank = rank_of(wish)
    rate = wish.learning_rate or (_fresh_rate(flops) if shape else _rate(wish.method, rank, base.parameters))
    why += _why_dials(wish, base, rate)
    recipe = Recipe(
        method=wish.method,
        base=wish.base,
        base_revision=base_revision,
        data=wish.data,
        data_revision=data_revision,
        data_key=report.key,
        seed=wish.seed,
        precision="bf16" if precision.value == "bf16" else "fp32",
        threads=cores // processes,
        processes=processes,
        row_tokens=row_tokens,
        rows_per_pass=per_pass,
        passes_per_step=passes,
        steps=steps,
        warmup_steps=max(1, min(100, steps // 20)),
        learning_rate=rate,
        weight_decay=0.1 if shape else 0.0 if rank else 0.01,
        betas=(0.9, 0.95) if shape else (0.9, 0.999),
        clip_norm=1.0,
        lora_rank=rank,
        lora_alpha=2 * rank,
        beta=wish.beta or _BETA if wish.method == "dpo" else 0.0,
        checkpointing=bool(wish.checkpointing),
        compile=wish.compile,
        evaluate_every=max(1, steps // 8),
        versions=versions,
        model=shape,
    )
    return Planned(recipe, why)


def _why_dials(wish: Wish, base: Base, rate: float) -> Iterator[Reasoned]:
    """Yields the reasons of dials that were not turned."""
    if wish.learning_rate is None:
        yield Reasoned(
            "learning_rate",
            f"{rate:.2g}",
            "{method} with {parameters} million parameters; smaller models take larger steps.",
            {"method": wish.method, "parameters": round(base.parameters / 1e6, 1)},
        )
    if wish.method == "dpo" and wish.beta is None:
        yield Reasoned("beta", f"{_BETA:g}", "The usual firmness with which the model is kept near its base.")
    yield (
        Reasoned("compile", "true", "As asked.")
        if wish.compile
        else Reasoned(
            "compile",
            "false",
            "Compiling takes half a minute before the first step; a long run gains a tenth to a third (--set compile=true).",
        )
    )


def with_smaller_steps(planned: Planned, wish: Wish, step_s: float, spent_s: float) -> Planned:
    """Returns the plan with less in a step where the budget leaves time for a few large ones, in which little is learned."""
    recipe = planned.recipe
    left_s = _left_s(wish, spent_s)
    chosen = wish.step_tokens or wish.steps or wish.method == "pretrain" or recipe.first_step
    if left_s is None or chosen or left_s >= _LEAST_STEPS * step_s:
        return planned
    turns = max(1, int(left_s / _LEAST_STEPS / step_s * recipe.turns_per_step))
    passes = min(recipe.passes_per_step, turns * recipe.processes)
    if passes == recipe.passes_per_step:
        return planned
    smaller = msgspec.structs.replace(
        recipe, passes_per_step=passes, steps=recipe.steps * recipe.passes_per_step // passes
    )
    reason = Reasoned(
        "step_tokens",
        str(smaller.step_tokens),
        "{budget} leave time for {fitting} steps of {tokens}; more and smaller ones teach more.",
        {
            "budget": show_span(wish.budget_s or 0.0),
            "fitting": max(0, int(left_s / step_s)),
            "tokens": recipe.step_tokens,
        },
    )
    return Planned(smaller, [reason if r.name == reason.name else r for r in planned.reasons])


def _left_s(wish: Wish, spent_s: float) -> float | None:
    """Returns the seconds that a budget leaves; None: there is none."""
    return None if wish.budget_s is None else (wish.budget_s - spent_s) * 0.97  # the upload takes the rest


def within_budget(
    planned: Planned, wish: Wish, step_s: float, spent_s: float, takes: Callable[[Recipe], float]
) -> Planned:
    """Returns the plan with as many steps as the budget leaves time for, at the speed that was measured.

    ``takes`` says how many seconds a recipe trains, with its looks at what is held out. Where they would take much of
    the time there are fewer.
    """
    recipe = planned.recipe
    left_s = _left_s(wish, spent_s)
    if left_s is None or wish.steps is not None:
        return planned
    for looks in (8, 4, 2, 1):
        fitting = _fitting(recipe, looks, left_s, takes)
        if fitting * step_s >= _STEPS_SHARE * left_s or fitting >= recipe.steps - recipe.first_step:
            break
    steps = min(recipe.steps - recipe.first_step, fitting)
    reason = Reasoned(
        "steps",
        str(steps),
        "{budget} leave time for {fitting} steps of {span}; more than {epochs} epochs would be learned by heart.",
        {
            "budget": show_span(wish.budget_s or 0.0),
            "fitting": fitting,
            "span": f"{step_s:.2f} s",
            "epochs": int(_most_epochs(wish)),
        },
    )
    cut = _cut(recipe, steps, looks)
    return Planned(cut, [*[r for r in planned.reasons if r.name not in ("steps", "epochs")], reason])


def _fitting(recipe: Recipe, looks: int, left_s: float, takes: Callable[[Recipe], float]) -> int:
    """Returns the most steps that are over in the time, one at least."""
    low, high = 1, 2
    while high < _MOST_STEPS and takes(_cut(recipe, high, looks)) <= left_s:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(_cut(recipe, middle, looks)) <= left_s else (low, middle)
    return low


def _cut(recipe: Recipe, steps: int, looks: int) -> Recipe:
    return msgspec.structs.replace(
        recipe,
        steps=recipe.first_step + steps,
        warmup_steps=max(1, min(100, steps // 20)),
        evaluate_every=-(-steps // looks),
    )


def within_tokens(wish: Wish, steps: int, step_tokens: float, why: list[Reasoned]) -> int:
    """Returns as many of the steps as a budget of tokens pays for, and puts the reason to the others.

    ``step_tokens`` are those that a step learns from on average, without padding.
    """
    if wish.budget_tokens is None or wish.steps is not None:
        return steps
    fitting = max(1, int(wish.budget_tokens / max(1.0, step_tokens)))
    chosen = min(steps, fitting)
    why[:] = [reason for reason in why if reason.name not in ("steps", "epochs")]
    why.append(
        Reasoned(
            "steps",
            str(chosen),
            "{budget} tokens are {fitting} steps of {tokens}; more than {epochs} epochs would be learned by heart.",
            {
                "budget": wish.budget_tokens,
                "fitting": fitting,
                "tokens": round(step_tokens),
                "epochs": f"{wish.epochs or _most_epochs(wish):g}",
            },
        )
    )
    return chosen


def _most_epochs(wish: Wish) -> float:
    return FRESH_EPOCHS if wish.method == "pretrain" else _MAX_EPOCHS


def _fresh_flops(wish: Wish, shape: Shape, report: DataReport) -> float:
    """Returns the operations of training from nothing: 6 for each weight and token."""
    return 6.0 * shape.parameters * report.tokens * (wish.fresh_epochs(report.tokens) or FRESH_EPOCHS)


def _fresh_rate(flops: float) -> float:
    """Returns the peak learning rate by the work (DeepSeek LLM, arXiv 2401.02954, section 3.1), at most 4e-3."""
    return min(4e-3, 0.3118 * max(1.0, flops) ** -0.125)


def _why_processes(wish: Wish, processes: int, cores: int) -> Reasoned:
    if processes > 1:
        return Reasoned(
            "processes",
            str(processes),
            "As asked: each holds the whole model, so they take about {processes} times the memory of one, with {threads} "
            "threads each.",
            {"processes": processes, "threads": cores // processes},
        )
    if wish.processes:
        return Reasoned("processes", "1", "As asked.")
    return Reasoned(
        "processes",
        "1",
        "The threads of one use all {cores} cores and share the memory's bandwidth; a second would hold the model twice.",
        {"cores": cores},
    )


def _rows(
    wish: Wish, packed_rows: int, row_tokens: int, fresh_flops: float, processes: int
) -> tuple[int, int]:
    """Returns rows in a pass and passes in a step: about 20 steps an epoch, 512 to 32,768 token places a step.

    A budget of tokens makes at least ``_LEAST_STEPS`` of them, where 512 places leave that.

    From nothing the places follow from the work (DeepSeek LLM, arXiv 2401.02954, section 3.1). Every process gets as many
    passes as the others.
    """
    suits = 0.2920 * fresh_flops**0.3271 if fresh_flops else packed_rows * row_tokens // 20
    suits = min(suits, (wish.budget_tokens or math.inf) / _LEAST_STEPS)
    wanted = wish.step_tokens or min(32_768, max(512, suits))
    rows = max(1, min(packed_rows, round(wanted / row_tokens)))
    per_pass = max(1, min(rows // processes, _PASS_TOKENS // row_tokens))
    return per_pass, math.ceil(rows / per_pass / processes) * processes


def _steps(wish: Wish, report: DataReport, per_epoch: float, why: list[Reasoned]) -> int:
    if wish.steps is not None:
        return max(1, wish.steps)
    epochs = wish.epochs
    if epochs is None:
        longest = wish.budget or wish.method == "pretrain"
        epochs = _most_epochs(wish) if longest else 3.0 if report.kept < 5_000 else 1.0
        why.append(Reasoned("epochs", f"{epochs:g}", "{rows} rows to train on.", {"rows": report.kept}))
    return max(1, math.ceil(round(per_epoch * epochs, 6)))


def _rate(method: Method, rank: int, parameters: int) -> float:
    """Returns the peak learning rate: 2e-4 for LoRA and 2e-5 for all weights at a billion parameters, more below.

    Preferences, whose loss is steep, take a tenth of it.
    """
    at_a_billion = (2e-4 if rank else 2e-5) * (0.1 if method == "dpo" else 1.0)
    return at_a_billion * min(10.0, max(0.5, (1e9 / max(1, parameters)) ** 0.4))
