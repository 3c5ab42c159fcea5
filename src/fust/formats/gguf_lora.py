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

import msgspec
import numpy as np
import numpy.typing as npt

from fust.core.errors import InvalidInput, NotOffered
from fust.formats.gguf import GGUFHeader, read_gguf
from fust.formats.safetensors import SafetensorsTensor, read_safetensors

_ALIGNMENT = 32
_MAX_CONFIG_BYTES = 2**20
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
_PIECE = re.compile(r"^base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight$")
_PLAIN_KEY = re.compile(r"^\^?[A-Za-z0-9_.]+$")
_KNOWN_STARTS = frozenset({"True", "False", "None", "gaussian", "orthogonal", "eva"})
"""Ways in which training began (`init_lora_weights`) that leave the base as it is."""

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


class _PeftConfig(msgspec.Struct):
    """The parts of adapter_config.json that decide what the numbers mean."""

    peft_type: str = "LORA"
    base_model_name_or_path: str | None = None
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    use_dora: bool = False
    use_qalora: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    init_lora_weights: bool | str | None = True
    alpha_pattern: dict[str, float] = {}
    modules_to_save: list[str] | None = None
    layer_replication: list[Any] | None = None
    trainable_token_indices: Any = None
    target_parameters: list[str] | None = None
    alora_invocation_tokens: list[int] | None = None


@dataclass(slots=True)
class _Pair:
    """The two small matrices beside a large one."""

    a: SafetensorsTensor | None = None
    b: SafetensorsTensor | None = None


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


def named_base(config: Path) -> str:
    """Returns what adapter_config.json calls its base (a repo id, or a folder of whoever trained it); empty for nothing.

    Raises:
        InvalidInput: it is not the file that PEFT writes.
    """
    return _read_config(config).base_model_name_or_path or ""


def check_lora(path: Path, adapter: str, base: BaseShape) -> None:
    """Looks whether a GGUF file is a LoRA adapter that fits a base.

    Raises:
        InvalidInput: it is damaged, or for another base; names both, and what differs.
        NotOffered: it is no LoRA adapter, or one that llama.cpp cannot apply; names what.
        OSError: it cannot be read.
    """
    header = read_gguf(path)
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


def write_lora(config: Path, weights: Path, target: Path, adapter: str, base: BaseShape) -> None:
    """Writes a GGUF adapter from PEFT's `adapter_config.json` and `adapter_model.safetensors`; whole or not at all.

    The factor alpha / rank (alpha / √rank with rsLoRA) is kept exactly; where it differs from matrix to matrix, it is
    put into the numbers.

    Raises:
        InvalidInput: it is for another base, or its numbers are none.
        NotOffered: llama.cpp cannot apply a part of it (DoRA, whole saved modules, embeddings …); names it.
        OSError: reading or writing failed.
    """
    settings = _read_config(config)
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


def _read_config(path: Path) -> _PeftConfig:
    raw = path.read_bytes() if path.stat().st_size <= _MAX_CONFIG_BYTES else b""
    try:
        return msgspec.json.decode(raw, type=_PeftConfig)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidInput(
            "{file} is not the file that PEFT writes: {reason}.",
            hint="Save the adapter again with `save_pretrained`.",
            file=path.name,
            reason=str(error)[:200],
            code="bad_model_file",
        ) from error


def _check_settings(settings: _PeftConfig, adapter: str) -> None:
    """Raises NotOffered for what llama.cpp has no words for."""
    start = str(settings.init_lora_weights)
    reasons = {
        f"peft_type {settings.peft_type[:50]}": settings.peft_type != "LORA",
        "use_dora": settings.use_dora,
        "use_qalora": settings.use_qalora,
        "lora_bias": settings.lora_bias,
        "fan_in_fan_out": settings.fan_in_fan_out,
        f"modules_to_save {', '.join(settings.modules_to_save or ())[:100]}": settings.modules_to_save,
        "layer_replication": settings.layer_replication,
        "trainable_token_indices": settings.trainable_token_indices,
        "target_parameters": settings.target_parameters,
        "aLoRA (alora_invocation_tokens)": settings.alora_invocation_tokens,
        f"init_lora_weights {start[:50]}, which changes the base": start not in _KNOWN_STARTS,
    }
    for what, found in reasons.items():
        if found:
            raise _refused(adapter, what)
    odd = next((key for key in settings.alpha_pattern if not _PLAIN_KEY.match(key)), None)
    if odd is not None:
        raise _refused(adapter, f"the alpha_pattern {odd[:100]!r}")


def _plan(settings: _PeftConfig, weights: Path, adapter: str, base: BaseShape) -> list[_Planned]:
    modules = _MODULES.get(base.architecture)
    if modules is None:
        raise _refused(adapter, f"an adapter for the architecture {base.architecture[:50]} in PEFT's form")
    pairs: dict[str, _Pair] = {}
    for tensor in read_safetensors(weights).tensors:
        if tensor.name.endswith(".base_layer.weight"):
            continue  # a copy of the base's own, which PEFT adds when the output layer is a target
        match = _PIECE.match(tensor.name)
        if match is None or len(tensor.shape) != 2 or tensor.dtype not in _READERS:
            raise _refused(adapter, f"the tensor {tensor.name[:100]}")
        pair = pairs.setdefault(match[1], _Pair())
        if match[2] == "A":
            pair.a = tensor
        else:
            pair.b = tensor
    if not pairs:
        raise _refused(adapter, "an adapter without tensors")
    planned: list[_Planned] = []
    for module, pair in pairs.items():
        if pair.a is None or pair.b is None:
            raise _refused(adapter, f"the tensor {module[:100]}, of which one half is missing")
        name, heads = _gguf_name(module, modules, adapter, base)
        _check_pair(name, _sides(pair.a), _sides(pair.b), adapter, base)
        if heads and pair.b.shape[0] % (2 * heads):
            raise _other_base(adapter, base, f"{name} does not divide into {heads} heads")
        planned += [
            _Planned(f"{name}.lora_a", pair.a, 0, 1.0),
            _Planned(f"{name}.lora_b", pair.b, heads, _factor(settings, module, pair.a.shape[0])),
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


def _alpha(settings: _PeftConfig) -> float:
    """Returns the file's one alpha; llama.cpp divides it by each matrix's own rank."""
    return settings.lora_alpha * (math.sqrt(settings.r) if settings.use_rslora else 1)


def _factor(settings: _PeftConfig, module: str, rank: int) -> float:
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
        raise InvalidInput(
            "The adapter {adapter} holds values that are no numbers, in {tensor}.",
            hint="Its training failed; train it again.",
            adapter=adapter,
            tensor=source.name[:100],
            code="bad_model_file",
        )
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
    return NotOffered(
        "The adapter {adapter} cannot be applied by llama.cpp: {what} is not supported.",
        hint="Train a plain LoRA of linear layers, or merge the adapter into its base and serve the whole model.",
        adapter=adapter,
        what=what,
        code="adapter_not_supported",
    )


def _other_base(adapter: str, base: BaseShape, reason: str) -> InvalidInput:
    return InvalidInput(
        "The adapter {adapter} is not for {base}: {reason}.",
        hint="Serve it with the base that it was trained on.",
        adapter=adapter,
        base=base.name,
        reason=reason,
        code="other_base",
    )
