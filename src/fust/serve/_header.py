"""Reads the key-value part of a GGUF header, defensively: every length is bounded by the file's own size.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from fust.core.errors import InvalidInput

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_MAX_KEYS = 65_536
_MAX_ITEMS = 16_000_000
_KEPT_ITEMS = 4096

Value = bool | int | float | str | list["Value"]


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def scalar(self, kind: int) -> bool | int | float:
        form = _SCALARS[kind]
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def length(self, limit: int) -> int:
        value = int(self.scalar(10))
        if value > limit:
            raise ValueError("a length lies beyond its limit")
        return value

    def string(self) -> str:
        size = self.length(len(self.data) - self.at)
        text = self.data[self.at : self.at + size]
        self.at += size
        return text.decode("utf-8", "replace")

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(kind)
        inner = int(self.scalar(4))
        count = self.length(min(_MAX_ITEMS, len(self.data) - self.at))
        if inner == _STRING:
            return self._strings(count)
        size = (
            struct.calcsize(_SCALARS[inner]) * count
        )  # arrays of arrays are not in use; KeyError refuses them
        if size > len(self.data) - self.at:
            raise ValueError("an array lies beyond the end of the file")
        kept = [self.scalar(inner) for _ in range(min(count, _KEPT_ITEMS))]
        self.at += size - struct.calcsize(_SCALARS[inner]) * len(kept)
        return [*kept]

    def _strings(self, count: int) -> list[Value]:
        for _ in range(count):
            size = self.length(len(self.data) - self.at)
            self.at += size
        return [""] * count  # only their number is of use here


def read_metadata(path: Path) -> dict[str, Value]:
    """Returns the header's keys and values; long arrays are cut short, of string arrays only the number is kept.

    Raises:
        InvalidInput: not a GGUF file, or one whose header is damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            reader = _Reader(data)
            reader.at = 4
            if reader.scalar(4) not in (2, 3):
                raise ValueError("its version is not known")
            reader.at += 8  # number of tensors
            found: dict[str, Value] = {}
            for _ in range(reader.length(_MAX_KEYS)):
                key = reader.string()
                found[key] = reader.value(int(reader.scalar(4)))
            return found
    except (ValueError, KeyError, struct.error, OSError) as error:
        raise InvalidInput(
            "{file} is not a model that can be served: {reason}.",
            hint="Check the file, and push it again.",
            file=path.name,
            reason="its header is damaged" if isinstance(error, (KeyError, struct.error)) else error,
        ) from None
