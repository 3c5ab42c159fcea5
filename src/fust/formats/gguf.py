"""Reads the header of a GGUF file from strangers: bounded, quick (memory-mapped), and nothing is executed.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Long lists
(vocabulary, merges) are stepped over; only their length is kept.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fust.core.errors import InvalidInput
from fust.core.i18n import Words

MAX_KEYS = 10_000
MAX_TENSORS = 200_000
MAX_STRING_BYTES = 16 * 2**20
MAX_ARRAY_ITEMS = 4_000_000
"""Of all lists of a file together."""
MAX_TEXT_BYTES = 64 * 2**20
"""Of all texts that are kept of a file together."""
MAX_ELEMENTS = 2**63 - 1
"""Of a tensor, as ggml counts them."""
MAX_DIMENSIONS = 4
KEPT_ITEMS = 64
"""Lists up to this length are kept whole (tags, languages, heads per layer)."""

_SCALARS = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<B"),
    10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

# ggml type number: (name, values per block, bytes per block); ggml.h and ggml-common.h of llama.cpp.
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip

# general.file_type of llama.h (enum llama_ftype), as people call them.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip

POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class LongList:
    """A list that was stepped over: only its length is known."""

    length: int


Value = Scalar | tuple[Scalar, ...] | LongList


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor: type, shape (fastest side first, as in the file) and where its bytes are in the file."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int | None
    """None when the type is newer than this reader."""

    @property
    def elements(self) -> int:
        """Returns the number of values."""
        n = 1
        for side in self.shape:
            n *= side
        return n


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a GGUF file says about itself."""

    version: int
    values: dict[str, Value]
    tensors: tuple[GGUFTensor, ...]
    size_bytes: int
    keys_end: int = 0
    """Where the keys end and the list of tensors begins."""
    file_type_at: int = 0
    """Where the value of ``general.file_type`` is, four bytes; 0 when there is none."""

    def text(self, key: str) -> str | None:
        """Returns a string value, or None."""
        value = self.values.get(key)
        return value if isinstance(value, str) and value else None

    def number(self, key: str) -> int | None:
        """Returns a whole number, or None."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def of_architecture(self, key: str) -> int | None:
        """Returns a whole number whose key begins with the architecture, such as ``context_length``; or None.

        Lists (heads per layer) give their largest entry.
        """
        value = self.values.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple):
            value = max((item for item in value if isinstance(item, int)), default=None)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str | None:
        """Returns ``general.architecture``, such as llama or qwen3."""
        return self.text("general.architecture")

    @property
    def context_length(self) -> int | None:
        """Returns the number of tokens that the model was trained to see at once."""
        return self.of_architecture("context_length")

    @property
    def chat_template(self) -> str | None:
        """Returns the Jinja chat template, or None."""
        return self.text("tokenizer.chat_template")

    @property
    def pooling(self) -> str | None:
        """Returns how an embedding model pools (none, mean, cls, last, rank), or None when the file does not say."""
        number = self.of_architecture("pooling_type")
        return None if number is None else POOLING.get(number)

    @property
    def file_type(self) -> str | None:
        """Returns the quantisation as people name it, such as Q4_K_M, or None."""
        number = self.number("general.file_type")
        return None if number is None else FILE_TYPES.get(number)

    @property
    def split_count(self) -> int:
        """Returns of how many files the model consists; 1 for a file of its own."""
        return max(1, self.number("split.count") or 1)

    @property
    def split_number(self) -> int:
        """Returns which of the split files this is, from 0."""
        return self.number("split.no") or 0

    @property
    def parameters(self) -> int:
        """Returns the number of values in this file's tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def kind(self) -> str:
        """Returns ``model``, ``adapter`` (LoRA), ``mmproj`` (vision part) or another ``general.type``."""
        return self.text("general.type") or "model"


def read_gguf(path: Path, called: str = "") -> GGUFHeader:
    """Returns the header; in messages the file is `called` so, where its own name says nothing to people.

    Raises:
        InvalidInput: the file is not a GGUF file that this reader knows, or it is cut off.
        OSError: the file cannot be read.
    """
    name = called or path.name
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 24:
            raise _bad(name, "it is too short")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(name, data, size).header()
            except struct.error as error:
                raise _bad(name, "its header is cut off") from error


