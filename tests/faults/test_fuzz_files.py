"""Fuzzers over file headers, cards and templates that strangers upload: an error of ours or an answer, within bounds."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fust.core.errors import FustError, InvalidInput
from fust.formats.gguf import read_gguf
from fust.formats.safetensors import read_safetensors
from fust.hub.cards import parse_card
from fust.hub.xet.shard import parse_shard
from fust.hub.xet.xorb import verify_xorb
from tests.support import xet_bytes as make
from tests.support.hostile import as_json, bounded, damaged, texts, values
from tests.support.small_models import write_llama

pytestmark = pytest.mark.faults
LARGEST = 2**63 - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def gguf_head(folder: Path) -> bytes:
    whole = write_llama(folder / "good.gguf", vocabulary=360, layers=1).read_bytes()
    assert read_gguf(folder / "good.gguf").architecture == "llama"
    return whole


def text(value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def gguf_of(keys: list[bytes], tensors: list[bytes], *, counts: tuple[int, int] | None = None) -> bytes:
    n_tensors, n_keys = counts or (len(tensors), len(keys))
    return (
        b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + b"".join(keys) + b"".join(tensors) + bytes(64)
    )


@bounded(300)
@given(st.data())
def test_damaged_gguf(folder: Path, gguf_head: bytes, data: st.DataObject) -> None:
    head, rest = gguf_head[:12_000], gguf_head[12_000:]
    path = folder / "damaged.gguf"
    path.write_bytes(data.draw(damaged(head)) + rest)
    read_one(path)


def read_one(path: Path) -> None:
    try:
        header = read_gguf(path)
    except InvalidInput:
        return
    msgspec.json.encode([header.parameters, header.architecture, header.context_length, header.chat_template])


@bounded(150)
@given(
    st.lists(
        st.builds(
            lambda key, kind, raw: text(key) + struct.pack("<I", kind) + raw,
            st.one_of(st.sampled_from(["general.architecture", "general.alignment", "split.count"]), texts),
            st.integers(0, 14),
            st.one_of(st.binary(max_size=24), texts.map(text)),
        ),
        max_size=4,
    ),
    st.lists(
        st.builds(
            lambda name, shape, kind, offset: (
                text(name)
                + struct.pack("<I", len(shape))
                + struct.pack(f"<{len(shape)}Q", *shape)
                + struct.pack("<IQ", kind, offset)
            ),
            texts,
            st.lists(st.sampled_from([0, 1, 2**31, 2**62, 2**63, 2**64 - 1]), max_size=5),
            st.sampled_from([0, 1, 8, 99, 2**32 - 1]),
            st.sampled_from([0, 32, 2**63, 2**64 - 1]),
        ),
        max_size=3,
    ),
    st.one_of(st.none(), st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))),
)
def test_made_up_gguf(
    folder: Path, keys: list[bytes], tensors: list[bytes], counts: tuple[int, int] | None
) -> None:
    path = folder / "made.gguf"
    path.write_bytes(gguf_of(keys, tensors, counts=counts))
    read_one(path)


def test_a_gguf_of_many_or_long_values_is_refused_early(folder: Path) -> None:
    path = folder / "long.gguf"
    many = [text(f"k{i}") + struct.pack("<IIQ", 9, 8, 600_000) + bytes(8 * 600_000) for i in range(20)]
    long = [text(f"k{i}") + struct.pack("<I", 8) + text("x" * 15_000_000) for i in range(12)]
    path.write_bytes(gguf_of(many, []))
    started = time.process_time()
    with pytest.raises(InvalidInput):
        read_gguf(path)
    assert time.process_time() - started < 8
    path.write_bytes(gguf_of(long, []))
    tracemalloc.start()
    with pytest.raises(InvalidInput):
        read_gguf(path)
    assert tracemalloc.get_traced_memory()[1] < 150_000_000
    tracemalloc.stop()


@bounded(200)
@given(
    st.one_of(
        st.dictionaries(
            st.one_of(texts, st.just("__metadata__")),
            st.one_of(
                values,
                st.fixed_dictionaries(
                    {
                        "dtype": st.sampled_from(["F32", "U8", "BOOL", "F6_E2M3", "x"]),
                        "shape": st.lists(st.integers(-1, 2**70), max_size=5),
                        "data_offsets": st.lists(st.integers(-1, 2**70), max_size=3),
                    }
                ),
            ),
            max_size=4,
        ).map(as_json),
        values.map(as_json),
        st.binary(max_size=60),
        st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b'{"__metadata__":' + b"[" * 50_000]),
    ),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    st.binary(max_size=16),
)
def test_safetensors(folder: Path, head: bytes, length: int | None, rest: bytes) -> None:
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(head) if length is None else length) + head + rest)
    try:
        header = read_safetensors(path)
    except InvalidInput:
        return
    assert 0 <= header.parameters <= LARGEST
    msgspec.json.encode(header.metadata)


@bounded(150)
@given(st.one_of(texts, st.text()), st.one_of(texts, st.text(max_size=300)))
def test_cards_are_json(front: str, body: str) -> None:
    card = parse_card(f"---\n{front}\n---\n{body}")
    msgspec.json.encode([card.data, card.tags, card.languages, card.error])
    card.description.encode()


def test_card_bombs_take_no_time() -> None:
    for front in (
        "a: &a [x,x,x,x]\n" + "\n".join(f"b{i}: &b{i} [*a,*a,*a]" for i in range(20)),
        "x: " + "[" * 90_000,
        "x: " + "{a: " * 40_000,
        "x: " + ":".join(["59"] * 60_000),
        "\n".join(f"k{i}: v" for i in range(25_000)),
        "x: " + "- " * 90_000,
        "x: '" + "'" * 190_000,
        "x: " + "!!str " * 30_000,
        "x: [" + "a," * 90_000 + "]",
        "? " * 60_000,
    ):
        started = time.process_time()  # of this process alone: others may keep the machine busy
        msgspec.json.encode(parse_card(f"---\n{front}\n---\n").data)
        assert time.process_time() - started < 8, front[:40]


@bounded(150)
@given(st.data(), st.integers(0, 2))
def test_xorbs_and_shards_in_memory(data: st.DataObject, scheme: int) -> None:
    chunks = [b"hello" * 50, bytes(3000)]
    name, body = make.xorb(chunks, scheme)
    shard = make.shard(make.file_hash(chunks), [(name, 3250, 0, 2)], sha256="0" * 64)
    for read, good in ((lambda d: verify_xorb(d, name), body), (parse_shard, shard)):
        try:
            read(data.draw(damaged(good)))
        except FustError as error:
            assert error.status == 400
