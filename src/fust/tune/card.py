"""The card of what was trained, written from the record and from nothing else; in English, then in Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from fust.core.i18n import Language, fill
from fust.core.units import hours_words, span_words
from fust.tune.progress import Point, Trained
from fust.tune.recipe import Reasoned, Recipe
from fust.tune.report import DataReport


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of a run that ended."""

    repo_id: str
    recipe: Recipe
    report: DataReport
    trained: Trained
    points: list[Point]
    reasons: list[Reasoned]
    licence: str
    """Of the base; of what begins from nothing that of the data."""
    languages: list[str]
    processor: str
    weights_sha256: str


def write_card(record: Record) -> str:
    """Returns README.md: front matter that the Hub reads, then what a person asks, in both languages."""
    front = yaml.safe_dump(_front(record), sort_keys=False, allow_unicode=True)
    english, chinese = (_Page(record, language).draw() for language in ("en", "zh"))
    return f"---\n{front}---\n\n{english}\n---\n\n{chinese}"


def _front(record: Record) -> dict[str, Any]:
    recipe, is_adapter = record.recipe, record.recipe.is_adapter
    front: dict[str, Any] = {}
    if recipe.base:
        front["base_model"] = recipe.base
        front["base_model_relation"] = "adapter" if is_adapter else "finetune"
    marks = {
        "lora": is_adapter,
        "dpo": recipe.method == "dpo",
        "trained-from-scratch": not recipe.base,
    }
    front |= {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "datasets": [recipe.data],
        "tags": ["fust", *(name for name, is_so in marks.items() if is_so)],
    }
    if record.licence:
        front["license"] = record.licence
    if record.languages:
        front["language"] = record.languages
    return front


