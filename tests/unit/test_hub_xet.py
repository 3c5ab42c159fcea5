"""Xorbs and shards: what is right is kept, and no malformed or forged one ever is."""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

import fust.accounts.models  # noqa: F401  (its tables)
from fust.core.errors import FustError
from fust.hub.blobs import LocalBlobs
from fust.hub.cache import WholeFiles
from fust.hub.errors import BadHash, BadXorb
from fust.hub.models import ChunkWish, LargeFile, XetFile, Xorb
from fust.hub.xet import hashing
from fust.hub.xet.cas import Cas
from fust.hub.xet.chunker import Chunker
from fust.hub.xet.shard import parse_shard
from fust.hub.xet.tokens import Signer
from fust.hub.xet.xorb import MAX_CHUNK_BYTES, decode_chunk, verify_xorb
from fust.store.database import Base, Database
from tests.support import xet_bytes as make


@pytest.fixture
def cas(tmp_path: Path) -> Iterator[Cas]:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    Base.metadata.create_all(database.engine)
    yield Cas(database, LocalBlobs(tmp_path / "blobs"))
    database.close()


def put(cas: Cas, name: str, data: bytes, namespace: str = "me") -> bool:
    path = cas._blobs.new_temporary()
    path.write_bytes(data)
    try:
        return cas.add_xorb(namespace, name, path)
    finally:
        assert not path.exists()


def test_hashes_are_those_of_hf_xet(tmp_path: Path) -> None:
    """The merkle tree over real chunks, against hf-xet itself on files of one chunk and of many."""
    import hf_xet

    for size in (1, 5, 1000, 8191):
        path = tmp_path / str(size)
        data = random.Random(size).randbytes(size)
        path.write_bytes(data)
        assert hf_xet.hash_files([str(path)])[0].hash == make.file_hash([data])
    assert hashing.to_hex(hashing.from_hex("0123456789abcdef" * 4)) == "0123456789abcdef" * 4


@pytest.mark.parametrize("scheme", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1023, 70_001])
def test_every_scheme_decodes(scheme: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert decode_chunk(make.chunk(data, scheme=scheme), 0)[0] == data


def test_a_file_is_kept_and_rebuilt(cas: Cas) -> None:
    rng = random.Random(3)
    chunks = [rng.randbytes(rng.randint(1, 9000)) for _ in range(40)]
    one, one_bytes = make.xorb(chunks[:25], 1)
    two, two_bytes = make.xorb(chunks[25:], 2)
    assert put(cas, one, one_bytes) and put(cas, two, two_bytes + b"XETBLOB a footer that is cut off")
    assert not put(cas, one, one_bytes), "was here"
    order = [*chunks[3:20], *chunks[30:40], *chunks[3:5]]
    segments = [
        (one, sum(map(len, chunks[3:20])), 3, 20),
        (two, sum(map(len, chunks[30:40])), 5, 15),
        (one, sum(map(len, chunks[3:5])), 3, 5),
    ]
    data = b"".join(order)
    sha = hashlib.sha256(data).hexdigest()
    proofs = [
        hashing.range_hash(map(hashing.chunk_hash, part))
        for part in (chunks[3:20], chunks[30:40], chunks[3:5])
    ]
    shard = make.shard(make.file_hash(order), segments, sha256=sha, proofs=proofs)
    assert cas.add_shard("me", shard) and not cas.add_shard("me", shard)
    recipe = cas.get_recipe(make.file_hash(order))
    assert recipe.sha256 == sha and b"".join(cas.iter_bytes(recipe)) == data
    for _ in range(60):
        start = rng.randrange(len(data))
        end = rng.randint(start + 1, len(data))
        assert b"".join(cas.iter_bytes(recipe, start, end)) == data[start:end]
        terms, skip, fetches = cas.plan(recipe, start, end)
        rebuilt = rebuild(cas, terms, fetches)
        assert rebuilt[skip : skip + end - start] == data[start:end]
        assert sum(t.raw_bytes for t in terms) == len(rebuilt)


def rebuild(cas: Cas, terms: list, fetches: list) -> bytes:
    """Does what a client does with a plan: only the fetched bytes may be used."""
    held = {}
    for fetch in fetches:
        path = cas._blobs.find("xorbs", fetch.xorb)
        assert path is not None
        data = path.read_bytes()[fetch.first : fetch.last + 1]
        at = 0
        for index in range(fetch.start, fetch.end):
            held[fetch.xorb, index], at = decode_chunk(data, at)
        assert at == len(data)
    return b"".join(held[term.xorb, i] for term in terms for i in range(term.start, term.end))


def test_a_bomb_makes_no_more_than_a_chunk() -> None:
    bomb = lz4.frame.compress(bytes(200_000_000), store_size=True)
    header = b"\0" + len(bomb).to_bytes(3, "little") + b"\1" + MAX_CHUNK_BYTES.to_bytes(3, "little")
    short = lz4.frame.compress(bytes(20_000_000))[: 2 * MAX_CHUNK_BYTES]
    lying = b"\0" + len(short).to_bytes(3, "little") + b"\1" + MAX_CHUNK_BYTES.to_bytes(3, "little")
    tracemalloc.start()
    for data in (header + bomb, lying + short):
        with pytest.raises(BadXorb):
            decode_chunk(data, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\1\2",
        make.chunk(b"abc", raw=4),
        make.chunk(b"abc", packed=9),
        make.chunk(b"abc", version=1),
        make.chunk(b"abc" * 10, scheme=1, raw=29),
        make.chunk(b"abc" * 10, scheme=1, raw=31),
        b"\0\3\0\0\7\3\0\0abc",
        b"\0\3\0\0\1\3\0\0abc",
        b"\0\0\0\0\0\0\0\0",
        make.chunk(b"x" * (MAX_CHUNK_BYTES + 1)),
        make.chunk(b"abc") + b"\0",
        b"XETBLOB",
        make.chunk(b"a") * 8193,
    ],
)
def test_malformed_xorbs_are_refused(cas: Cas, data: bytes) -> None:
    with pytest.raises((BadXorb, BadHash)):
        put(cas, "ab" * 32, data)
    with cas._database.read() as session:
        assert session.scalars(select(Xorb)).first() is None
    assert cas._blobs.find("xorbs", "ab" * 32) is None


