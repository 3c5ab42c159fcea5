"""What a model's weights say of themselves, as `model_info` shows it: read from headers only, kept by content."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fust.core.errors import FustError
from fust.formats.gguf import read_gguf
from fust.formats.safetensors import read_safetensors
from fust.hub.draw import Json
from fust.hub.git_repo import Entry
from fust.hub.service import Hub
from fust.hub.types import RepoInfo

log = logging.getLogger(__name__)

HEAD_BYTES = 32 * 2**20
"""Longest header that is looked at."""
MAX_FILES = 200


class Formats:
    """Reads headers of weights; what it read is kept by the file's hash."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._safetensors: dict[str, dict[str, int]] = {}
        self._ggufs: dict[str, Json] = {}

    def read(self, info: RepoInfo, oid: str, entries: Sequence[Entry]) -> Json:
        """Returns `safetensors` and `gguf` of a model at a commit; without them when headers cannot be read."""
        if info.type != "model":
            return {}
        found: Json = {}
        counts: Counter[str] = Counter()
        for entry in [e for e in entries if e.path.endswith(".safetensors") and "/" not in e.path][
            :MAX_FILES
        ]:
            counts.update(self._parameters(info, oid, entry))
        if counts:
            found["safetensors"] = {"parameters": dict(counts), "total": counts.total()}
        ggufs = [e for e in entries if e.path.endswith(".gguf")]
        if ggufs:
            drawn = self._gguf(info, oid, min(ggufs, key=lambda e: e.path))
            if drawn:
                found["gguf"] = drawn
        return found

    def _parameters(self, info: RepoInfo, oid: str, entry: Entry) -> dict[str, int]:
        key = entry.sha256 or entry.oid
        if key not in self._safetensors:
            counts: Counter[str] = Counter()
            with open_head(self._hub, info, oid, entry.path) as path:
                try:
                    for tensor in read_safetensors(path).tensors:
                        counts[tensor.dtype] += tensor.elements
                except (FustError, OSError) as error:
                    _unreadable(info, entry.path, error)
            if len(self._safetensors) > 5000:
                self._safetensors.clear()
            self._safetensors[key] = dict(counts)
        return self._safetensors[key]

    def _gguf(self, info: RepoInfo, oid: str, entry: Entry) -> Json:
        key = entry.sha256 or entry.oid
        if key not in self._ggufs:
            drawn: Json = {}
            with open_head(self._hub, info, oid, entry.path) as path:
                try:
                    header = read_gguf(path)
                    drawn = {
                        "total": header.parameters,
                        "architecture": header.architecture,
                        "context_length": header.context_length,
                    }
                    if header.chat_template:
                        drawn["chat_template"] = header.chat_template[:50_000]
                except (FustError, OSError) as error:
                    _unreadable(info, entry.path, error)
            if len(self._ggufs) > 1000:
                self._ggufs.clear()
            self._ggufs[key] = drawn
        return self._ggufs[key]


def _unreadable(info: RepoInfo, path: str, error: Exception) -> None:
    log.info("unreadable header", extra={"repo": info.repo_id, "file": path, "why": str(error)})


@contextmanager
def open_head(hub: Hub, info: RepoInfo, oid: str, name: str) -> Generator[Path]:
    """Yields a file with the first bytes of another, under its name, and its size; the rest is a hole."""
    file = hub.content.find_file(info, oid, name, oid)
    local = hub.content.local_path(file)
    if local:
        yield local
        return
    with tempfile.TemporaryDirectory(dir=hub.cache.root, prefix=".head-", suffix=".tmp") as folder:
        path = Path(folder) / name.rsplit("/", 1)[-1]
        with open(path, "wb") as sparse:
            try:
                for piece in hub.content.iter_bytes(info, file, 0, min(file.size, HEAD_BYTES)):
                    sparse.write(piece)
            except FustError as error:
                _unreadable(info, name, error)
            sparse.truncate(file.size)
        yield path