class _Reader:
    """A position in the file, and what can be read there; every size is checked before it is used."""

    def __init__(self, name: str, data: mmap.mmap, size: int) -> None:
        self._name, self._data, self._size = name, data, size
        self._at = 0
        self._items = self._text = 0

    def header(self) -> GGUFHeader:
        if self._data[:4] != b"GGUF":
            raise _bad(self._name, "it does not begin with GGUF")
        self._at = 4
        version = self._u32()
        if version not in (2, 3):
            raise _bad(
                self._name,
                "its version is unknown (a big-endian file?)"
                if version > 100
                else "its version is not supported",
            )
        n_tensors, n_keys = self._u64(), self._u64()
        if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
            raise _bad(self._name, "it announces too many entries")
        values: dict[str, Value] = {}
        file_type_at = 0
        for _ in range(n_keys):
            key, kind = self._string(65_535), self._u32()
            if key == "general.file_type" and kind in (4, 5):
                file_type_at = self._at
            if key in values:
                raise _bad(self._name, "a key is there twice")
            values[key] = self._value(kind)
        keys_end = self._at
        found = [self._tensor() for _ in range(n_tensors)]
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
            raise _bad(self._name, "its alignment is impossible")
        if len({name for name, *_ in found}) < n_tensors:
            raise _bad(self._name, "a tensor is there twice")
        base = -(-self._at // alignment) * alignment
        placed = tuple(self._placed(found, base))
        return GGUFHeader(version, values, placed, self._size, keys_end, file_type_at)

    def _placed(self, found: list[tuple[str, int, tuple[int, ...], int]], base: int) -> Iterator[GGUFTensor]:
        for name, number, shape, offset in found:
            known = TENSOR_TYPES.get(number)
            elements = 1
            for side in shape:
                elements *= side
            if not elements:
                raise _bad(self._name, "a tensor has no values")
            if elements > MAX_ELEMENTS:
                raise _bad(self._name, "a tensor has more values than a file can hold")
            size = None if known is None else -(-elements // known[1]) * known[2]
            if base + offset + (size or 0) > self._size:
                raise _bad(self._name, "it is cut off: a tensor lies beyond its end")
            yield GGUFTensor(name, known[0] if known else f"type {number}", shape, base + offset, size)

    def _tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string(65_535)
        n = self._u32()
        if n > MAX_DIMENSIONS:
            raise _bad(self._name, "a tensor has too many sides")
        shape = tuple(self._u64() for _ in range(n))
        return name, self._u32(), shape, self._u64()

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string(MAX_STRING_BYTES)
        if kind != _ARRAY:
            return self._scalar(kind)
        item, length = self._u32(), self._u64()
        self._items += length
        if self._items > MAX_ARRAY_ITEMS or item == _ARRAY:
            raise _bad(self._name, "a list is too long or nested")
        if length <= KEPT_ITEMS:
            return tuple(
                self._string(MAX_STRING_BYTES) if item == _STRING else self._scalar(item)
                for _ in range(length)
            )
        if item == _STRING:
            self._skip_strings(length)
        elif item in _SCALARS:
            self._skip(_SCALARS[item].size * length)
        else:
            raise _bad(self._name, "a value has an unknown type")
        return LongList(length)

    def _skip_strings(self, count: int) -> None:
        data, at, size, read = self._data, self._at, self._size, _U64.unpack_from
        for _ in range(count):
            at += 8 + read(data, at)[0]
            if at > size:
                raise _bad(self._name, "its header is cut off")
        self._at = at

    def _scalar(self, kind: int) -> Scalar:
        form = _SCALARS.get(kind)
        if form is None:
            raise _bad(self._name, "a value has an unknown type")
        value: int | float = form.unpack_from(self._data, self._at)[0]
        self._at += form.size
        return bool(value) if kind == _BOOL else value

    def _string(self, limit: int) -> str:
        length = self._u64()
        self._text += length
        if length > limit or length > self._size - self._at or self._text > MAX_TEXT_BYTES:
            raise _bad(self._name, "a text is longer than it may be")
        raw = self._data[self._at : self._at + length]
        self._at += length
        return raw.decode("utf-8", "replace")

    def _u32(self) -> int:
        value: int = _U32.unpack_from(self._data, self._at)[0]
        self._at += 4
        return value

    def _u64(self) -> int:
        value: int = _U64.unpack_from(self._data, self._at)[0]
        self._at += 8
        return value

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > self._size:
            raise _bad(self._name, "its header is cut off")


def _bad(name: str, fault: str) -> InvalidInput:
    return InvalidInput(
        "{file} is not a GGUF file that Fust can read: {fault}.",
        hint="Download it again, or pull a GGUF of version 2 or 3.",
        code="bad_model_file",
        file=name,
        fault=Words(fault),
    )
