"""Puts a LoRA adapter (PEFT's two files) into the weights it belongs to: numpy alone, in float32, a matrix at a time.

W + scale * B A is computed in float32 and stored as W is stored, rounded once. Every other byte is the base's: files are
copied and only the matrices that the adapter changes are written over, so shards, index and headers stay as they are.
Names, scale and what the options mean: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fust.core.decode_words import words_of
from fust.core.errors import InvalidInput
from fust.core.i18n import Words
from fust.formats.ggml_types import FloatArray
from fust.formats.peft import PIECE, PeftConfig
from fust.formats.safetensors import SafetensorsTensor, read_safetensors
from fust.formats.safetensors_values import from_floats, map_tensor, to_floats

_ROWS_AT_ONCE = 1024
_MAX_CONFIG_BYTES = 2**20


_OTHER = "It belongs to another base: name that one with --base."
_OTHER_NAMED = "It belongs to another base, and names {named}: name that one with --base."


class AdapterConfig(PeftConfig):
    """adapter_config.json, and which revision of the base it names."""

    revision: str | None = None


@dataclass(frozen=True, slots=True)
class _Change:
    """What is added to a matrix."""

    a: FloatArray
    """(r, in)"""
    b: FloatArray
    """(out, r)"""
    scale: float


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Returns adapter_config.json.

    Raises:
        InvalidInput: it cannot be read, or the adapter is of a kind that cannot be put into weights.

    """
    path = folder / "adapter_config.json"
    try:
        with path.open("rb") as file:
            config = msgspec.json.decode(file.read(_MAX_CONFIG_BYTES), type=AdapterConfig)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise _refused(
            Words("{file} cannot be read: {fault}", file="adapter_config.json", fault=words_of(error))
        ) from None
    if config.peft_type != "LORA":
        raise _refused(f"it is {config.peft_type[:40] or 'of no kind'} and not LORA")
    for name, is_used in (
        ("use_dora", config.use_dora),
        ("fan_in_fan_out", config.fan_in_fan_out),
        ("lora_bias", config.lora_bias),
        ("bias", config.bias != "none"),
        ("modules_to_save", bool(config.modules_to_save)),
        ("target_parameters", bool(config.target_parameters)),
    ):
        if is_used:
            raise _refused(f"it uses {name}")
    if config.init_lora_weights not in (True, False, None, "gaussian", "orthogonal", "eva"):
        raise _refused(f"init_lora_weights {str(config.init_lora_weights)[:40]} changes the base itself")
    return config


def merge_adapter(
    base: Path, adapter: Path, target: Path, tell: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Fills ``target`` with the files of the base, the weights with the adapter in them.

    Tokenizer files are those of the adapter's folder where it has any, else the base's, unchanged byte by byte.

    Raises:
        InvalidInput: the adapter does not fit this base, or is of a kind that cannot be put into weights.
        OSError: reading or writing failed.

    """
    changes = _read_changes(adapter)
    named = read_adapter_config(adapter).base_model_name_or_path
    target.mkdir(parents=True, exist_ok=True)
    weights = sorted(base.glob("*.safetensors"))
    left = set(changes)
    places: list[tuple[Path, SafetensorsTensor]] = []
    for path in weights:
        for tensor in read_safetensors(path).tensors:
            change = changes.get(tensor.name)
            if change is not None:
                _check_shape(tensor, change, named)
                left.discard(tensor.name)
                places.append((path, tensor))
    if left:
        raise InvalidInput(
            "The adapter changes {tensor}, which its base does not have.",
            hint=_OTHER_NAMED if named else _OTHER,
            code="wrong_base",
            named=(named or "")[:200],
            tensor=min(left)[:200],
        )
    for path in weights:
        shutil.copyfile(path, target / path.name)
    _copy_others(base, adapter, target)
    for done, (path, tensor) in enumerate(places):
        _add(target / path.name, tensor, changes[tensor.name])
        tell(done + 1, len(places))


def _read_changes(adapter: Path) -> dict[str, _Change]:
    config = read_adapter_config(adapter)
    path = adapter / "adapter_model.safetensors"
    if not path.exists():
        raise _refused("it has no adapter_model.safetensors")
    halves: dict[str, dict[str, FloatArray]] = {}
    for tensor in read_safetensors(path).tensors:
        match = PIECE.match(tensor.name)
        if match is None or len(tensor.shape) != 2:
            raise _refused(f"its tensor {tensor.name[:200]} is not known")
        halves.setdefault(match[1], {})[match[2]] = to_floats(map_tensor(path, tensor), tensor.dtype)
    found: dict[str, _Change] = {}
    for module, half in halves.items():
        if half.keys() != {"A", "B"} or half["A"].shape[0] != half["B"].shape[1]:
            raise _refused(f"its two halves for {module[:200]} do not fit each other")
        rank = half["A"].shape[0]
        alpha = _by_pattern(config.alpha_pattern, module, config.lora_alpha)
        if rank != _by_pattern(config.rank_pattern, module, config.r):
            raise _refused(f"the rank of {module[:200]} is not the one that its config says")
        scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
        found[f"{module}.weight"] = _Change(half["A"], half["B"], scale)
    if not found:
        raise _refused("it changes nothing")
    return found


def _by_pattern(pattern: dict[str, Any], module: str, usual: float) -> float:
    """Returns the value of the first key that a module's name ends with, as PEFT's `get_pattern_key` has it."""
    for key, value in pattern.items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error:
            raise _refused(f"its pattern {key[:100]} cannot be read") from None
    return usual


def _check_shape(tensor: SafetensorsTensor, change: _Change, named: str | None) -> None:
    wanted = (change.b.shape[0], change.a.shape[1])
    if tensor.shape != wanted or tensor.dtype not in ("F32", "F16", "BF16"):
        raise InvalidInput(
            "The adapter's change of {tensor} is {wanted}, and the base's weight is {found}.",
            hint=_OTHER_NAMED if named else _OTHER,
            code="wrong_base",
            named=(named or "")[:200],
            tensor=tensor.name[:200],
            wanted=" x ".join(map(str, wanted)),
            found=" x ".join(map(str, tensor.shape)) + f" {tensor.dtype}",
        )


def _add(path: Path, tensor: SafetensorsTensor, change: _Change) -> None:
    """Writes a matrix over with what the adapter makes of it."""
    stored: npt.NDArray[np.generic] = map_tensor(path, tensor, writable=True)
    scaled: FloatArray = (change.b * np.float32(change.scale)).astype(np.float32)
    for first in range(0, len(stored), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        merged = (to_floats(stored[rows], tensor.dtype) + scaled[rows] @ change.a).astype(np.float32)
        stored[rows] = from_floats(merged, tensor.dtype)


def _copy_others(base: Path, adapter: Path, target: Path) -> None:
    for path in sorted(base.iterdir()):
        if (
            path.is_file()
            and path.suffix in (".json", ".jinja", ".model", ".txt")
            and path.name != "adapter_config.json"
        ):
            shutil.copyfile(path, target / path.name)
    for name in TOKENIZER_FILES:
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, target / name)


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.txt",
)


def _refused(why: str | Words) -> InvalidInput:
    return InvalidInput(
        "This adapter cannot be put into weights: {why}.",
        hint="Plain LoRA adapters of PEFT can.",
        code="cannot_merge",
        why=why,
    )
