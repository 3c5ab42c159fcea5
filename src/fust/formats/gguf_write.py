"""Writes a GGUF file from a Hugging Face folder (config, tokenizer.json, safetensors): no torch, no converter.

What is not known for certain is refused by name rather than guessed: a file with a wrong pre-tokenizer or rope answers
nonsense without any error. Families: `gguf_families`; types: `ggml_types`; tokenizers: `hf_tokenizer`. Key names:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from fust.formats.ggml_types import (
    FILE_TYPE_NUMBERS,
    TENSOR_TYPE_NUMBERS,
    FileType,
    FloatArray,
    TensorType,
    check_file_type,
    encode,
    stored_bytes,
    tensor_type,
)
from fust.formats.gguf_families import OUTER, Config, Keys, family_keys, made_tensors, read_config, refused
from fust.formats.hf_tokenizer import BPETokenizer, read_tokenizer
from fust.formats.safetensors import SafetensorsTensor, read_safetensors
from fust.formats.safetensors_values import STORED, map_tensor, to_floats

ALIGNMENT = 32
_VALUES_AT_ONCE = 2**22
_LAYER = re.compile(r"model\.layers\.(\d{1,4})\.(.+)\.(weight|bias)")
_EXPERT = re.compile(r"mlp\.experts\.(\d{1,5})\.(gate_proj|up_proj|down_proj)")

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where values come from: a tensor of a safetensors file."""

    tensor: SafetensorsTensor
    path: Path


@dataclass(frozen=True, slots=True)
class _Planned:
    """A tensor of the file that is to be written."""

    name: str
    shape: tuple[int, ...]
    """Rows last."""
    kind: TensorType
    sources: tuple[_Source, ...] = ()
    """One, or those of all experts in their order."""
    made: FloatArray | None = None
    heads: int = 0
    """Heads of a q or k weight whose rows are to be put in pairs, else 0."""
    shift: float = 0.0

    @property
    def stored_bytes(self) -> int:
        return stored_bytes(self.kind, math.prod(self.shape))


def write_gguf(
    folder: Path,
    target: Path,
    file_type: FileType,
    *,
    name: str,
    licence: str = "",
    threads: int = 1,
    tell: Tell = lambda done, total: None,
) -> None:
    """Writes ``target`` from the model in ``folder``; it appears whole or not at all.

    ``tell`` hears how many bytes of how many are written.

    Raises:
        InvalidInput: the architecture, tokenizer, rope or a tensor is not one that can be written faithfully.
        NotOffered: the type needs a library that is not here.
        OSError: reading or writing failed.
    """
    config, tokenizer, planned = _plan(folder, file_type)
    keys = _general_keys(config, tokenizer, file_type, name, licence) + family_keys(config)
    keys += tokenizer_keys(tokenizer) + _end_keys(folder, tokenizer)
    total = sum(tensor.stored_bytes for tensor in planned)
    done = 0
    part = target.with_name(target.name + ".part")
    try:
        with part.open("wb") as file, ThreadPoolExecutor(threads) as pool:
            file.write(_header(keys, planned))
            for tensor in planned:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                for block in _encoded(tensor, pool):
                    file.write(block)
                done += tensor.stored_bytes
                tell(done, total)
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def check_gguf(folder: Path, file_type: FileType) -> int:
    """Returns the bytes of the tensors that ``write_gguf`` would write; reads headers only, weights are not needed whole.

    Raises:
        InvalidInput: it could not be written; says what is in the way.
        NotOffered: the type needs a library that is not here.

    """
    return sum(tensor.stored_bytes for tensor in _plan(folder, file_type)[2])


# The plan


def _plan(folder: Path, file_type: FileType) -> tuple[Config, BPETokenizer, list[_Planned]]:
    check_file_type(file_type)
    config = read_config(folder)
    tokenizer = read_tokenizer(folder, config.vocab_size)
    found = _sources(folder, config)
    planned = [
        _Planned(name, made.shape, "F32", made=made) for name, made in sorted(made_tensors(config).items())
    ]
    for name, sources in found.items():
        shape = sources[0].tensor.shape
        if any((s.tensor.shape, s.tensor.dtype) != (shape, sources[0].tensor.dtype) for s in sources):
            raise refused("tensor", f"{name}, whose experts differ")
        whole = (len(sources), *shape) if "_exps." in name else shape
        kind = tensor_type(name, whole, file_type, config.num_hidden_layers, tied=config.is_tied)
        shift = config.family.norm_shift if name.endswith("norm.weight") else 0.0
        planned.append(_Planned(name, whole, kind, sources, heads=_paired_heads(config, name), shift=shift))
    return config, tokenizer, planned


