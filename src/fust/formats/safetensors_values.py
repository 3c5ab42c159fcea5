"""Values of safetensors as float32 and back, by numpy, which has no bfloat16 of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fust.formats.ggml_types import FloatArray, bf16_bits
from fust.formats.safetensors import SafetensorsTensor

STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""The types of weights that are read, and what numpy reads them as."""


def map_tensor(path: Path, tensor: SafetensorsTensor, *, writable: bool = False) -> npt.NDArray[np.generic]:
    """Returns a tensor as it is stored, mapped from the file; writable: what is put into it goes to the file."""
    mode = "r+" if writable else "r"
    return np.memmap(path, STORED[tensor.dtype], mode, tensor.start, tensor.shape)


def to_floats(stored: npt.NDArray[np.generic], dtype: str) -> FloatArray:
    """Returns stored values as float32."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def from_floats(values: FloatArray, dtype: str) -> npt.NDArray[np.generic]:
    """Returns values as they are stored, rounded to nearest even."""
    return bf16_bits(values) if dtype == "BF16" else values.astype(STORED[dtype])
