"""What a run will take, as arithmetic: each part of it counted by hand."""

from __future__ import annotations

import msgspec
import pytest

from fust.core.errors import InvalidInput
from fust.tune.base import BaseConfig
from fust.tune.budget import Budget, parse_budget
from fust.tune.estimate import memory_needed, memory_within, run_seconds
from fust.tune.recipe import (
    Extended,
    Planned,
    Reasoned,
    Recipe,
    Wish,
    with_smaller_steps,
    within_budget,
    within_tokens,
)

RECIPE = Recipe(
    method="lora", base="", base_revision="", data="", data_revision="", data_key="", seed=1, precision="fp32", threads=1,
    row_tokens=256, rows_per_pass=4, passes_per_step=2, steps=80, warmup_steps=1, learning_rate=1e-3, weight_decay=0.0,
    betas=(0.9, 0.999), clip_norm=1.0, lora_rank=4, lora_alpha=8, beta=0.0, checkpointing=False, evaluate_every=10, versions={},
)  # fmt: skip
STEPS_S = 1.03 * 2.0 * 80
"""Of steps that take two seconds."""


def seconds(held_out: int = 0, samples_s: float = 0.0, **changes: object) -> float:
    return run_seconds(msgspec.structs.replace(RECIPE, **changes), 2.0, 40, held_out, samples_s)


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ({"avx2", "avx512_bf16"}, "bf16"),
        ({"amx_bf16"}, "bf16"),
        ({"avx2", "avx512f"}, "fp32"),
        (set(), "fp32"),
    ],
)
def test_bf16_is_chosen_where_the_processor_multiplies_it(flags, chosen, monkeypatch):
    """And what was asked for is done all the same."""
    from fust.tune import run

    monkeypatch.setattr(run, "processor_flags", lambda: flags)
    wish = run.Wish(base="me/base", data="me/rows", to="me/x")
    assert run.choose_precision(wish).value == chosen
    asked = msgspec.structs.replace(wish, precision="bf16")
    assert run.choose_precision(asked).value == "bf16" and run.choose_precision(asked).why == "As asked."


def test_a_run_that_fits_only_so_computes_activations_twice():
    """Not where it fits anyhow, was decided by a person, or the family is one that no test covers."""
    config = BaseConfig(
        model_type="llama", hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, vocab_size=32000
    )
    plain, twice = (memory_needed(config, 10**9, 0, checkpointing=it) for it in (False, True))
    assert twice < 0.95 * plain
    between = (plain + twice) // 2

    def within(room, asked=None, config=config):
        return memory_within(config, 10**9, 0, room, checkpointing=asked)

    assert within(plain) == (plain, False)
    assert within(between) == within(0) == (twice, True)
    assert within(between, False) == (plain, False) and within(plain, True) == (twice, True)
    assert within(between, None, msgspec.structs.replace(config, model_type="mamba")) == (plain, False)


def test_steps_alone():
    assert seconds() == pytest.approx(STEPS_S)
    later = Extended(run="r1", step=60, rate=1e-3, first_peak=1e-3)
    assert seconds(extends=later) == pytest.approx(STEPS_S / 4), "only the steps that are still to come"


def test_looks_at_held_out_rows_are_forward_passes():
    # One look before the first step and eight later; six rows are two passes of four, of 1 s forward and backward.
    assert seconds(6) - STEPS_S == pytest.approx(14 * 0.5)  # 54 rows; frozen weights: half of a pass
    assert seconds(6, lora_rank=0, method="full") - STEPS_S == pytest.approx(14 / 3)


def test_preferences_ask_the_base_about_every_row_once():
    assert seconds(8, method="dpo") - seconds(8) == pytest.approx((40 + 8) / 4 * 0.5)


@pytest.mark.parametrize(
    ("samples_s", "times"),
    [
        (0.1, 8),  # so short that every look has them
        (1.0, 3),  # 1 s after 62 s, 2 s after 103 s, and always at the end
        (60.0, 1),  # at the end alone: they have their share before the first step
    ],
)
def test_samples_take_their_share_and_no_more(samples_s, times):
    assert seconds(0, samples_s) - STEPS_S == pytest.approx(times * samples_s)