def _sources(folder: Path, config: Config) -> dict[str, tuple[_Source, ...]]:
    """Returns where the values of each tensor are, in the order of the files.

    Raises:
        InvalidInput: a tensor is not known, is missing, or is there twice.

    """
    found: dict[str, dict[int, _Source]] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for tensor in read_safetensors(path).tensors:
            name, expert = _gguf_name(tensor.name, config)
            if not name or (name == "output.weight" and config.is_tied):
                continue
            if tensor.dtype not in STORED:
                raise refused("tensor type", tensor.dtype)
            if expert in found.setdefault(name, {}):
                raise refused("tensor", f"{tensor.name[:100]} (twice)")
            found[name][expert] = _Source(tensor, path)
    missing = {"token_embd.weight", "output_norm.weight"}
    if not config.is_tied:
        missing.add("output.weight")
    for layer in range(config.num_hidden_layers):
        missing |= {f"blk.{layer}.{part}.weight" for part in config.family.inner.values()}
    missing -= found.keys()
    missing |= {
        name
        for name, sources in found.items()
        if "_exps." in name and sources.keys() != set(range(config.experts))
    }
    too_many = {
        name
        for name in found
        if name.startswith("blk.") and int(name.split(".")[1]) >= config.num_hidden_layers
    }
    if missing or too_many:
        raise refused("weights", "missing or too many: " + ", ".join(sorted(missing | too_many)[:5]))
    return {name: tuple(sources[i] for i in sorted(sources)) for name, sources in found.items()}


def _gguf_name(name: str, config: Config) -> tuple[str, int]:
    """Returns llama.cpp's name and the number of the expert; an empty name: nothing that is kept."""
    if name in OUTER:
        return OUTER[name], 0
    if name.endswith("rotary_emb.inv_freq"):
        return "", 0  # old files carry what follows from the config
    match = _LAYER.fullmatch(name)
    if match is None:
        raise refused("tensor", name[:100])
    layer, inner, kind = match.groups()
    expert = _EXPERT.fullmatch(inner)
    part = config.family.inner.get(f"mlp.experts.{expert[2]}" if expert else inner)
    if part is None or (kind == "bias" and part not in ("attn_q", "attn_k", "attn_v")):
        raise refused("tensor", name[:100])
    return f"blk.{int(layer)}.{part}.{kind}", int(expert[1]) if expert else 0


def _paired_heads(config: Config, name: str) -> int:
    if not config.family.interleaved_rope:
        return 0
    if ".attn_q." in name:
        return config.num_attention_heads
    return config.key_heads if ".attn_k." in name else 0


# Keys


def _general_keys(
    config: Config, tokenizer: BPETokenizer, file_type: FileType, name: str, licence: str
) -> Keys:
    keys: Keys = [
        ("general.architecture", config.family.name),
        ("general.type", "model"),
        ("general.name", _safe_name(name, tokenizer)),
        ("general.file_type", FILE_TYPE_NUMBERS[file_type]),
        ("general.quantization_version", 2),
    ]
    return [*keys, ("general.license", licence)] if licence else keys


def _safe_name(name: str, tokenizer: BPETokenizer) -> str:
    """Returns a name by which llama.cpp takes the tokenizer for what it is: it knows Phi-3's by the model's name."""
    is_phi3 = re.search("phi-?3", name, re.IGNORECASE) is not None
    if tokenizer.strips_like_phi3:
        return name if is_phi3 else f"{name} (phi-3)"
    return re.sub("phi-?3", "Phi 3", name, flags=re.IGNORECASE)


