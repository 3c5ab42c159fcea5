"""LoRA adapters for llama.cpp: made from PEFT's two files with numpy alone, and checked against the base's header.

An adapter that is not for a base often loads and answers nonsense, so names and shapes are compared before an engine
sees them, and what llama.cpp cannot apply is refused by its name. File layout: `llama_adapter_lora_init` and
`convert_lora_to_gguf.py` of llama.cpp; PEFT's: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fust.core.errors import InvalidInput, NotOffered
from fust.formats.gguf import GGUFHeader, GGUFTensor, read_gguf
from fust.formats.peft import (
    PeftConfig,
    check_settings,
    is_alpha,
    other_base,
    read_config,
    read_pairs,
    refused,
)
from fust.formats.safetensors import SafetensorsTensor

_ENGINE = "llama.cpp"
_ALIGNMENT = 32
_LLAMA_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_FUSED_MODULES = {
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_MODULES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("llama", "granite", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo2"), _LLAMA_MODULES),
    "qwen3moe": {module: name for module, name in _LLAMA_MODULES.items() if module.startswith("self_attn.")},
    "phi3": _FUSED_MODULES,
}  # fmt: skip
"""By llama.cpp's architecture: what it calls the modules of transformers."""
_PAIRED = frozenset({"llama", "granite", "smollm3"})
"""Architectures whose q and k rows llama.cpp keeps in pairs where transformers has halves of each head."""
_LAYER = re.compile(r"^(?:model\.|model\.language_model\.|language_model\.model\.)layers\.(\d{1,4})\.(.+)$")
_PLAIN_KEY = re.compile(r"^\^?[A-Za-z0-9_.]+$")

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BaseShape:
    """What an adapter has to fit: the matrices of a base model, (inputs, outputs) by their GGUF name."""

    name: str
    """As it is called in messages."""
    header: GGUFHeader
    matrices: Mapping[str, tuple[int, int]]

    @property
    def architecture(self) -> str:
        """Returns the architecture in llama.cpp's words."""
        return self.header.architecture or ""

    def heads(self, module: str, layer: int) -> int:
        """Returns how many heads a layer's q or k rows are made of."""
        key = f"{self.architecture}.attention.head_count"
        found = self.header.values.get(f"{key}_kv") if module == "attn_k" else None
        if found is None:
            found = self.header.values.get(key)
        if isinstance(found, tuple):
            found = found[layer] if layer < len(found) else 0
        return found if isinstance(found, int) else 0


@dataclass(frozen=True, slots=True)
class _Planned:
    """One matrix of the file to come."""

    name: str
    source: SafetensorsTensor
    heads: int
    factor: float

    @property
    def type_number(self) -> int:
        """Returns the GGML type: 16 bits stay 16 bits, everything else (bfloat16 too) becomes 32."""
        return 1 if self.source.dtype == "F16" else 0

    @property
    def size_bytes(self) -> int:
        """Returns what it takes in the file."""
        return self.source.elements * (2 if self.type_number else 4)


def read_base(path: Path, name: str) -> BaseShape:
    """Returns the shape of a model from its GGUF file; of a split one, the parts beside it are read too.

    Raises:
        InvalidInput: the file is damaged.
        OSError: it cannot be read.
    """
    header = read_gguf(path)
    parts = [path]
    if header.split_count > 1:
        stem = re.sub(r"-\d{5}-of-\d{5}\.gguf$", "", path.name)
        parts = sorted(part for part in path.parent.iterdir() if part.name.startswith(f"{stem}-"))
    headers = [header, *(read_gguf(part) for part in parts if part != path)]
    matrices = {
        tensor.name: (tensor.shape[0], tensor.shape[1])
        for each in headers
        for tensor in each.tensors
        if len(tensor.shape) == 2
    }
    return BaseShape(name, header, matrices)


