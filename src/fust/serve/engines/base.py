"""The port behind which every engine stands: where it answers, what it can, how it lives and ends.

An engine is one process for one base model in one mode. `serve` starts and ends it; only `gateway` talks to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from fust.core.errors import UpstreamFailed
from fust.core.settings import ServeSettings
from fust.serve.engines.reasons import reason_words

Mode = Literal["generate", "embed", "score"]
MODES: tuple[Mode, ...] = ("generate", "embed", "score")
HeldAdapters = tuple[tuple[str, Path], ...]
"""(id, GGUF file) of each adapter; an engine knows them by their place, from 0. Of `LiveAdapters` (id, folder)."""
SCORE_LOGITS = 16 << 20
"""How many numbers the logits of one batch may be when a model scores."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """All that an engine needs to know to start."""

    engine_id: str
    path: Path
    """The model's file; of a split model the first part, the others beside it."""
    alias: str
    """The model's name in the engine's answers; the gateway puts the client's own word in its place."""
    mode: Mode
    context: int
    """Tokens of one slot."""
    slots: int
    threads: int
    log_name: str = "engine"
    """Its log is `log/<log_name>.log` in the home; engines of one deployment follow one another in it."""
    most_bytes: int = 0
    """What it may take besides the model at most (setting `serve.memory_bytes`); 0: what the machine has left."""
    pooling: str = ""
    """`mean`, `cls`, `last`, `rank` or `none`; for mode `embed`."""
    settings: ServeSettings = field(default_factory=ServeSettings)
    """Of which an engine takes those that name its program and what that may have."""
    options: bytes = b"{}"
    """What a kind without a model's file was told, as JSON."""
    secret: str = field(default="", repr=False)
    """The key that such a kind was given."""
    adapters: HeldAdapters = ()
    projector: Path | None = None
    """The GGUF file that it sees by."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a started engine says of itself."""

    base_url: str
    """`http://127.0.0.1:PORT`, no trailing slash."""
    api_key: str
    pid: int
    context: int
    """Tokens of one slot, as the engine really took them."""
    capabilities: frozenset[str]
    adapters: tuple[int, ...] = ()


class EngineLoadFailed(UpstreamFailed):
    """The engine could not load the model; `reason` is its own last word."""

    code = "engine_load_failed"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__("The model could not be loaded: {reason}.", reason=reason_words(reason))


@runtime_checkable
class LiveAdapters(Protocol):
    """An engine that takes adapters while it runs, and knows each by its id."""

    def add_adapter(self, id_: str, path: Path) -> None:
        """Reads an adapter from a folder in PEFT's form, which stays there until it is removed.

        Raises:
            NotOffered, UpstreamFailed: the engine takes none, or not this one; says why.
        """
        ...

    def remove_adapter(self, id_: str) -> None:
        """Forgets an adapter, with which nothing is being answered any more."""
        ...


class Engine(Protocol):
    """One engine process."""

    spec: EngineSpec

    def start(self, timeout_s: float, on_exit: Callable[[Engine, str], None]) -> EngineInfo:
        """Starts the process and waits until it can answer.

        Args:
            timeout_s: how long loading may take.
            on_exit: called once, from a thread, with the reason, when it later ends without `stop`.

        Raises:
            EngineLoadFailed: the model did not load; nothing is left running.
        """
        ...

    def stop(self) -> None:
        """Ends the process and all that it started; returns when it is gone. May be called twice."""
        ...

    def is_healthy(self, timeout_s: float = 2.0) -> bool:
        """Returns whether the engine answers its health check."""
        ...

    def is_stopped(self) -> bool:
        """Returns whether somebody halted its process (SIGSTOP): it answers nothing and does not end."""
        ...

    def cpu_s(self) -> float:
        """Returns the processor time that it took so far, in seconds; 0 when it is gone."""
        ...

    def memory_bytes(self) -> int:
        """Returns the memory it takes now (PSS where the system tells, else RSS); 0 when it is gone."""
        ...
