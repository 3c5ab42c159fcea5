"""The card of what was tuned, written from the record and from nothing else."""

from __future__ import annotations

from typing import Any

import yaml

from fust.core.units import show_span
from fust.tune.progress import Point, Trained
from fust.tune.recipe import Reasoned, Recipe
from fust.tune.report import DataReport


def write_card(
    repo_id: str,
    recipe: Recipe,
    report: DataReport,
    trained: Trained,
    points: list[Point],
    reasons: list[Reasoned],
    *,
    licence: str,
    languages: list[str],
    hardware: str,
    weights_sha256: str,
) -> str:
    """Returns README.md: front matter that the Hub reads, then what a person asks."""
    is_adapter = recipe.is_adapter
    front: dict[str, Any] = {
        "base_model": recipe.base,
        "base_model_relation": "adapter" if is_adapter else "finetune",
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "datasets": [recipe.data],
        "tags": ["fust", *(["lora"] if is_adapter else []), *(["dpo"] if recipe.method == "dpo" else [])],
    }
    if licence:
        front["license"] = licence
    if languages:
        front["language"] = languages
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {repo_id}\n\n{_kind(recipe)} of [{recipe.base}](../{recipe.base}), tuned on "
        f"[{recipe.data}](../datasets/{recipe.data}) with Fust.\n",
        _record(recipe, report, trained, licence, hardware, weights_sha256),
        _curve(points),
        _use(repo_id, recipe, is_adapter=is_adapter),
        _limits(report),
        _recipe(reasons),
    ]
    return "\n".join(parts)


def _kind(recipe: Recipe) -> str:
    adapter = f"A LoRA adapter (rank {recipe.lora_rank})"
    return {
        "lora": adapter,
        "full": "A full fine-tuning",
        "dpo": f"{adapter if recipe.is_adapter else 'A full fine-tuning'} by preferences (DPO, beta {recipe.beta:g})",
        "continue": "A continued pre-training",
    }[recipe.method]


def _record(
    recipe: Recipe, report: DataReport, trained: Trained, licence: str, hardware: str, weights_sha256: str
) -> str:
    before, after = trained.first_held_out_loss, trained.held_out_loss
    held_out = (
        f"{before:.4f} → {after:.4f}" if before is not None and after is not None else "nothing held out"
    )
    core_hours = trained.spent_s * recipe.threads / 3600
    rows = [
        ("Base", f"`{recipe.base}` at `{recipe.base_revision}`"),
        ("Data", f"`{recipe.data}` at `{recipe.data_revision}`"),
        (
            "Rows",
            f"{report.kept} trained on, {report.held_out} held out, {report.rows} read ({report.format})",
        ),
        ("Tokens", f"{trained.tokens} read, {trained.learned_tokens} learned"),
        ("Steps", f"{trained.steps} of {recipe.step_tokens} token places"),
        (
            "Loss",
            f"{trained.loss:.4f} (moving average, nats per {'pair' if report.pairs else 'learned token'})",
        ),
        ("Held-out loss, before and after", held_out),
        *_preferred(report, trained),
        ("Licence", licence or "the base's card names none"),
        ("Hardware", hardware),
        ("Time", f"{show_span(trained.spent_s)} ({core_hours:.2f} core hours)"),
        ("Seed", str(recipe.seed)),
        ("SHA-256 of the weights", f"`{weights_sha256}`"),
    ]
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## Record\n\n| | |\n|---|---|\n{lines}\n"


def _preferred(report: DataReport, trained: Trained) -> list[tuple[str, str]]:
    if not report.pairs:
        return []
    won = trained.held_out_accuracy
    return [
        ("Pairs", str(report.pairs)),
        ("Held-out pairs judged right", "nothing held out" if won is None else f"{won:.1%}"),
    ]


def _curve(points: list[Point]) -> str:
    """Returns the loss at a dozen places; `training_log.jsonl` has every step."""
    if not points:
        return ""
    every = max(1, len(points) // 12)
    shown = [
        point
        for i, point in enumerate(points)
        if i % every == 0 or point.held_out_loss is not None or i + 1 == len(points)
    ]
    lines = [
        f"| {point.step} | {point.loss:.4f} | {'' if point.held_out_loss is None else f'{point.held_out_loss:.4f}'} "
        f"| {point.learning_rate:.2e} |"
        for point in shown
    ]
    return (
        "## Curve\n\n| step | loss | held-out loss | learning rate |\n|---:|---:|---:|---:|\n"
        + "\n".join(lines)
        + "\n"
    )


def _use(repo_id: str, recipe: Recipe, *, is_adapter: bool) -> str:
    if is_adapter:
        code = (
            "from peft import AutoPeftModelForCausalLM\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{repo_id}")  # brings {recipe.base}'
        )
    else:
        code = f'from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained("{repo_id}")'
    return f"## Use\n\n```python\n{code}\n```\n"


def _limits(report: DataReport) -> str:
    notes = [
        "It was not evaluated beyond the loss above: measure it on your own task before people rely on it.",
        f"It learned from {report.kept} rows and knows of other things what its base knew.",
    ]
    if report.endless:
        notes.append(
            f"The chat template ends {report.endless} answers with no token of its own; it may go on where it should stop."
        )
    notes += [f"Rows left out. {drop.template.format(**drop.fields())}" for drop in report.dropped]
    return "## Limits\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def _recipe(reasons: list[Reasoned]) -> str:
    lines = [f"| {r.name} | {r.value} | {r.why.format(**r.params)} |" for r in reasons]
    return (
        "## Recipe\n\n`recipe.json` holds all of it. What was derived, and why:\n\n| | value | because |\n|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )
