"""How numbers are stored in GGUF files: which type a tensor of a file gets, and its bytes.

F32, F16, BF16 and Q8_0 are written here with numpy. The K types and their neighbours (Q4_K, Q5_K, Q6_K, Q5_0, Q5_1) are
written by ggml itself, which lies in the wheel xllamacpp: `ggml_quantize_chunk` of ggml.h. Which tensors of a Q4_K_M file
get more bits: `llama_tensor_get_type` of llama.cpp `src/llama-quant.cpp`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fust.core.errors import NotOffered
from fust.formats.gguf import FILE_TYPES as _FILE_TYPES
from fust.formats.gguf import TENSOR_TYPES as _TENSOR_TYPES

FileType = Literal["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_K_M"]
TensorType = Literal["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q5_1", "Q5_0"]
FloatArray = npt.NDArray[np.float32]

FILE_TYPES: tuple[FileType, ...] = get_args(FileType)
FILE_TYPE_NUMBERS = {name: number for number, name in _FILE_TYPES.items()}
TENSOR_TYPE_NUMBERS = {name: number for number, (name, _, _) in _TENSOR_TYPES.items()}
_BLOCKS = {name: (values, size_bytes) for name, values, size_bytes in _TENSOR_TYPES.values()}
_Q8_BLOCK = 32
_BY_LIBRARY = frozenset({"Q6_K", "Q5_K", "Q4_K", "Q5_1", "Q5_0"})
_WHEN_ROWS_DO_NOT_DIVIDE: dict[TensorType, TensorType] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_NEVER_QUANTISED = ("ffn_gate_inp.weight",)


def tensor_type(
    name: str, shape: tuple[int, ...], file_type: FileType, layers: int, *, tied: bool
) -> TensorType:
    """Returns how a tensor of a file is stored.

    What has one side (norms, biases) and what chooses experts stays F32. Rows that do not divide into blocks get the
    next type that they divide into.

    Args:
        name: as GGUF has it.
        shape: rows last.
        file_type: of the file.
        layers: how many the model has.
        tied: whether the embedding is also the output matrix.

    """
    if len(shape) < 2 or name.endswith(_NEVER_QUANTISED):
        return "F32"
    kind = _mixed(name, layers, tied=tied) if file_type == "Q4_K_M" else file_type
    if shape[-1] % _BLOCKS[kind][0]:
        kind = _WHEN_ROWS_DO_NOT_DIVIDE.get(kind, "F16")
    return "F16" if shape[-1] % _BLOCKS[kind][0] else kind


def _mixed(name: str, layers: int, *, tied: bool) -> TensorType:
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return "Q6_K"
    if ".attn_qkv." in name:
        return "Q5_K"
    layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
    is_sensitive = ".attn_v." in name or ".ffn_down" in name
    eighth = layers // 8
    gets_more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    return "Q6_K" if is_sensitive and gets_more else "Q4_K"


def stored_bytes(kind: TensorType, elements: int) -> int:
    """Returns the bytes of so many values."""
    values, size_bytes = _BLOCKS[kind]
    return elements // values * size_bytes


def check_file_type(file_type: FileType) -> None:
    """Raises NotOffered when values of this type cannot be written here."""
    if file_type in ("Q6_K", "Q4_K_M"):
        _library()


def encode(values: FloatArray, kind: TensorType) -> bytes:
    """Returns the bytes of values (rows last) in a GGML type; bfloat16 is rounded to nearest even."""
    if kind in _BY_LIBRARY:
        return _by_library(_library(), values, kind)
    if kind == "F32":
        return values.astype("<f4").tobytes()
    if kind == "F16":
        return values.astype("<f2").tobytes()
    return bf16_bits(values).tobytes() if kind == "BF16" else _q8_0(values)


def bf16_bits(values: FloatArray) -> npt.NDArray[np.uint16]:
    """Returns values as bfloat16, rounded to nearest even, in numbers that numpy has."""
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _q8_0(values: FloatArray) -> bytes:
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


# The library


@functools.cache
def _library() -> Callable[..., int]:
    """Returns `ggml_quantize_chunk`, after it was seen to do what its header says.

    Raises:
        NotOffered: there is none, or it is another function than the one that is known.

    """
    function = _find()
    if function is None:
        raise NotOffered(
            "Writing K types of GGUF needs the wheel xllamacpp with ggml in it, which is not installed.",
            hint="Install it, or write Q8_0.",
        )
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    # A symbol is no promise: what it makes of one type that is also known here must be the same to the bit.
    probe = np.random.default_rng(1).normal(size=(3, 256)).astype(np.float32)
    if _by_library(function, probe, "Q8_0") != _q8_0(probe):
        raise NotOffered(
            "The ggml in the wheel xllamacpp quantises otherwise than it is known to.",
            hint="Write Q8_0, or install the version of xllamacpp that Fust was tested with.",
        )
    return function


def _find() -> Any:
    spec = importlib.util.find_spec("xllamacpp")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("xllamacpp*.so")):
            return getattr(ctypes.CDLL(str(path)), "ggml_quantize_chunk", None)
    return None


def _by_library(quantise: Callable[..., int], values: FloatArray, kind: TensorType) -> bytes:
    rows = np.ascontiguousarray(values, np.float32)
    out = np.empty(stored_bytes(kind, rows.size), np.uint8)
    written = quantise(
        TENSOR_TYPE_NUMBERS[kind],
        rows.ctypes.data,
        out.ctypes.data,
        0,
        rows.size // rows.shape[-1],
        rows.shape[-1],
        None,
    )
    if written != out.nbytes:
        raise NotOffered(
            "The ggml in the wheel xllamacpp quantises otherwise than it is known to.",
            hint="Write Q8_0, or install the version of xllamacpp that Fust was tested with.",
        )
    return out.tobytes()