class _Page:
    """The card's text in one language."""

    def __init__(self, record: Record, language: Language) -> None:
        self._record = record
        self._language: Language = language

    def say(self, template: str, /, **fields: object) -> str:
        return fill(template, fields, self._language)

    def draw(self) -> str:
        repo_id = self._record.repo_id
        title = repo_id if self._language == "en" else f"{repo_id}（中文）"
        parts = [
            f"# {title}\n\n{self._what()}\n",
            self._facts(),
            self._curve(),
            self._use(),
            self._limits(),
            self._choices(),
        ]
        return "\n".join(part for part in parts if part)

    def _what(self) -> str:
        """Returns the first sentences: what it is, and whether it got to its end."""
        recipe, trained = self._record.recipe, self._record.trained
        data = f"[{recipe.data}](../datasets/{recipe.data})"
        if recipe.model is not None:
            said = [
                self.say(
                    "A language model that was trained from nothing on {data} with Fust: no base, a tokenizer of its own. It "
                    "goes on with a text; it has not learned to answer.",
                    data=data,
                )
            ]
        else:
            base = f"[{recipe.base}](../{recipe.base})"
            said = [
                self.say(
                    "{kind} of {base}, tuned on {data} with Fust.", kind=self._kind(), base=base, data=data
                )
            ]
        if recipe.extends is not None:
            said.append(
                self.say(
                    "It goes on from step {step}, with which the revision before this one ended; the learning rate rose again "
                    "to {peak} and fell.",
                    step=recipe.extends.step,
                    peak=f"{recipe.learning_rate:.2g}",
                )
            )
        if trained.steps < recipe.steps:
            said.append(
                self.say(
                    "**The training was stopped at step {step} of {steps}**, before the learning rate had fallen to nothing; "
                    "these are its newest weights.",
                    step=trained.steps,
                    steps=recipe.steps,
                )
            )
        return " ".join(said)

    def _kind(self) -> str:
        recipe = self._record.recipe
        whole = self.say("A full fine-tuning")
        adapter = self.say("A LoRA adapter (rank {rank})", rank=recipe.lora_rank)
        if recipe.method == "dpo":
            return self.say(
                "{kind} by preferences (DPO, beta {beta})",
                kind=adapter if recipe.is_adapter else whole,
                beta=f"{recipe.beta:g}",
            )
        if recipe.method == "continue":
            return self.say("A continued pre-training")
        return adapter if recipe.is_adapter else whole

    def _facts(self) -> str:
        rows = [*self._origin(), *self._course(), *self._cost()]
        lines = "\n".join(f"| {name} | {value} |" for name, value in rows)
        return f"## {self.say('Record')}\n\n| | |\n|---|---|\n{lines}\n"

    def _origin(self) -> list[tuple[str, str]]:
        record, recipe, report, say = self._record, self._record.recipe, self._record.report, self.say
        at = say("`{name}` at `{revision}`", name=recipe.base, revision=recipe.base_revision)
        shape = recipe.model
        rows = [(say("Base"), at)] if shape is None else [(say("Base"), say("none: trained from nothing"))]
        if shape is not None:
            rows.append(
                (
                    say("Shape"),
                    say(
                        "{family}: {layers} layers, width {width}, {heads} heads of {head}, context {context}, {parameters} "
                        "parameters, {vocabulary} tokens",
                        family=shape.family,
                        layers=shape.num_hidden_layers,
                        width=shape.hidden_size,
                        heads=shape.num_attention_heads,
                        head=shape.head_dim,
                        context=shape.max_position_embeddings,
                        parameters=f"{shape.parameters:,}",
                        vocabulary=f"{shape.vocab_size:,}",
                    ),
                )
            )
        rows += [
            (say("Data"), say("`{name}` at `{revision}`", name=recipe.data, revision=recipe.data_revision)),
            (
                say("Rows"),
                say(
                    "{kept} trained on, {held_out} held out, {rows} read ({format})",
                    kept=report.kept,
                    held_out=report.held_out,
                    rows=report.rows,
                    format=report.format,
                ),
            ),
        ]
        if report.teachers:
            rows.append(
                (say("Teacher"), say("{models} wrote rows, as they say", models=", ".join(report.teachers)))
            )
        nothing = say("the base's card names none") if recipe.base else say("the data's card names none")
        return [*rows, (say("Licence"), record.licence or nothing)]

    def _course(self) -> list[tuple[str, str]]:
        report, trained, recipe, say = (
            self._record.report,
            self._record.trained,
            self._record.recipe,
            self.say,
        )
        unit = say("pair") if report.pairs else say("learned token")
        rows = [
            (
                say("Tokens"),
                say(
                    "{tokens} read, {learned} learned", tokens=trained.tokens, learned=trained.learned_tokens
                ),
            ),
            (
                say("Steps"),
                say("{steps} of {tokens} token places", steps=trained.steps, tokens=recipe.step_tokens),
            ),
            (
                say("Loss"),
                say("{loss} (moving average, nats per {unit})", loss=f"{trained.loss:.4f}", unit=unit),
            ),
            (say("Held-out loss, before and after"), self._held_out()),
        ]
        if report.pairs:
            won = trained.held_out_accuracy
            judged = say("nothing held out") if won is None else f"{won:.1%}"
            rows += [(say("Pairs"), str(report.pairs)), (say("Held-out pairs judged right"), judged)]
        return rows

    def _held_out(self) -> str:
        before, after = self._record.trained.first_held_out_loss, self._record.trained.held_out_loss
        if before is None or after is None:
            return self.say("nothing held out")
        return f"{before:.4f} → {after:.4f}"

    def _cost(self) -> list[tuple[str, str]]:
        record, recipe, spent_s, say = (
            self._record,
            self._record.recipe,
            self._record.trained.spent_s,
            self.say,
        )
        fields = {
            "processor": record.processor,
            "threads": recipe.threads,
            "precision": recipe.precision,
            "processes": recipe.processes,
        }
        if recipe.processes == 1:
            hardware = say("{processor}, {threads} threads, {precision}", **fields)
        else:
            hardware = say(
                "{processor}, {processes} processes with {threads} threads each, {precision}", **fields
            )
        hours = hours_words(spent_s * recipe.threads * recipe.processes / 3600)
        return [
            (say("Hardware"), hardware),
            (say("Time"), say("{span} ({hours} core hours)", span=span_words(spent_s), hours=hours)),
            (say("Seed"), str(recipe.seed)),
            (say("SHA-256 of the weights"), f"`{record.weights_sha256}`"),
        ]

    def _curve(self) -> str:
        """Returns the loss at a dozen places; `training_log.jsonl` has every step."""
        points, say = self._record.points, self.say
        if not points:
            return ""
        every = max(1, len(points) // 12)
        lines = [
            f"| {point.step} | {point.loss:.4f} | {'' if point.held_out_loss is None else f'{point.held_out_loss:.4f}'} "
            f"| {point.learning_rate:.2e} |"
            for i, point in enumerate(points)
            if i % every == 0 or point.held_out_loss is not None or i + 1 == len(points)
        ]
        heads = " | ".join((say("step"), say("loss"), say("held-out loss"), say("learning rate")))
        table = "\n".join([f"| {heads} |", "|---:|---:|---:|---:|", *lines])
        every_step = say("`training_log.jsonl` has every step.")
        return f"## {say('Curve')}\n\n{table}\n\n{every_step}\n"

    def _use(self) -> str:
        repo_id, recipe = self._record.repo_id, self._record.recipe
        if recipe.is_adapter:
            code = (
                "from peft import AutoPeftModelForCausalLM\n"
                f'model = AutoPeftModelForCausalLM.from_pretrained("{repo_id}")  # brings {recipe.base}'
            )
        else:
            code = f'from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained("{repo_id}")'
        return f"## {self.say('Use')}\n\n```python\n{code}\n```\n"

    def _limits(self) -> str:
        recipe, report, say = self._record.recipe, self._record.report, self.say
        notes = [
            say(
                "It was not evaluated beyond the loss above: measure it on your own task before people rely on it."
            )
        ]
        if recipe.base:
            notes.append(
                say(
                    "It learned from {rows} rows and knows of other things what its base knew.",
                    rows=report.kept,
                )
            )
        else:
            notes.append(
                say(
                    "It knows nothing but its {rows} rows, and no one taught it what not to say: what stands in them, it may "
                    "repeat.",
                    rows=report.kept,
                )
            )
        before, after = self._record.trained.first_held_out_loss, self._record.trained.held_out_loss
        if recipe.base and before is not None and after is not None and after > before:
            notes.append(say("On rows it has not seen it is worse than its base: see the held-out loss."))
        if report.endless:
            notes.append(
                say(
                    "The chat template ends {count} answers with no token of its own; it may go on where it should stop.",
                    count=report.endless,
                )
            )
        notes += [
            say("Rows left out. {why}", why=fill(drop.template, dict(drop.fields()), self._language))
            for drop in report.dropped
        ]
        return f"## {say('Limits')}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"

    def _choices(self) -> str:
        say = self.say
        lines = [
            f"| {r.name} | {r.value} | {fill(r.why, dict(r.params), self._language)} |"
            for r in self._record.reasons
        ]
        whole = say("`recipe.json` holds all of it. What was derived, and why:")
        heads = f"| | {say('value')} | {say('because')} |\n|---|---|---|"
        return f"## {say('Recipe')}\n\n{whole}\n\n{heads}\n" + "\n".join(lines) + "\n"
