"""Vision projectors: the GGUF file beside a model's weights by which llama.cpp sees (`--mmproj`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from fust.core.errors import FustError, InvalidInput
from fust.formats.gguf import GGUFHeader, read_gguf
from fust.serve.files import TreeFile, sees

_ARCHITECTURE = "clip"
_MOST_LOOKED_AT = 4
_BASE_BYTES = 8_000_000  # measured: tables and buffers that every projector has
_LARGEST_PATCHES = 16_384  # of the largest image that Qwen's projectors take whole


@dataclass(frozen=True, slots=True)
class Vision:
    """The projector that goes with a model."""

    path: Path
    name: str
    """What the repo calls it."""
    memory_bytes: int
    """What it takes in the engine beside the model: its weights, and the work on one image."""


def read_vision(path: Path, name: str, size_bytes: int) -> Vision:
    """Returns what a projector's header says.

    Raises:
        InvalidInput: not a projector, or a damaged one.
    """
    header = read_gguf(path)
    if not is_projector(header):
        raise InvalidInput(
            "{file} is called a projector and is none.",
            hint="Push the projector that belongs to this model, or give the file another name.",
            file=name,
        )

    def number(key: str) -> int:
        value = header.number(f"clip.vision.{key}") or 0
        return value if 0 <= value < 2**20 else 0

    patches = (number("image_size") // max(1, number("patch_size"))) ** 2
    if (header.text("clip.projector_type") or "").startswith("qwen"):
        patches = max(patches, _LARGEST_PATCHES)
    width = 6 * number("embedding_length") + 2 * number("feed_forward_length")
    return Vision(path, name, size_bytes + _BASE_BYTES + 4 * patches * width)


def is_projector(header: GGUFHeader) -> bool:
    """Returns whether a GGUF file holds what sees, not what writes."""
    return header.kind == "mmproj" or header.architecture == _ARCHITECTURE


def mark_projectors(
    files: Sequence[TreeFile], head: Callable[[str], AbstractContextManager[Path]]
) -> list[TreeFile]:
    """Returns a repo's files with those projectors marked whose headers say it and whose names do not.

    Headers are looked into only where few GGUF files lie side by side: a repo of many quantisations names its parts.
    """
    models = [file for file in files if file.path.lower().endswith(".gguf")]
    if any(sees(file) for file in models) or not 1 < len(models) <= _MOST_LOOKED_AT:
        return list(files)
    found: set[str] = set()
    for file in models:
        try:
            with head(file.path) as path:
                if is_projector(read_gguf(path)):
                    found.add(file.path)
        except (FustError, OSError):
            continue  # whoever serves it is told why it cannot be read
    return [replace(file, projector=file.path in found) for file in files]