def check_lora(path: Path, adapter: str, base: BaseShape) -> None:
    """Looks whether a GGUF file is a LoRA adapter that fits a base.

    Raises:
        InvalidInput: it is damaged, or for another base; names both, and what differs.
        NotOffered: it is no LoRA adapter, or one that llama.cpp cannot apply; names what.
        OSError: it cannot be read.
    """
    header = read_gguf(path, adapter)
    kind = header.text("adapter.type")
    if header.kind != "adapter" or kind != "lora":
        raise _refused(adapter, f"a file that is no LoRA adapter ({header.kind[:50]}, {(kind or '')[:50]})")
    if "adapter.alora.invocation_tokens" in header.values:
        raise _refused(adapter, "aLoRA (alora_invocation_tokens)")
    if header.architecture != base.architecture:
        raise _other_base(
            adapter,
            base,
            f"it is for the architecture {header.architecture}, the model is a {base.architecture}",
        )
    alpha = header.values.get("adapter.lora.alpha", 0.0)  # without one the matrices count as they are
    if not isinstance(alpha, float) or not is_alpha(alpha):
        raise _refused(adapter, f"lora_alpha {str(alpha)[:30]}")
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in header.tensors:
        name, dot, side = tensor.name.rpartition(".")
        if not dot or side not in ("lora_a", "lora_b") or len(tensor.shape) != 2:
            raise _refused(adapter, f"the tensor {tensor.name[:100]}")
        pairs.setdefault(name, {})[side] = tensor.shape
    if not pairs:
        raise _refused(adapter, "an adapter without tensors")
    for name, sides in pairs.items():
        if len(sides) != 2:
            raise _refused(adapter, f"the tensor {name[:100]}, of which one half is missing")
        a, b = sides["lora_a"], sides["lora_b"]
        _check_pair(name, (a[0], a[1]), (b[0], b[1]), adapter, base)
    for tensor in header.tensors:
        _check_values(path, tensor, adapter)


def _check_values(path: Path, tensor: GGUFTensor, adapter: str) -> None:
    """Raises InvalidInput for a matrix with values that are no numbers; quantised ones are llama.cpp's matter."""
    kind = _READERS.get(tensor.type_name)
    if kind is None:
        return
    raw: Any = np.fromfile(path, kind, tensor.elements, offset=tensor.start)
    if not np.isfinite(_widened(raw) if tensor.type_name == "BF16" else raw).all():
        raise _no_numbers(adapter, tensor.name)


def _no_numbers(adapter: str, tensor: str) -> InvalidInput:
    return InvalidInput(
        "The adapter {adapter} holds values that are no numbers, in {tensor}.",
        hint="Its training failed; train it again.",
        adapter=adapter,
        tensor=tensor[:100],
        code="bad_model_file",
    )


