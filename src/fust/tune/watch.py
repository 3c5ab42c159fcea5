"""What a tuning run decided, and how it goes, read from what it said. Needs neither torch nor numpy."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import msgspec

from fust.core.i18n import Language, fill
from fust.jobs.folder import Event, RunFolder
from fust.tune.recipe import Reasoned
from fust.tune.report import DataReport

_BLOCK_BYTES = 1 << 20


class Chosen(msgspec.Struct):
    """A value of the recipe and why it is so."""

    name: str
    value: str
    why: str


class RowsLeftOut(msgspec.Struct):
    """Rows that are not used for one reason."""

    code: str
    message: str
    count: int
    rows: list[str]
    """`FILE:ROW`, the first of them."""


class Rows(msgspec.Struct):
    """What became of the rows."""

    format: str
    rows: int
    kept: int
    held_out: int
    samples: int
    tokens: int
    learned_tokens: int
    longest: int
    left_out: list[RowsLeftOut]
    notes: list[str] = []
    """What else is to be known of them."""


class Tuning(msgspec.Struct):
    """A tuning run's plan; empty parts are not known yet."""

    recipe: dict[str, Any]
    chosen: list[Chosen]
    rows: Rows | None
    preview: list[dict[str, Any]]
    """Samples: `tokens`, for each whether it is `learned`, and whether there are `more`."""
    forecast: dict[str, Any]
    trained: dict[str, Any]


class Sampled(msgspec.Struct):
    """What the model wrote for the fixed prompts at a step."""

    step: int
    items: list[dict[str, str]]
    """`prompt` and `text`, in the same order at every step."""


class Points(msgspec.Struct):
    """Steps of a tuning run, in the order in which it said them: a step that was done again comes again."""

    items: list[dict[str, Any]]
    """`step`, `loss`, `learning_rate`, `gradient_norm`, `tokens_per_s`, `tokens`, `held_out_loss`, and what the method adds."""
    samples: list[Sampled]
    next_offset: int
    """Where the next look begins."""
    more: bool
    """Whether there is more to read already."""


def read_tuning(folder: RunFolder, result: dict[str, Any] | None, language: Language) -> Tuning:
    """Returns the plan of a run: from its result once it has one, else from what it said."""
    said = result or {}
    if not said:
        for event in _events(folder):
            if event.kind == "log" and "plan" in event.data:
                said = event.data | event.data["plan"]
    reasons = msgspec.convert(said.get("reasons") or [], list[Reasoned])
    report = msgspec.convert(said["report"], DataReport) if said.get("report") else None
    return Tuning(
        recipe=said.get("recipe") or {},
        chosen=[Chosen(it.name, it.value, fill(it.why, dict(it.params), language)) for it in reasons],
        rows=_draw_rows(report, language) if report else None,
        preview=said.get("preview") or [],
        forecast=said.get("forecast") or {},
        trained=said.get("trained") or {},
    )


def _draw_rows(report: DataReport, language: Language) -> Rows:
    left_out = [
        RowsLeftOut(it.code, fill(it.template, dict(it.fields()), language), it.count, it.rows)
        for it in report.dropped
    ]
    return Rows(
        report.format,
        report.rows,
        report.kept,
        report.held_out,
        report.samples,
        report.tokens,
        report.learned_tokens,
        report.longest,
        left_out,
        [fill(note.template, dict(note.params), language) for note in report.notes],
    )


def read_points(folder: RunFolder, offset: int) -> Points:
    """Returns what was said from a byte offset of the run's events on, a block at most."""
    points = Points([], [], offset, False)
    for position, event in folder.iter_events(offset, _BLOCK_BYTES):
        points.next_offset = position
        if "samples" in event.data:
            points.samples.append(msgspec.convert(event.data["samples"], Sampled))
        elif "loss" in event.data:
            points.items.append(event.data)
    points.more = points.next_offset > offset and folder.events_size() > points.next_offset
    return points


def write_csv(folder: RunFolder) -> str:
    """Returns every step once as CSV, with a line of names; a step that was done again as it was done last."""
    steps = {int(event.data["step"]): event.data for event in _events(folder) if "loss" in event.data}
    names = list(dict.fromkeys(name for point in steps.values() for name in point))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps[step] for step in sorted(steps))
    return text.getvalue()


def _events(folder: RunFolder) -> Iterator[Event]:
    offset, end = 0, -1
    while offset != end:
        end = offset
        for position, event in folder.iter_events(end, _BLOCK_BYTES):
            offset = position
            yield event
