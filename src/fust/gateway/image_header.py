"""Kind and size of an image from its first bytes: nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """What an image says of itself; both sides are at least 1."""

    kind: str
    """`png`, `jpeg`, `gif` or `webp`."""
    width: int
    height: int


def read_size(data: bytes) -> Size | None:
    """Returns the kind and the size; None for what is none of the four, or does not say."""
    for kind, (magic, sides_of) in _KINDS.items():
        if data.startswith(magic):
            sides = sides_of(data)
            return Size(kind, *sides) if sides and min(sides) > 0 else None
    return None


def _png(data: bytes) -> tuple[int, int] | None:
    if data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _gif(data: bytes) -> tuple[int, int] | None:
    if data[3:6] not in (b"87a", b"89a") or len(data) < 10:
        return None
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Goes from segment to segment up to the frame's header (SOF0 to SOF15, less DHT, JPG and DAC)."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        elif marker in (0xD9, 0xDA):  # its end, or its scan, without a frame
            return None
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    if data[8:12] != b"WEBP" or len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L" if data[20] == 0x2F:
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(
                data[28:30], "little"
            ) & 0x3FFF
        case _:
            return None


_KINDS: dict[str, tuple[bytes, Callable[[bytes], tuple[int, int] | None]]] = {
    "png": (b"\x89PNG\r\n\x1a\n", _png),
    "jpeg": (b"\xff\xd8\xff", _jpeg),
    "gif": (b"GIF8", _gif),
    "webp": (b"RIFF", _webp),
}
