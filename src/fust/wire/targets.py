"""How the gateway reaches engines without importing them: ``serve`` implements it, ``app`` injects it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Target:
    """An engine that is ready to answer for one model."""

    deployment_id: str
    model: str
    """The name under which the client asked."""
    base_url: str
    """`http://127.0.0.1:PORT`, no trailing slash; the engine speaks the OpenAI API under `/v1`."""
    api_key: str = ""
    """Sent as bearer token to the engine; empty for none."""
    engine: str = "llamacpp"
    context: int = 0
    has_chat_template: bool = True
    capabilities: frozenset[str] = frozenset()
    """Such as chat, completions, embeddings, logprobs, json_schema."""
    adapters: tuple[int, ...] = ()
    """Ids of all adapters that the engine holds: every request names all of them."""
    adapter_scales: dict[int, float] = field(default_factory=lambda: {})
    pooling: str = ""
    repo_id: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be asked for by name."""

    name: str
    created_s: int
    owned_by: str
    repo_id: str
    state: str
    aliases: tuple[str, ...] = ()
    context: int = 0
    capabilities: frozenset[str] = frozenset()


class Targets(Protocol):
    """Finds engines for model names; blocking calls, made from a thread pool."""

    def acquire(self, model: str) -> Target:
        """Returns a ready engine for the model and counts one request on it; loads it when it was unloaded.

        Raises:
            NotFound: no deployment of that name.
            Unavailable: it cannot be loaded now (memory, start failure); says why.
        """
        ...

    def release(self, target: Target, *, failed: bool = False) -> None:
        """Ends one request; ``failed`` asks for a look at the engine's health."""
        ...

    def list_models(self) -> Sequence[ModelEntry]:
        """Returns every model that can be asked for."""
        ...
