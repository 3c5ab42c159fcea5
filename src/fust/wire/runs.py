"""Runs as the Fust surface writes them, and as the client reads them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

RunState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FINAL_STATES: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


class Progress(msgspec.Struct):
    """How far a run is; ``total`` is 0 while it is not known."""

    done: float = 0
    total: float = 0
    unit: str = ""
    """`bytes`, `steps`, `items` or empty."""
    message: str = ""
    rate: float | None = None
    """Units a second."""
    eta_s: float | None = None
    data: dict[str, Any] = {}
    """Figures of the moment, such as the loss of a tuning step."""


class RunError(msgspec.Struct):
    """Why a run failed, and what to do next."""

    code: str
    message: str
    hint: str = ""


class Run(msgspec.Struct):
    """A piece of long work."""

    id: str
    kind: str
    title: str
    owner: str
    state: RunState
    progress: Progress | None
    params: dict[str, Any]
    result: dict[str, Any] | None
    error: RunError | None
    memory_bytes: int
    cores: int
    created_at: str
    started_at: str | None
    ended_at: str | None
    waits_for: str = ""
    """What a queued run waits for, in words; empty when it waits for nothing."""


class RunList(msgspec.Struct):
    """Runs, newest first."""

    items: list[Run]


class NewRun(msgspec.Struct, forbid_unknown_fields=True):
    """A wish for a run; each kind checks its own ``params``."""

    kind: str
    params: dict[str, Any] = {}


class LogLine(msgspec.Struct):
    """A line that a run said, with what belongs to it."""

    message: str
    at: str = ""
    data: dict[str, Any] = {}
