"""Xorbs (huggingface.co/docs/xet/xorb): packs of up to 8192 compressed chunks, read with every bound checked.

A chunk is 8 bytes of header (version, compressed length (3), scheme, raw length (3)) and its bytes. A footer that
begins with ``XETBLOB`` may follow the chunks; it repeats what the chunks say, so it is cut off and not kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import lz4.frame  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from fust.hub.errors import BadHash, BadXorb
from fust.hub.xet import hashing

MAX_XORB_BYTES = 64 * 2**20
MAX_BODY_BYTES = MAX_XORB_BYTES + 2**20
"""Chunks with their headers and a footer."""
MAX_CHUNKS = 8192
MAX_CHUNK_BYTES = 128 * 2**10
HEADER_BYTES = 8
_FOOTER = b"XETBLOB"
_RECORD = struct.Struct("<32sII")
_NONE, _LZ4, _BG4_LZ4 = 0, 1, 2


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """What a verified xorb holds. ``ends[i]`` is the offset behind chunk i, ``raw[i]`` its raw length."""

    hashes: tuple[bytes, ...]
    ends: tuple[int, ...]
    raw: tuple[int, ...]

    def start(self, chunk: int) -> int:
        """Returns the offset of a chunk's header."""
        return self.ends[chunk - 1] if chunk else 0

    def pack(self) -> bytes:
        """Returns the table as the database holds it."""
        rows = zip(self.hashes, self.ends, self.raw, strict=True)
        return b"".join(_RECORD.pack(digest, end, raw) for digest, end, raw in rows)

    @staticmethod
    def unpack(data: bytes) -> ChunkTable:
        """Returns the table of a row."""
        rows = list(_RECORD.iter_unpack(data))
        return ChunkTable(tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows))

    def nodes(self, start: int, end: int) -> Iterator[hashing.Node]:
        """Yields (hash, raw length) of chunks [start, end)."""
        return zip(self.hashes[start:end], self.raw[start:end], strict=True)


def _bad(reason: str) -> BadXorb:
    return BadXorb(
        "This is not a valid xorb: {reason}.",
        hint="Upload again; if it stays so, update hf-xet.",
        reason=reason,
    )


def decode_chunk(data: bytes | memoryview, offset: int) -> tuple[bytes, int]:
    """Returns the raw bytes of the chunk at ``offset`` and the offset behind it.

    Raises:
        BadXorb: a field is out of bounds, or the bytes do not decompress to the length that the header says.

    """
    if offset + HEADER_BYTES > len(data):
        raise _bad("a chunk header is cut off")
    header = bytes(data[offset : offset + HEADER_BYTES])
    packed = int.from_bytes(header[1:4], "little")
    scheme = header[4]
    raw = int.from_bytes(header[5:8], "little")
    end = offset + HEADER_BYTES + packed
    if header[0] != 0:
        raise _bad(f"chunk version {header[0]}")
    if not 0 < raw <= MAX_CHUNK_BYTES or not 0 < packed <= 2 * MAX_CHUNK_BYTES or end > len(data):
        raise _bad("a chunk length is out of bounds")
    body = bytes(data[offset + HEADER_BYTES : end])
    if scheme == _NONE:
        if packed != raw:
            raise _bad("a stored chunk has another length than its header says")
        return body, end
    if scheme not in (_LZ4, _BG4_LZ4):
        raise _bad(f"compression scheme {scheme}")
    plain = _inflate(body, raw)
    return (plain if scheme == _LZ4 else _regroup(plain)), end


def _inflate(body: bytes, raw: int) -> bytes:
    """Returns exactly ``raw`` bytes from one LZ4 frame; never makes more than that and one."""
    # The frame's own claim of its content size is not believed: max_length bounds what is made.
    decoder = cast("Any", lz4.frame).LZ4FrameDecompressor()
    try:
        plain = cast("bytes", decoder.decompress(body, max_length=raw))
        if not decoder.eof:
            plain += cast("bytes", decoder.decompress(b"", max_length=1))
    except (RuntimeError, EOFError, MemoryError, ValueError) as error:
        raise _bad(f"a chunk does not decompress ({error})") from None
    if len(plain) != raw or not decoder.eof or decoder.unused_data:
        raise _bad("a chunk decompresses to another length than its header says")
    return plain


def _regroup(grouped: bytes) -> bytes:
    """Undoes byte grouping by 4: all first bytes, then all second, third and fourth ones."""
    n = len(grouped)
    source = np.frombuffer(grouped, dtype=np.uint8)
    plain = np.empty(n, dtype=np.uint8)
    at = 0
    for lane in range(4):
        count = (n + 3 - lane) // 4
        plain[lane::4] = source[at : at + count]
        at += count
    return plain.tobytes()


def verify_xorb(data: bytes | memoryview, name: str) -> tuple[ChunkTable, int]:
    """Returns the chunk table of a serialized xorb and how many of its bytes are chunks.

    Raises:
        BadXorb: a malformed chunk, too many, or nothing at all.
        BadHash: the chunks do not hash to ``name``.

    """
    hashes: list[bytes] = []
    ends: list[int] = []
    raws: list[int] = []
    offset = 0
    while offset < len(data) and bytes(data[offset : offset + len(_FOOTER)]) != _FOOTER:
        if len(hashes) >= MAX_CHUNKS:
            raise _bad(f"more than {MAX_CHUNKS} chunks")
        plain, offset = decode_chunk(data, offset)
        hashes.append(hashing.chunk_hash(plain))
        ends.append(offset)
        raws.append(len(plain))
    if not hashes:
        raise _bad("it holds no chunk")
    if hashing.to_hex(hashing.xorb_hash(zip(hashes, raws, strict=True))) != name:
        raise BadHash(
            "The bytes of xorb {name} do not have the hash that its name says.",
            hint="Upload again; if it stays so, update hf-xet.",
            name=name,
        )
    return ChunkTable(tuple(hashes), tuple(ends), tuple(raws)), offset
