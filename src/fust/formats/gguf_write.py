"""Writes a GGUF file from a Hugging Face folder (config, tokenizer.json, safetensors): numpy alone, no torch.

Supported: LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM with a byte-level BPE tokenizer, as F32, F16, BF16 or
Q8_0. What is not known for certain is refused rather than guessed: a file with a wrong pre-tokenizer or rope answers
nonsense without any error. Key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; tensor names and the
row order of q and k: llama.cpp `gguf-py/gguf/tensor_mapping.py` and `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from fust.core.errors import InvalidInput
from fust.formats.hf_tokenizer import BPETokenizer, read_tokenizer
from fust.formats.safetensors import SafetensorsTensor, read_safetensors

FileType = Literal["F32", "F16", "BF16", "Q8_0"]

ALIGNMENT = 32
_Q8_BLOCK = 32
_ROWS_AT_ONCE = 4096
_FILE_TYPE_NUMBERS: dict[FileType, int] = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
_TENSOR_TYPE_NUMBERS: dict[FileType, int] = {"F32": 0, "F16": 1, "Q8_0": 8, "BF16": 30}

_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

FloatArray = npt.NDArray[np.float32]
Keys = list[tuple[str, str | int | float | bool | list[str] | list[int]]]


@dataclass(frozen=True, slots=True)
class _Shape:
    """How llama.cpp names an architecture of transformers."""

    name: str
    interleaved_rope: bool
    """Whether q and k rows are to be put from halves into pairs."""


_SHAPES = {
    "LlamaForCausalLM": _Shape("llama", True),
    "Qwen2ForCausalLM": _Shape("qwen2", False),
    "Qwen3ForCausalLM": _Shape("qwen3", False),
}


class _Rope(msgspec.Struct):
    rope_type: str = "default"
    rope_theta: float | None = None


class _Config(msgspec.Struct):
    """The parts of config.json that matter here; transformers 5 keeps rope in ``rope_parameters``."""

    architectures: list[str]
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = None
    rope_theta: float | None = None
    rope_scaling: _Rope | None = None
    rope_parameters: _Rope | None = None


@dataclass(frozen=True, slots=True)
class _Planned:
    name: str
    source: SafetensorsTensor
    path: Path
    kind: FileType
    heads: int
    """Heads of a q or k weight whose rows are to be put in pairs, else 0."""


def write_gguf(folder: Path, target: Path, file_type: FileType, *, name: str, licence: str = "") -> None:
    """Writes ``target`` from the model in ``folder``; it appears whole or not at all.

    Tensors of one side (norms, biases) stay F32. In a Q8_0 file, rows that do not divide into blocks are F16.

    Raises:
        InvalidInput: the architecture, tokenizer, rope or a tensor is not one that can be written faithfully.
        OSError: reading or writing failed.
    """
    config = _read_config(folder)
    shape = _SHAPES[config.architectures[0]]
    tokenizer = read_tokenizer(folder, config.vocab_size)
    planned = _plan(folder, config, shape, file_type)
    keys = _model_keys(config, shape, file_type, name, licence) + tokenizer_keys(tokenizer)
    part = target.with_name(target.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(_header(keys, planned))
            for tensor in planned:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                for block in _encoded(tensor):
                    file.write(block)
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _read_config(folder: Path) -> _Config:
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config)
    except msgspec.MsgspecError as error:
        raise _refused("config.json", str(error)) from error
    rope = config.rope_parameters or config.rope_scaling
    if config.architectures[:1] == [] or config.architectures[0] not in _SHAPES:
        raise _refused("architecture", ", ".join(config.architectures)[:100] or "none")
    if rope is not None and rope.rope_type != "default":
        raise _refused("rope type", rope.rope_type[:50])
    if config.hidden_act != "silu":
        raise _refused("activation", config.hidden_act[:50])
    if config.use_sliding_window and config.sliding_window:
        raise _refused("sliding window", str(config.sliding_window))
    return config


def _plan(folder: Path, config: _Config, shape: _Shape, file_type: FileType) -> list[_Planned]:
    planned: list[_Planned] = []
    for path in sorted(folder.glob("model*.safetensors")):
        for source in read_safetensors(path).tensors:
            name = _tensor_name(source.name)
            if name == "output.weight" and config.tie_word_embeddings:
                continue
            heads = 0
            if shape.interleaved_rope and ".attn_q." in name:
                heads = config.num_attention_heads
            elif shape.interleaved_rope and ".attn_k." in name:
                heads = config.num_key_value_heads or config.num_attention_heads
            planned.append(_Planned(name, source, path, _stored_as(source, file_type), heads))
    missing = {"token_embd.weight", "output_norm.weight"} - {tensor.name for tensor in planned}
    if not config.tie_word_embeddings:
        missing |= {"output.weight"} - {tensor.name for tensor in planned}
    layers = {tensor.name.split(".")[1] for tensor in planned if tensor.name.startswith("blk.")}
    if missing or layers != {str(i) for i in range(config.num_hidden_layers)}:
        raise _refused("weights", "missing: " + (", ".join(sorted(missing)) or "whole layers"))
    return planned


def _tensor_name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    parts = name.split(".")
    inner = ".".join(parts[3:-1])
    if parts[:2] == ["model", "layers"] and inner in _INNER and parts[-1] in ("weight", "bias"):
        return f"blk.{parts[2]}.{_INNER[inner]}.{parts[-1]}"
    raise _refused("tensor", name[:100])


def _stored_as(source: SafetensorsTensor, file_type: FileType) -> FileType:
    if source.dtype not in _READERS:
        raise _refused("tensor type", source.dtype)
    if len(source.shape) < 2:
        return "F32"
    return "F16" if file_type == "Q8_0" and source.shape[-1] % _Q8_BLOCK else file_type


def _model_keys(config: _Config, shape: _Shape, file_type: FileType, name: str, licence: str) -> Keys:
    rope = config.rope_parameters or config.rope_scaling
    theta = (rope.rope_theta if rope else None) or config.rope_theta or 10_000.0
    head = config.head_dim or config.hidden_size // config.num_attention_heads
    keys: Keys = [
        ("general.architecture", shape.name),
        ("general.type", "model"),
        ("general.name", name),
        ("general.file_type", _FILE_TYPE_NUMBERS[file_type]),
        ("general.quantization_version", 2),
        (f"{shape.name}.context_length", config.max_position_embeddings),
        (f"{shape.name}.embedding_length", config.hidden_size),
        (f"{shape.name}.block_count", config.num_hidden_layers),
        (f"{shape.name}.feed_forward_length", config.intermediate_size),
        (f"{shape.name}.attention.head_count", config.num_attention_heads),
        (f"{shape.name}.attention.head_count_kv", config.num_key_value_heads or config.num_attention_heads),
        (f"{shape.name}.attention.key_length", head),
        (f"{shape.name}.attention.value_length", head),
        (f"{shape.name}.attention.layer_norm_rms_epsilon", float(config.rms_norm_eps)),
        (f"{shape.name}.rope.freq_base", float(theta)),
        (f"{shape.name}.rope.dimension_count", head),
        (f"{shape.name}.vocab_size", config.vocab_size),
    ]
    return [*keys, ("general.license", licence)] if licence else keys


def tokenizer_keys(tokenizer: BPETokenizer) -> Keys:
    """Returns the GGUF keys of a byte-level BPE tokenizer."""
    keys: Keys = [
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", tokenizer.pre),
        ("tokenizer.ggml.tokens", list(tokenizer.tokens)),
        ("tokenizer.ggml.token_type", list(tokenizer.types)),
        ("tokenizer.ggml.merges", list(tokenizer.merges)),
        ("tokenizer.ggml.add_bos_token", tokenizer.adds_bos),
    ]
    for role, number in (("bos", tokenizer.bos), ("eos", tokenizer.eos), ("padding", tokenizer.pad)):
        if number is not None:
            keys.append((f"tokenizer.ggml.{role}_token_id", number))
    if tokenizer.chat_template:
        keys.append(("tokenizer.chat_template", tokenizer.chat_template))
    return keys


# The file: header, then tensors, each at a multiple of ALIGNMENT from the end of the header.


def _header(keys: Keys, planned: list[_Planned]) -> bytes:
    out = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(planned), len(keys)))
    for key, value in keys:
        out += _text(key) + _typed(value)
    offset = 0
    for tensor in planned:
        sides = tensor.source.shape[::-1]
        out += _text(tensor.name) + struct.pack(f"<I{len(sides)}Q", len(sides), *sides)
        out += struct.pack("<IQ", _TENSOR_TYPE_NUMBERS[tensor.kind], offset)
        offset += -(-_stored_bytes(tensor) // ALIGNMENT) * ALIGNMENT
    out += b"\0" * (-len(out) % ALIGNMENT)
    return bytes(out)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _typed(value: str | int | float | bool | list[str] | list[int]) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    texts = [item for item in value if isinstance(item, str)]
    if texts:
        return struct.pack("<IIQ", 9, 8, len(texts)) + b"".join(_text(item) for item in texts)
    numbers = [item for item in value if isinstance(item, int)]
    return struct.pack(f"<IIQ{len(numbers)}i", 9, 5, len(numbers), *numbers)


def _stored_bytes(tensor: _Planned) -> int:
    per_value = {"F32": 4.0, "F16": 2.0, "BF16": 2.0, "Q8_0": 34 / 32}[tensor.kind]
    return int(tensor.source.elements * per_value)


# Values: read from safetensors as float32, a few thousand rows at a time, and encoded.


def _widened(raw: npt.NDArray[np.uint16]) -> FloatArray:
    return (raw.astype(np.uint32) << 16).view(np.float32)


_READERS: dict[str, tuple[str, Callable[[npt.NDArray[np.generic]], FloatArray]]] = {
    "F32": ("<f4", lambda raw: raw.astype(np.float32)),
    "F16": ("<f2", lambda raw: raw.astype(np.float32)),
    "BF16": ("<u2", lambda raw: _widened(raw.view(np.uint16))),
}


def _encoded(tensor: _Planned) -> Iterable[bytes]:
    source = tensor.source
    stored, read = _READERS[source.dtype]
    raw = np.memmap(tensor.path, dtype=stored, mode="r", offset=source.start, shape=source.shape)
    if tensor.heads:
        raw = paired(raw, tensor.heads)
    for start in range(0, len(raw), _ROWS_AT_ONCE):
        yield encode(read(np.ascontiguousarray(raw[start : start + _ROWS_AT_ONCE])), tensor.kind)


def paired(rows: npt.NDArray[np.generic], heads: int) -> npt.NDArray[np.generic]:
    """Returns q or k rows with the two halves of each head interleaved: transformers rotates halves, llama.cpp pairs."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def encode(values: FloatArray, kind: FileType) -> bytes:
    """Returns the bytes of values in a GGML type; bfloat16 is rounded to nearest even."""
    if kind == "F32":
        return values.astype("<f4").tobytes()
    if kind == "F16":
        return values.astype("<f2").tobytes()
    if kind == "BF16":
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    blocks = values.reshape(-1, _Q8_BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = blocks * inverse
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(
        np.int8
    )  # roundf: half away from zero
    packed = np.empty((len(blocks), 2 + _Q8_BLOCK), np.uint8)
    packed[:, :2] = scale.astype("<f2").view(np.uint8)
    packed[:, 2:] = rounded.view(np.uint8)
    return packed.tobytes()


def _refused(what: str, value: str) -> InvalidInput:
    return InvalidInput(
        "This model cannot be written as GGUF: {what} {value} is not supported.",
        hint="Supported are Llama, Qwen2 and Qwen3 shapes with plain rope and a byte-level BPE tokenizer.",
        code="cannot_export",
        what=what,
        value=value,
    )
