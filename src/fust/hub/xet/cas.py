"""The content store that Xet clients upload to: xorbs and shards are verified before any row can point to them."""

from __future__ import annotations

import functools
import hashlib
import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from fust.core.clock import utc_naive
from fust.core.errors import NotFound, RangeNotSatisfiable
from fust.hub.blobs import BlobStore
from fust.hub.errors import BadHash, BadXorb
from fust.hub.models import DedupChunk, LargeFile, LargeFileOwner, XetFile, Xorb, XorbOwner
from fust.hub.xet import hashing
from fust.hub.xet.shard import Segment, ShardFile, pack_segments, parse_shard, unpack_segments
from fust.hub.xet.xorb import ChunkTable, decode_chunk, verify_xorb
from fust.store.database import Database

PIECE_BYTES = 2**18
"""A piece of a file: the server holds about six of them for a reader that does not read."""
NOTED_AGAIN = timedelta(minutes=10)
"""How old the note of when bytes were brought may grow before it is written anew."""


def note_brought(database: Database, sha256s: Sequence[str]) -> None:
    """Notes that large files were brought again, so that they are not swept before a commit points to them."""
    before = utc_naive() - NOTED_AGAIN
    with database.read() as session:
        query = select(LargeFile.sha256).where(LargeFile.sha256.in_(sha256s), LargeFile.created_at < before)
        old = list(session.scalars(query))
    if old:
        with database.write() as session:
            session.execute(update(LargeFile).where(LargeFile.sha256.in_(old)).values(created_at=utc_naive()))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a verified file is put together."""

    xet_hash: str
    sha256: str
    size: int
    segments: tuple[Segment, ...]
    dedup_chunks: frozenset[str] = frozenset()
    """Of a file that was just verified: the chunks by which clients may ask for its xorbs."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bytes [first, last] of a xorb that hold chunks [start, end)."""

    xorb: str
    start: int
    end: int
    first: int
    last: int


