"""Shards (huggingface.co/docs/xet/shard): which chunks of which xorbs make which file, read with every bound checked.

Only the file section is read; what a shard says about xorbs is taken from the verified xorbs themselves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fust.hub.errors import BadXorb
from fust.hub.xet import hashing

MAX_SHARD_BYTES = 64 * 2**20
_TAG = b"HFRepoMetaData\0" + bytes.fromhex("5569 6745 6a7b 8157 83a5 bdd9 5ccd d14a a9")
_HEADER = struct.Struct("<32sQQ")
_RECORD = struct.Struct("<32sIIII")
_WITH_VERIFICATION = 1 << 31
_WITH_METADATA = 1 << 30
_BOOKEND = b"\xff" * 32


@dataclass(frozen=True, slots=True)
class Segment:
    """Chunks [start, end) of a xorb, ``raw_bytes`` long when decompressed."""

    xorb: str
    raw_bytes: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file of a shard, as claimed."""

    xet_hash: str
    segments: tuple[Segment, ...]
    proofs: tuple[bytes, ...]
    """A range hash per segment, or none at all."""
    sha256: str
    """Hex; empty when the shard does not say."""


def _bad(reason: str) -> BadXorb:
    return BadXorb(
        "This is not a valid shard: {reason}.",
        hint="Upload again; if it stays so, update hf-xet.",
        reason=reason,
    )


def parse_shard(data: bytes) -> list[ShardFile]:
    """Returns the files that a shard claims.

    Raises:
        BadXorb: it does not follow the format, or a section is cut off.

    """
    if len(data) < _HEADER.size:
        raise _bad("the header is cut off")
    tag, version, _ = _HEADER.unpack_from(data)
    if tag != _TAG or version != 2:
        raise _bad("unknown tag or version")
    files: list[ShardFile] = []
    at = _HEADER.size
    while True:
        digest, flags, count, _, _ = _record(data, at)
        at += _RECORD.size
        if digest == _BOOKEND:
            return files
        records = count * (2 if flags & _WITH_VERIFICATION else 1) + (1 if flags & _WITH_METADATA else 0)
        if at + records * _RECORD.size > len(data):
            raise _bad("a file's records are cut off")
        files.append(_file(data, at, hashing.to_hex(digest), flags, count))
        at += records * _RECORD.size


def _record(data: bytes, at: int) -> tuple[bytes, int, int, int, int]:
    if at + _RECORD.size > len(data):
        raise _bad("a record is cut off")
    return _RECORD.unpack_from(data, at)


def _file(data: bytes, at: int, xet_hash: str, flags: int, count: int) -> ShardFile:
    segments = unpack_segments(data[at : at + count * _RECORD.size])
    at += count * _RECORD.size
    proofs: list[bytes] = []
    if flags & _WITH_VERIFICATION:
        proofs = [_record(data, at + i * _RECORD.size)[0] for i in range(count)]
        at += count * _RECORD.size
    sha256 = hashing.to_hex(_record(data, at)[0]) if flags & _WITH_METADATA else ""
    for segment in segments:
        if segment.start >= segment.end:
            raise _bad("a segment is empty")
    return ShardFile(xet_hash, segments, tuple(proofs), sha256)


def pack_segments(segments: tuple[Segment, ...]) -> bytes:
    """Returns segments as the database holds them."""
    return b"".join(_RECORD.pack(hashing.from_hex(s.xorb), 0, s.raw_bytes, s.start, s.end) for s in segments)


def unpack_segments(data: bytes) -> tuple[Segment, ...]:
    """Returns the segments of a row or of a shard's records."""
    return tuple(
        Segment(hashing.to_hex(digest), raw, start, end)
        for digest, _, raw, start, end in _RECORD.iter_unpack(data)
    )
