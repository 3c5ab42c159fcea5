"""Makes a smaller GGUF file of a whole one: keys as they are, tensors stored in fewer bits."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fust.core.errors import InvalidInput
from fust.formats.ggml_types import (
    FILE_TYPE_NUMBERS,
    FileType,
    TensorType,
    check_file_type,
    encode,
    tensor_type,
)
from fust.formats.gguf import GGUFHeader, GGUFTensor, read_gguf
from fust.formats.gguf_write import ALIGNMENT, header, in_pieces
from fust.formats.safetensors_values import STORED, to_floats


def quantise_gguf(
    source: Path,
    target: Path,
    file_type: FileType,
    *,
    threads: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes ``target``, which appears whole or not at all.

    Raises:
        InvalidInput: the file is in parts, is no model, or is quantised already: what was rounded away does not come back.
        NotOffered: the type needs a library that is not here.
        OSError: reading or writing failed.

    """
    check_file_type(file_type)
    found = read_gguf(source)
    _check(found, source)
    kinds = _kinds(found, file_type)
    with source.open("rb") as file:
        head = file.read(found.keys_end)
    key_count, keys = int.from_bytes(head[16:24], "little"), bytearray(head[24:])
    if found.file_type_at:
        keys[found.file_type_at - 24 : found.file_type_at - 20] = struct.pack(
            "<I", FILE_TYPE_NUMBERS[file_type]
        )
    shapes: list[tuple[str, tuple[int, ...], TensorType]] = [
        (tensor.name, tensor.shape[::-1], kind) for tensor, kind in zip(found.tensors, kinds, strict=True)
    ]
    part = target.with_name(target.name + ".part")
    try:
        with part.open("wb") as file, ThreadPoolExecutor(threads) as pool:
            file.write(header(key_count, bytes(keys), shapes))
            for number, (tensor, kind) in enumerate(zip(found.tensors, kinds, strict=True)):
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                raw = np.memmap(source, STORED[tensor.type_name], "r", tensor.start, tensor.shape[::-1])
                for block in pool.map(partial(_encoded, dtype=tensor.type_name, kind=kind), in_pieces(raw)):
                    file.write(block)
                tell(number + 1, len(kinds))
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _encoded(raw: npt.NDArray[np.generic], *, dtype: str, kind: TensorType) -> bytes:
    return encode(to_floats(np.ascontiguousarray(raw), dtype), kind)


def _check(found: GGUFHeader, source: Path) -> None:
    if found.kind != "model" or found.split_count > 1:
        raise InvalidInput(
            "{file} is no whole model, and cannot be quantised.",
            hint="Give a GGUF file of its own.",
            file=source.name,
        )
    if len({tensor.name for tensor in found.tensors}) != len(found.tensors) or not found.tensors:
        raise InvalidInput("{file} has no tensors, or two of one name.", file=source.name)
    for tensor in found.tensors:
        if tensor.type_name not in STORED:
            raise InvalidInput(
                "{file} is quantised already ({type}): what was rounded away does not come back.",
                hint="Quantise the F16, BF16 or F32 file that it was made from.",
                code="quantised_already",
                file=source.name,
                type=tensor.type_name,
            )


def _kinds(found: GGUFHeader, file_type: FileType) -> list[TensorType]:
    layers = found.of_architecture("block_count") or 0
    tied = all(tensor.name != "output.weight" for tensor in found.tensors)

    def kind_of(tensor: GGUFTensor) -> TensorType:
        # What was kept in full (norms, rope factors) stays so.
        return tensor_type(tensor.name, tensor.shape[::-1], file_type, layers, tied=tied)

    return [kind_of(tensor) for tensor in found.tensors]