class Cas:
    """Registers xorbs and files, and rebuilds files."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._lock = threading.Lock()
        self._table = functools.lru_cache(maxsize=64)(self._load_table)
        self._recipe = functools.lru_cache(maxsize=256)(self._load_recipe)

    # Xorbs

    def add_xorb(self, namespace: str, name: str, temporary: Path) -> bool:
        """Verifies a serialized xorb and keeps it for a namespace; returns False when that namespace had it.

        The temporary file is taken, or removed when it is refused.

        Raises:
            BadXorb, BadHash: it is malformed or is not what its name says.
            StorageFull: no room.

        """
        try:
            with self._blobs.in_use():
                if self._has_xorb(namespace, name):
                    return False
            table, size = _verify_file(temporary, name)
            _cut(temporary, size)
            with self._blobs.in_use():
                # The bytes are kept before the row, so a row always finds its bytes. A second copy replaces the first.
                self._blobs.keep("xorbs", name, temporary)
                with self._database.write() as session:
                    row = session.get(Xorb, name)
                    if row is None:
                        session.add(Xorb(hash=name, size=size, raw_size=sum(table.raw), chunks=table.pack()))
                    else:
                        row.created_at = utc_naive()
                    if session.get(XorbOwner, (namespace, name)) is None:
                        session.add(XorbOwner(namespace=namespace, hash=name))
            return True
        finally:
            temporary.unlink(missing_ok=True)

    def _has_xorb(self, namespace: str, name: str) -> bool:
        """Returns whether a namespace has a xorb, and notes that it was brought again: it will not be swept soon."""
        with self._database.read() as session:
            row = session.get(Xorb, name) if session.get(XorbOwner, (namespace, name)) else None
        if row is None or not self._blobs.find("xorbs", name):
            return False
        if row.created_at < utc_naive() - NOTED_AGAIN:
            with self._database.write() as session:
                session.execute(update(Xorb).where(Xorb.hash == name).values(created_at=utc_naive()))
        return True

    def table(self, name: str) -> ChunkTable:
        """Returns what a verified xorb holds.

        Raises:
            BadXorb: it is not here.

        """
        return self._table(name)

    def _load_table(self, name: str) -> ChunkTable:
        with self._database.read() as session:
            row = session.get(Xorb, name)
        if row is None:
            raise BadXorb(
                "Xorb {name} is not here.",
                hint="Upload the xorbs before the shard that names them.",
                name=name,
            )
        return ChunkTable.unpack(row.chunks)

    # Shards

    def add_shard(
        self, namespace: str, data: bytes, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> bool:
        """Verifies every file of a shard and keeps them for a namespace; returns False when all were there.

        A file's Xet hash is computed from the chunk hashes of verified xorbs, and its SHA-256 from its bytes.
        ``progress`` is told after each file how many of how many are done.

        Raises:
            BadXorb: malformed, or it names chunks that are not there for this namespace.
            BadHash: a hash in it is forged.

        """
        fresh = False
        files = parse_shard(data)
        for number, file in enumerate(files):
            progress(number, len(files))
            with self._blobs.in_use():
                if self._is_fresh(namespace, file):
                    fresh = True
                    recipe = self._verify_file(namespace, file)
                    with self._database.write() as session:
                        self._keep_file(session, namespace, recipe)
        return fresh

    def _is_fresh(self, namespace: str, file: ShardFile) -> bool:
        with self._database.read() as session:
            row = session.get(XetFile, file.xet_hash)
            owned = row and session.get(LargeFileOwner, (namespace, row.sha256))
        if row is not None and file.sha256 and row.sha256 != file.sha256:
            raise _forged("SHA-256", file.sha256)
        if row is not None and owned:
            note_brought(self._database, [row.sha256])
        return not owned

    def _verify_file(self, namespace: str, file: ShardFile) -> Recipe:
        self._check_owned(namespace, {segment.xorb for segment in file.segments})
        nodes: list[hashing.Node] = []
        for i, segment in enumerate(file.segments):
            table = self._table(segment.xorb)
            if segment.end > len(table.raw):
                raise BadXorb(
                    "The shard names chunks {start} to {end} of xorb {xorb}, which has {count}.",
                    hint="Upload again; if it stays so, update hf-xet.",
                    start=segment.start,
                    end=segment.end,
                    xorb=segment.xorb,
                    count=len(table.raw),
                )
            part = list(table.nodes(segment.start, segment.end))
            if sum(size for _, size in part) != segment.raw_bytes:
                raise _forged("segment length", str(segment.raw_bytes))
            if file.proofs and file.proofs[i] != hashing.range_hash(digest for digest, _ in part):
                raise _forged("range hash", hashing.to_hex(file.proofs[i]))
            nodes += part
        if hashing.to_hex(hashing.file_hash(nodes)) != file.xet_hash:
            raise _forged("file hash", file.xet_hash)
        size = sum(size for _, size in nodes)
        recipe = Recipe(file.xet_hash, file.sha256, size, file.segments)
        digest = hashlib.sha256()
        for piece in self.iter_bytes(recipe):
            digest.update(piece)
        if file.sha256 and digest.hexdigest() != file.sha256:
            raise _forged("SHA-256", file.sha256)
        asked = {hashing.to_hex(chunk) for chunk, _ in nodes if hashing.is_dedup_chunk(chunk)}
        asked |= {hashing.to_hex(chunk) for chunk, _ in nodes[:1]}
        return Recipe(file.xet_hash, digest.hexdigest(), size, file.segments, frozenset(asked))

    def _check_owned(self, namespace: str, xorbs: set[str]) -> None:
        with self._database.read() as session:
            for name in xorbs:
                if session.get(XorbOwner, (namespace, name)) is None:
                    raise BadXorb(
                        "Xorb {name} is not here.",
                        hint="Upload the xorbs before the shard that names them.",
                        name=name,
                    )

    def _keep_file(self, session: Session, namespace: str, recipe: Recipe) -> None:
        if session.get(XetFile, recipe.xet_hash) is None:
            session.add(
                XetFile(
                    xet_hash=recipe.xet_hash,
                    sha256=recipe.sha256,
                    size=recipe.size,
                    segments=pack_segments(recipe.segments),
                )
            )
            session.flush()
            session.add_all(
                DedupChunk(chunk=chunk, xet_hash=recipe.xet_hash) for chunk in recipe.dedup_chunks
            )
        large = session.get(LargeFile, recipe.sha256)
        if large is None:
            session.add(LargeFile(sha256=recipe.sha256, size=recipe.size, xet_hash=recipe.xet_hash))
        else:
            large.xet_hash = large.xet_hash or recipe.xet_hash
            large.created_at = utc_naive()
        if session.get(LargeFileOwner, (namespace, recipe.sha256)) is None:
            session.add(LargeFileOwner(namespace=namespace, sha256=recipe.sha256))

    # Files

    def get_recipe(self, xet_hash: str) -> Recipe:
        """Returns how a file is put together.

        Raises:
            NotFound: no such file.

        """
        return self._recipe(xet_hash)

    def _load_recipe(self, xet_hash: str) -> Recipe:
        with self._database.read() as session:
            row = session.get(XetFile, xet_hash)
        if row is None:
            raise NotFound("There is no file with the Xet hash {xet_hash}.", xet_hash=xet_hash)
        return Recipe(row.xet_hash, row.sha256, row.size, unpack_segments(row.segments))

    def iter_bytes(self, recipe: Recipe, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yields bytes [start, end) of a file, about 256 KiB at a time; only the chunks that it needs are decoded."""
        stop = recipe.size if end is None else min(end, recipe.size)
        at = 0
        pending: list[bytes] = []
        held = 0
        for segment in recipe.segments:
            if at >= stop:
                break
            if at + segment.raw_bytes <= start:
                at += segment.raw_bytes
                continue
            for piece in self._iter_segment(segment):
                if at >= stop:
                    break
                wanted = piece[max(0, start - at) : stop - at]
                at += len(piece)
                if wanted:
                    pending.append(wanted)
                    held += len(wanted)
                if held >= PIECE_BYTES:
                    yield b"".join(pending)
                    pending.clear()
                    held = 0
        if pending:
            yield b"".join(pending)

    def _iter_segment(self, segment: Segment) -> Iterator[bytes]:
        path = self._blobs.find("xorbs", segment.xorb)
        if path is None:
            raise NotFound("The bytes of xorb {name} are gone.", hint="Run `fust doctor`.", name=segment.xorb)
        table = self._table(segment.xorb)
        with open(path, "rb") as file:
            offset = table.start(segment.start)
            file.seek(offset)
            # A few chunks at a time, so that one segment of 64 MiB costs little memory.
            chunk = segment.start
            while chunk < segment.end:
                last = min(chunk + 8, segment.end)
                data = file.read(table.ends[last - 1] - table.start(chunk))
                at = 0
                while at < len(data):
                    piece, at = decode_chunk(data, at)
                    yield piece
                chunk = last

    def plan(self, recipe: Recipe, start: int, end: int) -> tuple[list[Segment], int, list[Fetch]]:
        """Returns what a client needs for bytes [start, end): segments cut to chunks, the offset into the first
        one, and which bytes of which xorbs to fetch.

        Raises:
            RangeNotSatisfiable: ``start`` lies behind the end of the file.

        """
        if start >= recipe.size and recipe.size:
            raise RangeNotSatisfiable(
                "The file has {size} bytes; {start} lies behind its end.", size=recipe.size, start=start
            )
        terms: list[Segment] = []
        skip = 0
        at = 0
        for segment in recipe.segments:
            if at >= end:
                break
            if at + segment.raw_bytes > start:
                table = self._table(segment.xorb)
                first, last, offset, length = segment.start, segment.end, 0, segment.raw_bytes
                while at + offset + table.raw[first] <= start:
                    offset += table.raw[first]
                    first += 1
                while at + length - table.raw[last - 1] >= end and last - 1 > first:
                    length -= table.raw[last - 1]
                    last -= 1
                if not terms:
                    skip = start - (at + offset)
                terms.append(Segment(segment.xorb, length - offset, first, last))
            at += segment.raw_bytes
        return terms, skip, self._fetches(terms)

    def _fetches(self, terms: list[Segment]) -> list[Fetch]:
        ranges: dict[str, list[tuple[int, int]]] = {}
        for term in terms:
            ranges.setdefault(term.xorb, []).append((term.start, term.end))
        fetches: list[Fetch] = []
        for xorb, spans in ranges.items():
            table = self._table(xorb)
            merged: list[tuple[int, int]] = []
            for start, end in sorted(spans):
                if merged and start <= merged[-1][1]:
                    merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
                else:
                    merged.append((start, end))
            fetches += [
                Fetch(xorb, start, end, table.start(start), table.ends[end - 1] - 1) for start, end in merged
            ]
        return fetches


def _verify_file(path: Path, name: str) -> tuple[ChunkTable, int]:
    if path.stat().st_size == 0:
        raise BadXorb("This is not a valid xorb: {reason}.", reason="it is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            return verify_xorb(view, name)
        finally:
            view.release()


def _cut(path: Path, size: int) -> None:
    with open(path, "r+b") as file:
        file.truncate(size)


def _forged(what: str, value: str) -> BadHash:
    return BadHash(
        "The {what} {value} in the shard is not that of the bytes.",
        hint="Upload again; if it stays so, update hf-xet.",
        what=what,
        value=value,
    )