def tokenizer_keys(tokenizer: BPETokenizer) -> Keys:
    """Returns the GGUF keys of a BPE tokenizer."""
    keys: Keys = [
        ("tokenizer.ggml.model", "llama" if tokenizer.scores else "gpt2"),
        ("tokenizer.ggml.pre", tokenizer.pre),
        ("tokenizer.ggml.tokens", list(tokenizer.tokens)),
        ("tokenizer.ggml.token_type", list(tokenizer.types)),
        ("tokenizer.ggml.add_bos_token", tokenizer.adds_bos),
    ]
    if tokenizer.scores:
        keys.append(("tokenizer.ggml.scores", list(tokenizer.scores)))
        keys.append(("tokenizer.ggml.add_space_prefix", tokenizer.space_prefix))
    else:
        keys.append(("tokenizer.ggml.merges", list(tokenizer.merges)))
    roles = (
        ("bos", tokenizer.bos),
        ("eos", tokenizer.eos),
        ("padding", tokenizer.pad),
        ("unknown", tokenizer.unknown),
    )
    keys += [(f"tokenizer.ggml.{role}_token_id", number) for role, number in roles if number is not None]
    if tokenizer.chat_template:
        keys.append(("tokenizer.chat_template", tokenizer.chat_template))
    return keys


class _Generation(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


def _end_keys(folder: Path, tokenizer: BPETokenizer) -> Keys:
    """Returns the token that ends a turn, where generation_config.json has one beside the tokenizer's end."""
    try:
        said = msgspec.json.decode((folder / "generation_config.json").read_bytes(), type=_Generation)
    except (OSError, msgspec.MsgspecError):
        return []
    ends = said.eos_token_id if isinstance(said.eos_token_id, list) else [said.eos_token_id]
    others = [
        end for end in ends if end is not None and end != tokenizer.eos and 0 <= end < len(tokenizer.tokens)
    ]
    return [("tokenizer.ggml.eot_token_id", others[0])] if others else []


# The file: header, then tensors, each at a multiple of ALIGNMENT from the end of the header.


def _header(keys: Keys, planned: list[_Planned]) -> bytes:
    drawn = b"".join(_text(key) + _typed(value) for key, value in keys)
    return header(len(keys), drawn, [(tensor.name, tensor.shape, tensor.kind) for tensor in planned])


def header(key_count: int, keys: bytes, tensors: Sequence[tuple[str, tuple[int, ...], TensorType]]) -> bytes:
    """Returns all that stands before the first tensor: keys as they are given, then each tensor's name, sides and place."""
    out = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), key_count)) + keys
    offset = 0
    for name, shape, kind in tensors:
        out += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        out += struct.pack("<IQ", TENSOR_TYPE_NUMBERS[kind], offset)
        offset += -(-stored_bytes(kind, math.prod(shape)) // ALIGNMENT) * ALIGNMENT
    out += b"\0" * (-len(out) % ALIGNMENT)
    return bytes(out)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _typed(value: str | int | float | bool | list[str] | list[int] | list[float]) -> bytes:
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
    if any(isinstance(item, float) for item in value):
        return struct.pack(f"<IIQ{len(value)}f", 9, 6, len(value), *value)
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


# Values: read from safetensors as float32, some million at a time, and encoded.


def _encoded(tensor: _Planned, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    if tensor.made is not None:
        yield encode(tensor.made, tensor.kind)
        return
    for source in tensor.sources:
        raw = map_tensor(source.path, source.tensor)
        if tensor.heads:
            raw = paired(raw, tensor.heads)
        yield from pool.map(_encode_piece, repeat(tensor), in_pieces(raw))


def _encode_piece(tensor: _Planned, raw: npt.NDArray[np.generic]) -> bytes:
    values = to_floats(np.ascontiguousarray(raw), tensor.sources[0].tensor.dtype)
    return encode(values + np.float32(tensor.shift) if tensor.shift else values, tensor.kind)


def in_pieces(values: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.generic]]:
    """Yields whole rows, some million values at a time."""
    rows = max(1, _VALUES_AT_ONCE // max(1, math.prod(values.shape[1:])))
    return (values[start : start + rows] for start in range(0, len(values), rows))


def paired(rows: npt.NDArray[np.generic], heads: int) -> npt.NDArray[np.generic]:
    """Returns q or k rows with the two halves of each head interleaved: transformers rotates halves, llama.cpp pairs."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)
