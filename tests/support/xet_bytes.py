"""Xorbs and shards made by hand, right or wrong on purpose."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import lz4.frame

from fust.hub.xet import hashing

BOOKEND = b"\xff" * 32 + bytes(16)
TAG = b"HFRepoMetaData\0" + bytes.fromhex("55696745 6a7b8157 83a5bdd9 5ccdd14a a9".replace(" ", ""))


def chunk(
    data: bytes, *, scheme: int = 0, raw: int | None = None, packed: int | None = None, version: int = 0
) -> bytes:
    """One chunk; lengths may lie."""
    body = data if scheme == 0 else lz4.frame.compress(data if scheme == 1 else group(data))
    head = bytes([version]) + (len(body) if packed is None else packed).to_bytes(3, "little")
    return head + bytes([scheme]) + (len(data) if raw is None else raw).to_bytes(3, "little") + body


def group(data: bytes) -> bytes:
    """Byte grouping by 4."""
    return b"".join(data[i::4] for i in range(4))


def xorb(chunks: Sequence[bytes], scheme: int = 0) -> tuple[str, bytes]:
    """(name, bytes) of a right xorb."""
    name = hashing.to_hex(hashing.xorb_hash([(hashing.chunk_hash(c), len(c)) for c in chunks]))
    return name, b"".join(chunk(c, scheme=scheme) for c in chunks)


def file_hash(chunks: Sequence[bytes]) -> str:
    """The Xet hash of a file of these chunks."""
    return hashing.to_hex(hashing.file_hash([(hashing.chunk_hash(c), len(c)) for c in chunks]))


def shard(
    xet_hash: str,
    segments: Sequence[tuple[str, int, int, int]],
    *,
    sha256: str = "",
    proofs: Sequence[bytes] = (),
    count: int | None = None,
) -> bytes:
    """A shard of one file; segments are (xorb, raw bytes, start, end)."""
    flags = (1 << 31 if proofs else 0) | (1 << 30 if sha256 else 0)
    out = TAG + struct.pack("<QQ", 2, 0)
    out += hashing.from_hex(xet_hash) + struct.pack(
        "<IIQ", flags, len(segments) if count is None else count, 0
    )
    for name, raw, start, end in segments:
        out += hashing.from_hex(name) + struct.pack("<IIII", 0, raw, start, end)
    for proof in proofs:
        out += proof + bytes(16)
    if sha256:
        out += hashing.from_hex(sha256) + bytes(16)
    return out + BOOKEND + BOOKEND
