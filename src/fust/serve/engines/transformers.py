"""transformers as an engine: safetensors of any architecture that it knows, in a child process of ours, in 32 bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fust.core.errors import NotOffered
from fust.core.extras import install_command, list_missing
from fust.core.settings import ServeSettings
from fust.serve.engines.base import EngineSpec, Mode
from fust.serve.engines.child_engine import ChildEngine

CLAIMS: Mapping[Mode, frozenset[str]] = {
    "generate": frozenset({"chat", "completions", "logprobs", "json_schema", "tools"}),
    "embed": frozenset({"embeddings"}),
    "score": frozenset({"scoring"}),
}
ADDS = frozenset({"rerank", "classify"})
_PACKAGES = ("torch", "transformers", "llguidance")


def check_installed(settings: ServeSettings) -> None:
    """Raises NotOffered when the packages of this engine are not here."""
    if missing := list_missing(_PACKAGES):
        raise NotOffered(
            "Serving safetensors needs {packages}, which is not installed.",
            hint="Install it: {command}\nA GGUF file of the model needs nothing more.",
            command=install_command("transformers"),
            packages=missing,
        )


def make(spec: EngineSpec, home: Path) -> ChildEngine:
    """Returns an engine that was not started."""
    return ChildEngine(spec, home, "fust.serve.engines.transformers_child", CLAIMS[spec.mode])
