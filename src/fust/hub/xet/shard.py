"""Shards (huggingface.co/docs/xet/shard): which chunks of which xorbs make which file, read with every bound checked.

Of a client's shard only the file section is read; what it says about xorbs is taken from the verified xorbs themselves.
The answer to a chunk query is a shard too: no files, and xorbs whose chunks are named by keyed hashes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from fust.hub.errors import BadXorb
from fust.hub.xet import hashing
from fust.hub.xet.xorb import ChunkTable

MAX_SHARD_BYTES = 64 * 2**20
_TAG = b"HFRepoMetaData\0" + bytes.fromhex("5569 6745 6a7b 8157 83a5 bdd9 5ccd d14a a9")
_HEADER = struct.Struct("<32sQQ")
_RECORD = struct.Struct("<32sIIII")
_WITH_VERIFICATION = 1 << 31
_WITH_METADATA = 1 << 30
_BOOKEND = b"\xff" * 32
_FOOTER = struct.Struct("<9Q32s2Q48s4Q")


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


def write_dedup_shard(
    xorbs: Sequence[tuple[str, ChunkTable]], key: bytes, now_s: int, expires_s: int
) -> bytes:
    """Returns a shard that tells which chunks xorbs hold, each under ``key`` (32 bytes, kept in the footer).

    A client finds in it the chunks that it has itself, and learns no other's hash.
    """
    parts = [_HEADER.pack(_TAG, 2, _FOOTER.size), _RECORD.pack(_BOOKEND, 0, 0, 0, 0)]
    xorb_section = sum(map(len, parts))
    for name, table in xorbs:
        raw_bytes, kept_bytes = sum(table.raw), table.ends[-1]
        parts.append(_RECORD.pack(hashing.from_hex(name), 0, len(table.raw), raw_bytes, kept_bytes))
        at = 0
        for digest, raw in table.nodes(0, len(table.raw)):
            parts.append(_RECORD.pack(hashing.under_key(digest, key), at, raw, 0, 0))
            at += raw
    parts.append(_RECORD.pack(_BOOKEND, 0, 0, 0, 0))
    footer = sum(map(len, parts))
    kept = sum(table.ends[-1] for _, table in xorbs)
    raw = sum(sum(table.raw) for _, table in xorbs)
    # Lookup tables may be left out; the reader makes them. Their offsets are where they would begin.
    parts.append(
        _FOOTER.pack(
            *(1, _HEADER.size, xorb_section, footer, 0, footer, 0, footer, 0),
            *(key, now_s, expires_s, bytes(48), kept, 0, raw, footer),
        )
    )
    return b"".join(parts)
