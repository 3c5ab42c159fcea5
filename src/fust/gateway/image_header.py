"""Kind, size and turn of an image from its headers: nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

_ORIENTATION = 0x0112


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


def is_turned(data: bytes, kind: str) -> bool:
    """Returns whether its EXIF data says that it is to be shown turned or mirrored: cameras leave pictures as they lay.

    EXIF 2.32, tag 0x0112 `Orientation`: 1 is upright. In JPEG it is in APP1, in PNG in `eXIf`; WebP is decoded anyhow.
    """
    exif = b""
    if kind == "jpeg":
        exif = next(
            (data[at + 10 : end] for at, end in _segments(data) if data[at + 4 : at + 10] == b"Exif\0\0"), b""
        )
    elif kind == "png":
        exif = next(
            (data[at + 8 : end] for at, end in _chunks(data) if data[at + 4 : at + 8] == b"eXIf"), b""
        )
    return 2 <= _orientation(exif) <= 8


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields where JPEG's segments with a length begin (their marker) and end, up to the scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        elif marker in (0xD9, 0xDA):
            return
        else:
            end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
            yield at, end
            at = end


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields where PNG's chunks begin (their length) and where what they hold ends."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        yield at, end
        at = end + 4


def _orientation(exif: bytes) -> int:
    """Returns the tag of a TIFF header's first directory; 0 where it has none."""
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(exif[:4])
    if order != "little" and order != "big":
        return 0
    at = int.from_bytes(exif[4:8], order)
    for entry in range(min(int.from_bytes(exif[at : at + 2], order), 1000)):
        place = at + 2 + 12 * entry
        if int.from_bytes(exif[place : place + 2], order) == _ORIENTATION:
            return int.from_bytes(exif[place + 8 : place + 10], order)
    return 0


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
    for at, _ in _segments(data):
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 9 <= len(data):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
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