def test_forged_names_and_hashes_are_refused(cas: Cas) -> None:
    chunks = [b"one", b"two", b"three"]
    name, data = make.xorb(chunks)
    with pytest.raises(BadHash):
        put(cas, "cd" * 32, data)
    put(cas, name, data)
    whole = make.file_hash(chunks)
    sha = hashlib.sha256(b"".join(chunks)).hexdigest()
    good = [(name, 11, 0, 3)]
    forged = [
        (BadHash, make.shard("ef" * 32, good, sha256=sha)),
        (BadHash, make.shard(whole, good, sha256="0" * 64)),
        (BadHash, make.shard(whole, [(name, 12, 0, 3)], sha256=sha)),
        (BadHash, make.shard(whole, good, sha256=sha, proofs=[bytes(32)])),
        (BadXorb, make.shard(whole, [(name, 11, 0, 4)], sha256=sha)),
        (BadXorb, make.shard(whole, [(name, 0, 2, 2)], sha256=sha)),
        (BadXorb, make.shard(whole, [(name, 11, 3, 0)], sha256=sha)),
        (BadXorb, make.shard(whole, [("12" * 32, 11, 0, 3)], sha256=sha)),
        (BadXorb, make.shard(whole, good, sha256=sha, count=2**31)),
        (BadXorb, make.shard(whole, good, sha256=sha)[:-96]),
        (BadXorb, b"HFRepoMetaData"),
        (BadXorb, b""),
    ]
    for kind, shard in forged:
        with pytest.raises(kind):
            cas.add_shard("me", shard)
    with cas._database.read() as session:
        assert session.scalars(select(XetFile)).first() is None
        assert session.scalars(select(LargeFile)).first() is None
    assert cas.add_shard("me", make.shard(whole, good, sha256=sha))
    with pytest.raises(BadHash):
        cas.add_shard("other", make.shard(whole, good, sha256="1" * 64))


