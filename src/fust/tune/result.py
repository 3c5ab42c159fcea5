"""What a tuning run found out, and what came of it. Needs no torch."""

from __future__ import annotations

import msgspec

from fust.tune.export import ExportResult
from fust.tune.prepare import SampleView
from fust.tune.progress import Trained
from fust.tune.recipe import Reasoned, Recipe
from fust.tune.report import DataReport


class Forecast(msgspec.Struct):
    """What the run takes, measured on this machine with the real rows."""

    step_s: float
    time_s: float
    memory_bytes: int
    core_hours: float
    flops: float
    from_scratch_flops: float
    """6 N D with D = 20 N tokens (Hoffmann et al. 2022)."""
    saving: float
    """1 - flops / from_scratch_flops."""


class Decided(msgspec.Struct):
    """What a run decided before its first step, as `recipe.json` of its folder holds it."""

    recipe: Recipe
    reasons: list[Reasoned]
    forecast: Forecast


class TuneResult(msgspec.Struct):
    """What a run found out, and what came of it; ``repo_id`` is empty after a dry run."""

    repo_id: str
    revision: str
    recipe: Recipe
    reasons: list[Reasoned]
    report: DataReport
    preview: list[SampleView]
    forecast: Forecast | None = None
    trained: Trained | None = None
    weights_sha256: str = ""
    files: list[str] = []
    made: list[ExportResult] = []
    """Of the result: whole weights, GGUF files."""
