"""Chunk queries (huggingface.co/docs/xet/deduplication): a client that has a chunk asks which xorbs hold what follows it.

A namespace is told of its own files alone, those that it brought itself, and of their xorbs under a keyed hash: who
asks learns where the chunks are that it has, and of no other. Whoever else holds the chunk answers nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select

from fust.hub.models import DedupChunk, LargeFileOwner, XetFile, XorbOwner
from fust.hub.xet import hashing
from fust.hub.xet.cas import Cas, note_brought
from fust.hub.xet.shard import unpack_segments, write_dedup_shard
from fust.store.database import Database

SHARD_LIFE_S = 7 * 86400
"""How long a client may use the answer; it is dropped before when the store's generation changes."""
_MAX_XORBS = 128
_MAX_FILES = 8
"""Versions of one file that share the chunk and are told of."""


def find_dedup_shard(
    database: Database, cas: Cas, namespace: str, chunk: str, key: bytes, now_s: int
) -> bytes | None:
    """Returns a shard of the xorbs in a namespace's files that hold a chunk, or None.

    Args:
        database: of the home.
        cas: its verified xorbs.
        namespace: that asks; a caller must be allowed to write there.
        chunk: hash of a chunk, as Xet writes it.
        key: 32 bytes for the chunks' hashes.
        now_s: Unix seconds.

    """
    with database.read() as session:
        query = (
            select(XetFile)
            .join(DedupChunk, DedupChunk.xet_hash == XetFile.xet_hash)
            .join(LargeFileOwner, LargeFileOwner.sha256 == XetFile.sha256)
            .where(DedupChunk.chunk == chunk, LargeFileOwner.namespace == namespace)
            .limit(_MAX_FILES)
        )
        files = list(session.scalars(query))
        named = list(dict.fromkeys(name for file in files for name in _xorbs_from(cas, file, chunk)))
        owned = select(XorbOwner.hash).where(XorbOwner.namespace == namespace, XorbOwner.hash.in_(named))
        mine = set(session.scalars(owned)) if named else set[str]()
    xorbs = [(name, cas.table(name)) for name in named if name in mine][:_MAX_XORBS]
    if not xorbs:
        return None
    note_brought(database, [file.sha256 for file in files])
    return write_dedup_shard(xorbs, key, now_s, now_s + SHARD_LIFE_S)


def _xorbs_from(cas: Cas, file: XetFile, chunk: str) -> Iterator[str]:
    """Yields the xorbs of a file, from the one that holds the chunk on; those before it come last."""
    digest = hashing.from_hex(chunk)
    names = list(dict.fromkeys(segment.xorb for segment in unpack_segments(file.segments)))[: 4 * _MAX_XORBS]
    at = next((i for i, name in enumerate(names) if digest in cas.table(name).hashes), 0)
    yield from names[at:] + names[:at]