@pytest.mark.parametrize(
    ("asked", "passes", "steps"),
    [
        ({}, 16, 80),  # without a budget a step stays as the data wants it
        ({"budget": "1h"}, 16, 80),
        (
            {"budget": "100s"},
            9,
            41,
        ),  # 97 s are 41 steps of 2.3 s and what checkpoints take; a pass takes 0.25 s
        ({"budget": "5s"}, 1, 18),  # 4.8 s are 18 of the smallest
        ({"budget": "100s", "step_tokens": 16_384}, 16, 23),
        ({"budget": "100s", "method": "pretrain"}, 16, 23),
    ],
)
def test_a_budget_leaves_time_for_enough_steps(asked, passes, steps):
    wish = Wish(**{"data": "d", "to": "t", **asked})
    whole = msgspec.structs.replace(RECIPE, passes_per_step=16)
    why = [Reasoned("step_tokens", "", ""), Reasoned("steps", "", "")]
    found = with_smaller_steps(Planned(whole, why), wish, 4.0, 0.0)
    step_s = 4.0 * found.recipe.passes_per_step / 16
    done = within_budget(found, wish, step_s, 0.0, lambda recipe: run_seconds(recipe, step_s, 40, 0))
    assert (done.recipe.passes_per_step, done.recipe.steps) == (passes, steps)
    assert [r.name for r in done.reasons] == ["step_tokens", "steps"]


@pytest.mark.parametrize(
    ("held_out", "steps", "looks"),
    [
        (0, 23, 8),
        (4, 21, 7),  # each takes a second, and there is one before the first step
        (8, 21, 4),
        (80, 13, 1),  # 20 s each
        (4000, 1, 1),  # the budget is spent before the first step, and one there is
    ],
)
def test_what_is_held_out_is_looked_at_within_the_budget(held_out, steps, looks):
    wish = Wish(data="d", to="t", budget="100s", step_tokens=2048)
    planned = Planned(msgspec.structs.replace(RECIPE, steps=1000), [])
    found = within_budget(
        planned, wish, 4.0, 0.0, lambda recipe: run_seconds(recipe, 4.0, 40, held_out)
    ).recipe
    assert found.steps == steps
    assert -(-found.steps // found.evaluate_every) == looks
    if steps > 1:
        assert run_seconds(found, 4.0, 40, held_out) <= 100


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("", Budget()),
        ("45s", Budget(seconds=45)),
        (" 1.5 h", Budget(seconds=5400)),
        ("30 min", Budget(seconds=1800)),
        ("20000tok", Budget(tokens=20_000)),
        ("500ktok", Budget(tokens=500_000)),
        ("2M tokens", Budget(tokens=2_000_000)),
        ("0.5Btok", Budget(tokens=500_000_000)),
    ],
)
def test_a_budget_is_time_or_tokens(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["30", "2M", "-5m", "0s", "0tok", "0.1tok", "1h30", "9" * 30 + "tok", "m", "2 mtok"]
)
def test_a_budget_of_another_form_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_budget(text)


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ({"budget": "10ktok"}, 20),
        ({"budget": "1Mtok"}, 80),  # all that the epochs have
        ({"budget": "1tok"}, 1),
        ({"budget": "10ktok", "steps": 80}, 80),  # who says how many gets them
        ({"budget": "30m"}, 80),  # time is not known yet
    ],
)
def test_a_budget_of_tokens_is_a_number_of_steps(asked, steps):
    why = [Reasoned("epochs", "", "")]
    assert within_tokens(Wish(**{"data": "d", "to": "t", **asked}), 80, 500.0, why) == steps
    assert [r.name for r in why] == (
        ["steps"] if asked["budget"].endswith("tok") and "steps" not in asked else ["epochs"]
    )