def test_another_namespace_cannot_use_what_it_never_sent(cas: Cas) -> None:
    chunks = [b"secret" * 100]
    name, data = make.xorb(chunks)
    put(cas, name, data, "alice")
    shard = make.shard(make.file_hash(chunks), [(name, 600, 0, 1)])
    missing = make.shard(make.file_hash(chunks), [("34" * 32, 600, 0, 1)])
    with pytest.raises(BadXorb) as there:
        cas.add_shard("mallory", shard)
    with pytest.raises(BadXorb) as not_there:
        cas.add_shard("mallory", missing)
    assert str(there.value).replace(name, "") == str(not_there.value).replace("34" * 32, ""), (
        "existence leaks"
    )
    assert put(cas, name, data, "mallory"), "told that it was here"
    assert cas.add_shard("mallory", shard)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_xorb_or_a_clear_refusal(data: bytes) -> None:
    with pytest.raises(FustError):
        verify_xorb(data, "ab" * 32)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=600))
def test_any_bytes_are_a_shard_or_a_clear_refusal(data: bytes) -> None:
    for body in (data, make.TAG + b"\2" + bytes(15) + data):
        with contextlib.suppress(BadXorb):
            parse_shard(body)


def test_tokens_are_bound_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(b"k" * 32)
    token, _ = signer.make_token("t_1", "r1", "me", "read")
    said = signer.read_token(token)
    assert said.right == "read"
    forged = Signer(b"x" * 32).make_token("t:1", "r1", "me", "write")[0]
    for bad in (
        "",
        "xet",
        token[:-1] + ("0" if token[-1] != "0" else "1"),
        forged,
        token.replace("xet.", "x."),
    ):
        with pytest.raises(FustError):
            signer.read_token(bad)
    query = dict(p.split("=") for p in signer.xorb_query("ab" * 32, 5, 9, said).split("&"))
    assert signer.xorb_window("ab" * 32, query) == (5, 9)
    assert signer.xorb_window("cd" * 32, query) is None
    for changed in ({"r": "0-9"}, {"k": ""}, {"p": "r2"}):
        assert signer.xorb_window("ab" * 32, {**query, **changed}) is None
    monkeypatch.setattr("fust.hub.xet.tokens.time.time", lambda: 9e9)
    assert signer.xorb_window("ab" * 32, query) is None
    with pytest.raises(FustError):
        signer.read_token(token)


def test_a_whole_file_is_cut_once_and_a_left_folder_goes(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    Base.metadata.create_all(database.engine)
    blobs, cache = LocalBlobs(tmp_path / "blobs"), WholeFiles(tmp_path / "cache", 10**9)
    cas = Cas(database, blobs)
    data = random.Random(8).randbytes(700_000)
    sha256 = hashlib.sha256(data).hexdigest()
    temporary = blobs.new_temporary()
    temporary.write_bytes(data)
    blobs.keep("lfs", sha256, temporary)
    with database.write() as session:
        session.add(LargeFile(sha256=sha256, size=len(data), has_blob=True))
    chunker = Chunker(database, blobs, cas, cache)
    assert chunker.convert("me", sha256)
    assert blobs.find("lfs", sha256) is None and (tmp_path / "cache" / sha256).read_bytes() == data
    with database.read() as session:
        row = session.get(LargeFile, sha256)
    assert row is not None and row.xet_hash and not row.has_blob
    assert b"".join(cas.iter_bytes(cas.get_recipe(row.xet_hash))) == data
    assert not chunker.convert("me", sha256), "nothing is left to do"
    assert list((tmp_path / "blobs" / "tmp").iterdir()) == []
    second = random.Random(9).randbytes(300_000)
    other = hashlib.sha256(second).hexdigest()
    with (
        database.write() as session
    ):  # as a server leaves it that was killed between the upload and the cutting
        session.add(LargeFile(sha256=other, size=len(second), has_blob=True))
        session.add(ChunkWish(sha256=other, namespace="me", attempts=0))
        session.add(ChunkWish(sha256="0" * 64, namespace="me", attempts=5))
    temporary = blobs.new_temporary()
    temporary.write_bytes(second)
    blobs.keep("lfs", other, temporary)
    assert Chunker(database, blobs, cas, cache).resume() == 2
    until = time.monotonic() + 30
    while True:
        with database.read() as session:
            row, wishes = session.get(LargeFile, other), list(session.scalars(select(ChunkWish.sha256)))
        if wishes == ["0" * 64]:
            break
        assert time.monotonic() < until, wishes
        time.sleep(0.05)
    assert row is not None and row.xet_hash and blobs.find("lfs", other) is None
    left = blobs.new_temporary()
    left.mkdir()
    (left / "half").write_bytes(b"x")
    assert blobs.clean_temporaries() == 1 and not left.exists()
    database.close()