def write_lora(config: Path, weights: Path, target: Path, adapter: str, base: BaseShape) -> None:
    """Writes a GGUF adapter from PEFT's `adapter_config.json` and `adapter_model.safetensors`; whole or not at all.

    The factor alpha / rank (alpha / √rank with rsLoRA) is kept exactly; where it differs from matrix to matrix, it is
    put into the numbers.

    Raises:
        InvalidInput: it is for another base, or its numbers are none.
        NotOffered: llama.cpp cannot apply a part of it (DoRA, whole saved modules, embeddings …); names it.
        OSError: reading or writing failed.
    """
    settings = read_config(config)
    _check_settings(settings, adapter)
    planned = _plan(settings, weights, adapter, base)
    part = target.with_name(target.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(_header(base.architecture, _alpha(settings), planned))
            for tensor in planned:
                file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                file.write(_values(tensor, weights, adapter))
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _check_settings(settings: PeftConfig, adapter: str) -> None:
    """Raises NotOffered for what llama.cpp has no words for."""
    check_settings(settings, adapter, _ENGINE)
    odd = next((key for key in settings.alpha_pattern if not _PLAIN_KEY.match(key)), None)
    if odd is not None:
        raise _refused(adapter, f"the alpha_pattern {odd[:100]!r}")


def _plan(settings: PeftConfig, weights: Path, adapter: str, base: BaseShape) -> list[_Planned]:
    modules = _MODULES.get(base.architecture)
    if modules is None:
        raise _refused(adapter, f"an adapter for the architecture {base.architecture[:50]} in PEFT's form")
    planned: list[_Planned] = []
    for pair in read_pairs(weights, adapter, _ENGINE):
        name, heads = _gguf_name(pair.module, modules, adapter, base)
        _check_pair(name, _sides(pair.a), _sides(pair.b), adapter, base)
        if heads and pair.b.shape[0] % (2 * heads):
            raise _other_base(adapter, base, f"{name} does not divide into {heads} heads")
        planned += [
            _Planned(f"{name}.lora_a", pair.a, 0, 1.0),
            _Planned(f"{name}.lora_b", pair.b, heads, _factor(settings, pair.module, pair.a.shape[0])),
        ]
    return planned


def _gguf_name(module: str, modules: Mapping[str, str], adapter: str, base: BaseShape) -> tuple[str, int]:
    """Returns llama.cpp's name of a matrix, and the number of heads whose rows go into pairs (0: rows stay)."""
    if module == "lm_head":
        return "output.weight", 0
    match = _LAYER.match(module)
    known = modules.get(match[2]) if match else None
    if match is None or known is None:
        raise _refused(adapter, f"the module {module[:100]}")
    paired = base.architecture in _PAIRED and known in ("attn_q", "attn_k")
    return f"blk.{match[1]}.{known}.weight", base.heads(known, int(match[1])) if paired else 0


def _sides(tensor: SafetensorsTensor) -> tuple[int, int]:
    """Returns a matrix's sides as GGUF has them, the fastest first."""
    return tensor.shape[1], tensor.shape[0]


def _check_pair(name: str, a: tuple[int, int], b: tuple[int, int], adapter: str, base: BaseShape) -> None:
    """Looks whether two small matrices go beside the base's large one (sides as GGUF has them)."""
    large = base.matrices.get(name)
    if large is None:
        raise _other_base(adapter, base, f"the model has no {name[:100]}")
    if (a[0], b[1]) != large:
        raise _other_base(
            adapter,
            base,
            f"{name} goes from {a[0]} to {b[1]} numbers, in the model from {large[0]} to {large[1]}",
        )
    if a[1] != b[0] or not 0 < a[1] <= max(large):
        raise _refused(adapter, f"the rank {a[1]} of {name}")


def _alpha(settings: PeftConfig) -> float:
    """Returns the file's one alpha; llama.cpp divides it by each matrix's own rank."""
    return settings.lora_alpha * (math.sqrt(settings.r) if settings.use_rslora else 1)


def _factor(settings: PeftConfig, module: str, rank: int) -> float:
    """Returns by what a matrix has to be multiplied where its own alpha or rank differ from the file's."""
    alpha = next(
        (value for key, value in settings.alpha_pattern.items() if _is_meant(key, module)),
        settings.lora_alpha,
    )
    wanted = alpha / (math.sqrt(rank) if settings.use_rslora else rank)
    given = _alpha(settings) / rank
    return wanted / given if given else 1.0


def _is_meant(key: str, module: str) -> bool:
    if key.startswith("^"):
        return module == key[1:]
    return module == key or module.endswith(f".{key}")


def _widened(raw: npt.NDArray[np.uint16]) -> FloatArray:
    return (raw.astype(np.uint32) << 16).view(np.float32)


_READERS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _values(tensor: _Planned, weights: Path, adapter: str) -> bytes:
    source = tensor.source
    raw: Any = np.fromfile(weights, _READERS[source.dtype], source.elements, offset=source.start)
    values: FloatArray = _widened(raw) if source.dtype == "BF16" else raw.astype(np.float32)
    if not np.isfinite(values).all():
        raise _no_numbers(adapter, source.name)
    values = values.reshape(source.shape)
    if tensor.heads:
        rows, rank = source.shape
        halves = values.reshape(tensor.heads, 2, rows // tensor.heads // 2, rank)
        values = halves.swapaxes(1, 2).reshape(rows, rank)
    if tensor.factor != 1.0:
        values = values * np.float32(tensor.factor)
    return values.astype("<f2" if tensor.type_number else "<f4").tobytes()


def _header(architecture: str, alpha: float, planned: list[_Planned]) -> bytes:
    texts = {"general.architecture": architecture, "general.type": "adapter", "adapter.type": "lora"}
    out = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(planned), len(texts) + 1))
    for key, text in texts.items():
        out += _text(key) + struct.pack("<I", 8) + _text(text)
    out += _text("adapter.lora.alpha") + struct.pack("<If", 6, alpha)
    offset = 0
    for tensor in planned:
        out += _text(tensor.name) + struct.pack("<I2Q", 2, *_sides(tensor.source))
        out += struct.pack("<IQ", tensor.type_number, offset)
        offset += -(-tensor.size_bytes // _ALIGNMENT) * _ALIGNMENT
    return bytes(out)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _refused(adapter: str, what: str) -> NotOffered:
    return refused(adapter, what, _ENGINE)


def _other_base(adapter: str, base: BaseShape, reason: str) -> InvalidInput:
    return other_base(adapter, base.name, reason)
