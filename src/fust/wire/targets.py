"""How the gateway reaches engines without importing them: ``serve`` implements it, ``app`` injects it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Mode = Literal["generate", "embed", "score"]


@dataclass(frozen=True, slots=True)
class Target:
    """An engine that is ready to answer for one model."""

    deployment_id: str
    model: str
    """The name under which the client asked."""
    base_url: str
    """`http://127.0.0.1:PORT`, no trailing slash; the engine speaks the OpenAI API under `/v1`, or `POST /score`."""
    api_key: str = ""
    """Sent as bearer token to the engine; empty for none."""
    engine: str = "llamacpp"
    engine_id: str = ""
    """Tells one process from the next behind the same deployment."""
    alias: str = ""
    """What the engine calls the model in its answers."""
    mode: Mode = "generate"
    context: int = 0
    slots: int = 1
    has_chat_template: bool = True
    capabilities: frozenset[str] = frozenset()
    """Such as chat, completions, embeddings, logprobs, json_schema, tools."""
    adapters: tuple[int, ...] = ()
    """Ids of all adapters that the engine holds: every request names all of them."""
    adapter_scales: dict[int, float] = field(default_factory=lambda: {})
    adapter: str = ""
    """The adapter that the engine is to use, where requests name it: its file for one that scores, which opens it when it
    is asked for first, else its id."""
    pooling: str = ""
    embedding: int = 0
    """How many numbers its embeddings have; 0 when not known."""
    repo_id: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """The repo of an adapter: with it a model may be used by who may use both."""

    repo_id: str
    private: bool
    gated: bool


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be asked for by name."""

    name: str
    created_s: int
    owned_by: str
    """Owner of the repo: with `private`, who may know of it."""
    repo_id: str
    private: bool
    gated: bool
    """Used by those who were let in to the repo's files."""
    state: str
    aliases: tuple[str, ...] = ()
    context: int = 0
    capabilities: frozenset[str] = frozenset()
    has_chat_template: bool = True
    adapter: AdapterEntry | None = None
    """Of a base with an adapter."""


class Targets(Protocol):
    """Finds engines for model names. Those that say so may block and are called from a thread pool."""

    def peek(self, model: str) -> ModelEntry | None:
        """Returns the model's entry when it is known and fresh, else None; never blocks."""
        ...

    def find(self, model: str) -> ModelEntry | None:
        """Returns the model's entry, or None when there is no such model; may block."""
        ...

    def acquire_now(self, model: str, mode: Mode = "generate") -> Target | None:
        """Returns an engine that is ready at this moment and counts one request on it, else None; never blocks."""
        ...

    def acquire(self, model: str, mode: Mode = "generate") -> Target:
        """Returns a ready engine for the model and counts one request on it; loads it when it was unloaded; may block.

        Raises:
            NotFound: no deployment of that name.
            Unsupported: the model cannot do what `mode` asks.
            Unavailable: it cannot be loaded now (memory, start failure); says why.
        """
        ...

    def release(self, target: Target, *, failed: bool = False, tokens: int = 0, seconds: float = 0.0) -> None:
        """Ends one request; never blocks.

        Args:
            target: as `acquire` gave it.
            failed: asks for a look at the engine's health.
            tokens: how many were generated, 0 when not known.
            seconds: how long generating them took.
        """
        ...

    def end(self, target: Target) -> None:
        """Ends an engine that hangs in a request; it is started again as after a crash. May block."""
        ...

    def list_models(self) -> Sequence[ModelEntry]:
        """Returns every model that can be asked for; may block."""
        ...
