"""One deployment at run time: its engines, who uses them, what went wrong. Guarded by the lock of `Register`."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from fust.core.errors import FustError
from fust.formats.ggml_types import FileType
from fust.serve.adapters import VISIBILITY_S, Attached
from fust.serve.conversion import form_of
from fust.serve.engines.base import Engine, EngineInfo, EngineSpec, HeldAdapters, Mode
from fust.serve.engines.kinds import Kind, get_kind
from fust.serve.facts import ModelFacts
from fust.serve.models import DeploymentRow
from fust.serve.notes import Note, note
from fust.serve.scoring import Scorer
from fust.wire.targets import AdapterEntry, ModelEntry, Target

State = Literal["loading", "ready", "idle", "failed", "stopped"]

CRASH_WINDOW_S = 60.0
CRASH_LIMIT = 4


@dataclass(slots=True, eq=False)
class Running:
    """An engine of a deployment, from the moment its loading begins."""

    spec: EngineSpec
    estimate_bytes: int
    engine: Engine | None = None
    info: EngineInfo | None = None
    started_at: datetime | None = None
    memory_bytes: int = 0
    busy: int = 0
    using: dict[str, int] = field(default_factory=dict[str, int])
    """How many requests name each adapter, by its id; of `LiveAdapters`."""
    looked: tuple[float, float] = (0.0, 0.0)
    """When its processor time was read last (monotonic), and what it was, in seconds."""
    doomed: bool = False
    """Being stopped: takes no new request."""
    retired: bool = False
    """Another took its place: it answers what it has and ends."""

    def take(self, adapter: Attached | None, *, live: bool) -> None:
        """Counts a request on it, and with ``live`` on the adapter that it names."""
        self.busy += 1
        if adapter is not None and live:
            self.using[adapter.id] = self.using.get(adapter.id, 0) + 1

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self.info is not None and not self.doomed and not self.retired

    def holds(self, adapter: Attached | None) -> bool:
        """Whether it can answer with an adapter, or without any."""
        return adapter is None or any(id_ == adapter.id for id_, _ in self.spec.adapters)


@dataclass(slots=True)
class Hosted:
    """A deployment with all that is known of it while the server runs."""

    id: str
    name: str
    alias: str | None
    repo_id: str
    file: str
    revision: str
    pinned: bool
    kind: Kind
    size_bytes: int
    reason: Note
    created_by: str
    created_at: datetime
    last_used_at: datetime | None
    options: bytes = b"{}"
    """What an engine without a file was told, as JSON."""
    sealed: str = field(default="", repr=False)
    engines: dict[Mode, Running] = field(default_factory=lambda: {})
    beside: list[Running] = field(default_factory=lambda: [])
    """Engines that are to take over, or that answer their last requests."""
    adapters: dict[str, Attached] = field(default_factory=lambda: {})
    """By name."""
    settling: bool = False
    """Whether a thread brings its engine to the adapters that are wanted."""
    facts: ModelFacts | None = None
    path: Path | None = None
    scorer: Scorer | None = None
    """What gives its log-likelihoods in the place of an engine of its own kind."""
    chosen: dict[Mode, tuple[Note, ...]] = field(default_factory=lambda: {})
    note: Note | None = None
    error: FustError | None = None
    failed: bool = False
    crashes: list[float] = field(default_factory=lambda: [])
    starting: int = 0
    """Threads that were told to load it and are not done."""
    retry_at: float = 0.0
    """Monotonic time before which a crashed engine is not started again."""
    used_s: float = field(default_factory=time.monotonic)
    tokens_per_s: float = 0.0
    private: bool = True
    gated: bool = True
    visibility_s: float = -1e9
    dirty: bool = False
    """Whether `last_used_at` is newer than its row."""
    deleted: bool = False
    bringing: threading.Lock = field(default_factory=threading.Lock)
    """Held while the model's file is brought from the hub and read."""
    preparing: threading.Lock = field(default_factory=threading.Lock)
    """Held while files of adapters are made."""
    attaching: threading.Lock = field(default_factory=threading.Lock)
    """Held while an adapter is added."""

    @classmethod
    def of(cls, row: DeploymentRow) -> Hosted:
        """Returns the run-time side of a row."""
        reason = msgspec.json.decode(row.reason, type=Note) if row.reason else note("")
        return cls(
            row.id, row.name, row.alias, row.repo_id, row.file, row.revision, row.pinned, get_kind(row.engine),
            row.size_bytes, reason, row.created_by, row.created_at, row.last_used_at, row.options.encode() or b"{}",
            row.sealed,
        )  # fmt: skip

    @property
    def form(self) -> FileType | None:
        """What its file is converted to on the way; None when it is served as it is."""
        return form_of(self.kind.name, self.file, self.options)

    @property
    def owner(self) -> str:
        """Owner of the repo."""
        return self.repo_id.partition("/")[0]

    @property
    def state(self) -> State:
        """Where it is: loading, ready, idle (loads at the next request), failed or stopped."""
        if self.deleted:
            return "stopped"
        if any(running.is_ready for running in self.engines.values()):
            return "ready"
        if self.engines or self.starting or self.retry_at > time.monotonic():
            return "loading"
        return "failed" if self.failed else "idle"

    @property
    def all_engines(self) -> tuple[Running, ...]:
        """Those that answer, and those that begin or end beside them."""
        return (*self.engines.values(), *self.beside)

    @property
    def is_busy(self) -> bool:
        """Whether a request is on one of its engines, or one is loading."""
        return any(running.busy or running.info is None for running in self.all_engines)

    @property
    def memory_bytes(self) -> int:
        """What its engines take; the estimate until it was measured."""
        return sum(running.memory_bytes or running.estimate_bytes for running in self.all_engines)

    def wanted_adapters(self) -> HeldAdapters:
        """Returns the adapters that its engine is to hold, oldest first."""
        found = sorted(self.adapters.values(), key=lambda adapter: (adapter.created_at, adapter.id))
        return tuple((a.id, a.path) for a in found if a.error is None and a.path is not None)

    def find_adapter(self, word: str) -> Attached | None:
        """Returns an adapter by its name or its repo, or None."""
        of_repo = (adapter for adapter in self.adapters.values() if adapter.repo_id == word)
        return self.adapters.get(word) or next(of_repo, None)

    def state_of(self, adapter: Attached) -> State:
        """Where an adapter is: `ready`, `loading`, `failed`, or `idle` while its base is not loaded."""
        if adapter.error is not None:
            return "failed"
        running = self.engines.get("generate")
        if running is not None and running.is_ready and running.holds(adapter):
            return "ready"
        return "loading" if self.settling or running is not None or self.starting else "idle"

    def has_fresh_visibility(self) -> bool:
        """Whether `private` and `gated` were looked up within the last second."""
        return time.monotonic() - self.visibility_s < VISIBILITY_S

    def entry(self) -> ModelEntry:
        """Returns what a model list says of it."""
        facts = self.facts
        ready = next((r for r in self.engines.values() if r.info), None)
        return ModelEntry(
            name=self.name,
            created_s=int(self.created_at.timestamp()),
            owned_by=self.owner,
            repo_id=self.repo_id,
            private=self.private,
            gated=self.gated,
            state=self.state,
            aliases=(self.alias,) if self.alias else (),
            context=ready.info.context if ready and ready.info else (facts.context_train if facts else 0),
            capabilities=self.kind.offers(facts) if facts else frozenset({"embeddings"}),
            has_chat_template=facts.has_chat_template if facts else True,
        )

    def entry_of(
        self,
        name: str,
        adapter: AdapterEntry,
        *,
        aliases: tuple[str, ...] = (),
        attached: Attached | None = None,
    ) -> ModelEntry:
        """Returns what a model list says of the base with an adapter."""
        base = self.entry()
        return replace(
            base,
            name=name,
            created_s=int(attached.created_at.timestamp()) if attached else base.created_s,
            owned_by=adapter.repo_id.partition("/")[0],
            state=self.state_of(attached) if attached else "idle",
            aliases=aliases,
            capabilities=base.capabilities - {"embeddings", "rerank"},
            adapter=adapter,
        )

    def attached_entry(self, attached: Attached) -> ModelEntry:
        """Returns what a model list says of the base with an adapter that is there."""
        aliases = [f"{self.alias}:{attached.name}"] if self.alias else []
        return self.entry_of(
            f"{self.name}:{attached.name}",
            AdapterEntry(attached.repo_id, attached.private, attached.gated),
            aliases=(*aliases, attached.repo_id),
            attached=attached,
        )

    def target(self, running: Running, model: str, adapter: Attached | None = None) -> Target:
        """Returns where requests for this deployment go, with an adapter or without."""
        info, facts = running.info, self.facts
        assert info is not None and facts is not None
        return Target(
            deployment_id=self.id,
            model=model,
            base_url=info.base_url,
            api_key=info.api_key,
            engine=self.kind.name,
            engine_id=running.spec.engine_id,
            alias=running.spec.alias,
            mode=running.spec.mode,
            context=info.context,
            slots=running.spec.slots,
            has_chat_template=facts.has_chat_template,
            capabilities=info.capabilities,
            adapters=info.adapters,
            adapter_scales={
                place: 1.0
                for place, (id_, _) in zip(
                    info.adapters, running.spec.adapters, strict=not self.kind.live_adapters
                )
                if adapter is not None and id_ == adapter.id
            },
            adapter=self._word_for(adapter, running.spec.mode) if adapter is not None else "",
            pooling=running.spec.pooling,
            embedding=facts.embedding,
            repo_id=adapter.repo_id if adapter else self.repo_id,
            revision=adapter.revision if adapter else self.revision,
        )

    def _word_for(self, adapter: Attached, mode: Mode) -> str:
        """Returns what an engine calls an adapter where it does not know it by its place."""
        if self.kind.live_adapters:
            return adapter.id
        return str(adapter.path) if mode == "score" else ""

    def forgive(self) -> None:
        """Forgets former failures, so that it is loaded once more."""
        self.failed, self.error, self.note, self.crashes = False, None, None, []
        self.retry_at = 0.0

    def note_crash(self, reason: FustError) -> float | None:
        """Counts a crash; returns the seconds to wait before the next start, None when it crashed too often."""
        moment = time.monotonic()
        self.crashes = [at for at in self.crashes if moment - at < CRASH_WINDOW_S] + [moment]
        self.error = reason
        if len(self.crashes) >= CRASH_LIMIT:
            self.failed = True
            self.retry_at = 0.0
            return None
        wait_s = 0.25 * 4 ** (len(self.crashes) - 1)
        self.retry_at = moment + wait_s
        return wait_s
