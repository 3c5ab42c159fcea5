"""Reads the header of a safetensors file from strangers: no tensor is loaded and nothing is executed.

Format: 8 bytes little-endian length, that many bytes of JSON, then the tensors without gaps
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fust.core.errors import InvalidInput
from fust.core.i18n import Words

MAX_HEADER_BYTES = 32 * 2**20
"""A third of the reference implementation's limit: room for 300,000 tensors, and read into memory as a whole."""

DTYPE_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6,
    "F4": 4, "C64": 64, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    """One tensor: where its bytes are, counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """Returns the number of values."""
        n = 1
        for side in self.shape:
            n *= side
        return n


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What a safetensors file says about itself."""

    tensors: tuple[SafetensorsTensor, ...]
    metadata: dict[str, str]

    @property
    def parameters(self) -> int:
        """Returns the number of values in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_safetensors(path: Path) -> SafetensorsHeader:
    """Returns the header.

    Raises:
        InvalidInput: the file is not a whole, sound safetensors file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _bad(path, "the header's length is impossible")
        raw = file.read(length)
    try:
        entries = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        note = entries.pop("__metadata__", None)
        metadata = msgspec.json.decode(note, type=dict[str, str]) if note is not None else {}
        decoded = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in entries.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(path, "the header is not the JSON of the format") from error
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in decoded.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.size_bytes))
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end:
            raise _bad(path, "tensors overlap or leave a gap")
        end += tensor.size_bytes
    if end != size:
        raise _bad(path, "the file is longer or shorter than its tensors")
    return SafetensorsHeader(tuple(tensors), metadata)


def _tensor(path: Path, name: str, entry: _Entry, base: int) -> SafetensorsTensor:
    start, end = entry.data_offsets
    bits = DTYPE_BITS.get(entry.dtype)
    if (
        bits is None
        or start < 0
        or end < start
        or any(side < 0 for side in entry.shape)
        or len(entry.shape) > 64
    ):
        raise _bad(path, "a tensor has an unknown type or an impossible place")
    for side in entry.shape:
        bits *= side
    if bits != 8 * (end - start):
        raise _bad(path, "a tensor's size does not fit its shape")
    return SafetensorsTensor(name, entry.dtype, tuple(entry.shape), base + start, end - start)


def _bad(path: Path, fault: str) -> InvalidInput:
    return InvalidInput(
        "{file} is not a sound safetensors file: {fault}.",
        hint="Download or export it again.",
        code="bad_model_file",
        file=path.name,
        fault=Words(fault),
    )
