"""git's packet lines (gitprotocol-common(5)) and the side band in which a server talks (gitprotocol-pack(5))."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from fust.core.errors import InvalidInput

FLUSH = b"0000"
_BAND_BYTES = 65515
"""Longest piece of a side-band-64k packet."""


def packet(data: bytes) -> bytes:
    """Returns one packet line."""
    return b"%04x%s" % (len(data) + 4, data)


def band(number: int, data: bytes) -> bytes:
    """Returns bytes as packets of a side band: 1 data, 2 words for the person, 3 the end by an error."""
    pieces = [data[i : i + _BAND_BYTES] for i in range(0, len(data), _BAND_BYTES)]
    return b"".join(packet(bytes([number]) + piece) for piece in pieces)


def read_packets(file: BinaryIO) -> Iterator[bytes]:
    """Yields packets until a flush packet or the end of the file, leaving what follows unread.

    Raises:
        InvalidInput: these are no packet lines.

    """
    while head := file.read(4):
        try:
            length = int(head, 16)
        except ValueError:
            length = -1
        if length == 0:
            return
        data = file.read(length - 4) if length >= 4 else b""
        if length < 4 or len(data) != length - 4:
            raise InvalidInput("This is not what git sends: {what}.", what="a packet line is broken")
        yield data
