"""Xet's hashes (huggingface.co/docs/xet/hashing): keyed BLAKE3 of chunks, and a merkle tree over them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence

from blake3 import blake3

_DATA_KEY = bytes.fromhex("6697f5775b9550de3135cbaca597181c9de421109beb2b58b4d0b04b93adf229")
_NODE_KEY = bytes.fromhex("017ec5c7a5472996fd946666b48a02e65ddd536f37c76dd2f86352e64a53713f")
_VERIFICATION_KEY = bytes.fromhex("7f1857d6ce56ed66127ff913e7a5c3f3a4cd26d5b5db49e64124987f28fb94c3")
_ZERO_KEY = bytes(32)
_WORDS = struct.Struct("<4Q")
_HEX64 = re.compile(r"^[0-9a-f]{64}$")
_MEAN_BRANCHING = 4
_MAX_BRANCHING = 2 * _MEAN_BRANCHING + 1
_DEDUP_MODULUS = 1024

Node = tuple[bytes, int]
"""A hash (32 bytes) and how many raw bytes stand below it."""


def chunk_hash(data: bytes) -> bytes:
    """Returns the 32-byte hash of a raw chunk."""
    return blake3(data, key=_DATA_KEY).digest()


def to_hex(digest: bytes) -> str:
    """Returns a hash as Xet writes it: four little-endian words, each in 16 hex digits."""
    return "{:016x}{:016x}{:016x}{:016x}".format(*_WORDS.unpack(digest))


def from_hex(text: str) -> bytes:
    """Returns the 32 bytes of a hash as Xet writes it; ``text`` must satisfy ``is_hash``."""
    return _WORDS.pack(*(int(text[i : i + 16], 16) for i in range(0, 64, 16)))


def is_hash(text: str) -> bool:
    """Returns whether ``text`` is 64 lower-case hex digits."""
    return _HEX64.match(text) is not None


def _cut(nodes: Sequence[Node], start: int) -> int:
    rest = len(nodes) - start
    if rest <= 2:
        return start + rest
    end = min(_MAX_BRANCHING, rest)
    for i in range(2, end):
        # The last of the four little-endian words; only its lowest two bits count.
        if nodes[start + i][0][24] % _MEAN_BRANCHING == 0:
            return start + i + 1
    return start + end


def _merge(nodes: Sequence[Node]) -> Node:
    text = "".join(f"{to_hex(digest)} : {size}\n" for digest, size in nodes)
    return blake3(text.encode(), key=_NODE_KEY).digest(), sum(size for _, size in nodes)


def xorb_hash(chunks: Iterable[Node]) -> bytes:
    """Returns the merkle hash over chunks; 32 zero bytes for none."""
    level = list(chunks)
    if not level:
        return bytes(32)
    while len(level) > 1:
        merged: list[Node] = []
        start = 0
        while start < len(level):
            end = _cut(level, start)
            merged.append(_merge(level[start:end]))
            start = end
        level = merged
    return level[0][0]


def file_hash(chunks: Iterable[Node]) -> bytes:
    """Returns the hash of a file made of chunks; 32 zero bytes for an empty file."""
    root = xorb_hash(chunks)
    return root if root == bytes(32) else blake3(root, key=_ZERO_KEY).digest()


def range_hash(chunk_hashes: Iterable[bytes]) -> bytes:
    """Returns the proof that its maker knows every chunk hash of a range."""
    return blake3(b"".join(chunk_hashes), key=_VERIFICATION_KEY).digest()


def is_dedup_chunk(digest: bytes) -> bool:
    """Returns whether clients ask for a chunk of this hash wherever it stands in a file: one in 1024."""
    return int.from_bytes(digest[24:32], "little") % _DEDUP_MODULUS == 0


def under_key(digest: bytes, key: bytes) -> bytes:
    """Returns a chunk's hash as a keyed shard names it: only who has the chunk finds it there."""
    return blake3(digest, key=key).digest()
