"""From what a folder holds to files for use: an adapter into its base's weights, weights into GGUF, GGUF into less."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fust.core.errors import InvalidInput
from fust.formats.ggml_types import FileType
from fust.formats.gguf_quantise import quantise_gguf
from fust.formats.gguf_write import check_gguf, write_gguf
from fust.formats.peft_merge import TOKENIZER_FILES, merge_adapter

Kind = Literal["adapter", "weights", "gguf"]
Tell = Callable[[str, int, int], None]
"""Hears what is being made, and how far it is."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made."""

    name: str
    """Of the model, as it stands in GGUF files and in their names: `me/helper` or `helper`."""
    to: Sequence[FileType] = ()
    merge: bool = False
    """Whether the whole weights are wanted."""
    licence: str = ""
    threads: int = 1


def kind_of(names: Iterable[str], what: str) -> Kind:
    """Returns what files at the top of a folder or repo are.

    Raises:
        InvalidInput: none of the three.

    """
    present = {name for name in names if "/" not in name}
    if "adapter_config.json" in present:
        return "adapter"
    if "config.json" in present and any(name.endswith(".safetensors") for name in present):
        return "weights"
    if any(name.endswith(".gguf") for name in present):
        return "gguf"
    raise InvalidInput(
        "{what} holds no adapter, no weights in safetensors and no GGUF file.",
        hint="Name a repo or folder with one of these.",
        what=what,
    )


def is_needed(name: str, kind: Kind) -> bool:
    """Returns whether a file (at the top) is read for this kind; of GGUF files one is chosen by ``pick_gguf``."""
    if "/" in name or kind == "gguf":
        return False
    endings = (
        (".safetensors", ".json", ".jinja")
        if kind == "weights"
        else ("adapter_model.safetensors", ".json", ".jinja")
    )
    return name.endswith(endings) or name in TOKENIZER_FILES


def pick_gguf(names: Iterable[str], what: str) -> str:
    """Returns the GGUF file that others can be made from: one that is not quantised, by its name.

    Raises:
        InvalidInput: there is none.

    """
    files = sorted(name for name in names if name.endswith(".gguf") and "/" not in name)
    whole = [name for word in ("f32", "bf16", "f16") for name in files if word in name.lower()]
    if not whole and len(files) != 1:
        raise InvalidInput(
            "{what} holds no GGUF file that is not quantised ({files}).",
            hint="Quantise from a file in F16, BF16 or F32; `fust export` makes one of the safetensors.",
            what=what,
            files=", ".join(files)[:200],
        )
    return (whole or files)[0]


def convert(source: Path, out: Path, order: Order, *, base: Path | None, tell: Tell) -> list[Path]:
    """Fills ``out`` with what is ordered, and returns the GGUF files (merged weights stand in ``out`` itself).

    ``source`` and ``base`` are folders, or ``source`` is a GGUF file. What ``out`` has already is not made again.

    Raises:
        InvalidInput: it cannot be made faithfully; says why.

    """
    out.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        return [_quantised(source, out, file_type, order, tell) for file_type in order.to]
    kind = kind_of((path.name for path in source.iterdir()), source.name)
    if kind == "gguf":
        chosen = source / pick_gguf((path.name for path in source.iterdir()), source.name)
        return [_quantised(chosen, out, file_type, order, tell) for file_type in order.to]
    if order.merge and kind != "adapter":
        raise InvalidInput(
            "{what} is no adapter: its weights are whole.", hint="Use it as it is.", what=source.name
        )
    weights = source if kind == "weights" else out if order.merge else out / "merged"
    for file_type in order.to:
        check_gguf(source if kind == "weights" else _needed(base), file_type)  # before any byte is written
    if kind == "adapter":
        merge_adapter(_needed(base), source, weights, lambda done, total: tell("weights", done, total))
    files = [_written(weights, out, file_type, order, tell) for file_type in order.to]
    if kind == "adapter" and not order.merge:
        shutil.rmtree(weights)
    return files


def _needed(base: Path | None) -> Path:
    if base is None:
        raise InvalidInput(
            "An adapter is no model by itself: its base is needed.", hint="Name its folder with --base."
        )
    return base


def _path(out: Path, file_type: FileType, order: Order) -> Path:
    return out / f"{order.name.rpartition('/')[2]}-{file_type}.gguf"


def _written(weights: Path, out: Path, file_type: FileType, order: Order, tell: Tell) -> Path:
    target = _path(out, file_type, order)
    if not target.exists():
        write_gguf(
            weights,
            target,
            file_type,
            name=order.name,
            licence=order.licence,
            threads=order.threads,
            tell=lambda done, total: tell(target.name, done, total),
        )
    return target


def _quantised(source: Path, out: Path, file_type: FileType, order: Order, tell: Tell) -> Path:
    target = _path(out, file_type, order)
    if not target.exists():
        quantise_gguf(
            source,
            target,
            file_type,
            threads=order.threads,
            tell=lambda done, total: tell(target.name, done, total),
        )
    return target
