"""A deployment as people see it: one value of what its row and its engines say at a moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fust.core.errors import FustError
from fust.serve.attaching import AdapterView
from fust.serve.engines.base import Mode
from fust.serve.facts import ModelFacts
from fust.serve.hosted import Hosted, State
from fust.serve.notes import Note, note


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as it is now."""

    id: str
    name: str
    alias: str | None
    repo_id: str
    file: str
    revision: str
    state: State
    pinned: bool
    private: bool
    engine: str
    mode: Mode | None
    """Of the engine that is loaded; None when none is."""
    context: int
    slots: int
    threads: int
    size_bytes: int
    memory_bytes: int
    started_at: datetime | None
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    error: FustError | None
    note: Note | None
    pooling: str
    facts: ModelFacts | None
    why: tuple[Note, ...]
    tokens_per_s: float
    busy: int
    """Requests that are on its engines now; more than `slots` wait inside the engine."""
    options: bytes
    """What an engine without a file was told, as JSON."""
    adapters: tuple[AdapterView, ...]
    """Those that the caller may read."""


def view(hosted: Hosted, adapters: tuple[AdapterView, ...]) -> Deployment:
    """Returns a deployment as it is now, with the adapters that the caller may read; its lock is held."""
    loaded = next((r for r in hosted.engines.values() if r.spec.engine_id), None)
    spec = loaded.spec if loaded else None
    pooling = next((r.spec.pooling for r in hosted.engines.values() if r.spec.pooling), "")
    if not pooling and hosted.facts is not None:
        pooling = hosted.facts.embed_pooling()
    return Deployment(
        id=hosted.id,
        name=hosted.name,
        alias=hosted.alias,
        repo_id=hosted.repo_id,
        file=hosted.file,
        revision=hosted.revision,
        state=hosted.state,
        pinned=hosted.pinned,
        private=hosted.private,
        engine=hosted.kind.name,
        mode=spec.mode if spec else None,
        context=loaded.info.context if loaded and loaded.info else spec.context if spec else 0,
        slots=spec.slots if spec else 0,
        threads=spec.threads if spec else 0,
        size_bytes=hosted.size_bytes,
        memory_bytes=hosted.memory_bytes,
        started_at=loaded.started_at if loaded else None,
        created_at=hosted.created_at,
        created_by=hosted.created_by,
        last_used_at=hosted.last_used_at,
        error=hosted.error,
        note=hosted.note,
        pooling=pooling,
        facts=hosted.facts,
        why=_why(hosted),
        tokens_per_s=round(hosted.tokens_per_s, 1),
        busy=sum(running.busy for running in hosted.all_engines),
        adapters=adapters,
        options=hosted.options,
    )


def _why(hosted: Hosted) -> tuple[Note, ...]:
    """Returns what was chosen for a deployment, and why."""
    chosen = hosted.chosen
    why = [hosted.reason, *([hosted.kind.why] if hosted.kind.why else []), *chosen.get("generate", ())]
    if "generate" in chosen and "embed" in chosen:
        why.append(note("A second engine of the same file answers embeddings:"))
    why += chosen.get("embed", ())
    if "score" in chosen:
        why += [note("Another engine gives log-likelihoods:"), *chosen["score"]]
    return tuple(item for item in why if item.template)
