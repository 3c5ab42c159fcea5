"""Header readers against strangers' files: sound ones are read, all others are refused with one kind of error."""

from __future__ import annotations

import contextlib
import json
import re
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fust.core.errors import FustError, InvalidInput
from fust.formats import read_gguf, read_safetensors
from fust.formats.gguf import LongList

QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_bytes(
    n_tokens: int = 100,
    *,
    tensor_type: int = 0,
    with_data: bool = True,
    sides: tuple[int, int] = (32, 4),
    offset: int = 0,
    twice: str = "",
) -> bytes:
    keys = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.file_type") + struct.pack("<II", 4, 7),
        text("llama.context_length") + struct.pack("<II", 4, 1024),
        text("llama.pooling_type") + struct.pack("<II", 4, 1),
        text("llama.attention.head_count_kv") + struct.pack("<IIQ2I", 9, 4, 2, 4, 8),
        text("split.count") + struct.pack("<IH", 2, 3),
        text("tokenizer.chat_template") + struct.pack("<I", 8) + text("{{ messages }}"),
        text("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", 9, 8, n_tokens)
        + b"".join(text(f"t{i}") for i in range(n_tokens)),
        text("tokenizer.ggml.scores") + struct.pack(f"<IIQ{n_tokens}f", 9, 6, n_tokens, *([0.0] * n_tokens)),
    ]
    tensors = [text("token_embd.weight") + struct.pack("<I2QIQ", 2, *sides, tensor_type, offset)]
    keys, tensors = keys + keys[:1] * (twice == "key"), tensors + tensors * (twice == "tensor")
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys)) + b"".join(keys + tensors)
    head += b"\0" * (-len(head) % 32)
    return head + (b"\0" * 512 if with_data else b"")


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def test_gguf_says_what_a_server_needs(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    header = read_gguf(path)
    assert header.architecture == "llama"
    assert header.context_length == 1024
    assert header.pooling == "mean"
    assert header.file_type == "Q8_0"
    assert header.split_count == 3
    assert header.chat_template == "{{ messages }}"
    assert header.of_architecture("attention.head_count_kv") == 8
    assert header.values["tokenizer.ggml.tokens"] == LongList(100)
    (tensor,) = header.tensors
    assert (tensor.type_name, tensor.shape, tensor.size_bytes) == ("F32", (32, 4), 512)
    assert header.parameters == 128


def test_a_newer_tensor_type_does_not_hide_the_rest(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(tensor_type=250))
    assert read_gguf(path).tensors[0].type_name == "type 250"


def test_a_large_vocabulary_is_read_quickly(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(300_000))
    began = time.process_time()
    read_gguf(path)
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GGUF",
        b"PK\x03\x04" + b"\0" * 60,
        struct.pack("<4sIQQ", b"GGUF", 1, 0, 0),
        struct.pack(">4sIQQ", b"GGUF", 3, 1, 1),
        struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60),
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**63),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**62),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1) * 2000,
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
        + text("general.alignment")
        + struct.pack("<II", 4, 0)
        + b"\0" * 64,
        gguf_bytes(with_data=False),
        gguf_bytes()[:-1],
        gguf_bytes(sides=(0, 4)),
        gguf_bytes(sides=(2**33, 2**31)),
        gguf_bytes(offset=2**64 - 32),
        gguf_bytes(twice="key"),
        gguf_bytes(twice="tensor"),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("general.alignment") + struct.pack("<II", 4, 3),
    ],
    ids=range(19),
)
def test_bad_gguf_is_refused_in_words(tmp_path, raw):
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(InvalidInput) as caught:
        read_gguf(path)
    assert "bad.gguf" in caught.value.message() and caught.value.hint()
    in_chinese = caught.value.message("zh").replace("GGUF", "").replace("JSON", "")
    assert not re.search("[a-z]{3}", re.sub("bad.(gguf|safetensors)|Fust|safetensors", "", in_chinese)), (
        in_chinese
    )


@QUICK
@given(at=st.integers(0, 3000), piece=st.binary(min_size=1, max_size=16), cut=st.integers(0, 4000))
def test_damaged_gguf_never_raises_anything_else(tmp_path, at, piece, cut):
    whole = gguf_bytes()
    at = min(at, len(whole))
    raw = (whole[:at] + piece + whole[at + len(piece) :])[
        : max(1, len(whole) - cut if cut < len(whole) else cut)
    ]
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    with contextlib.suppress(FustError):
        read_gguf(path)


@QUICK
@given(raw=st.binary(max_size=400))
def test_rubbish_never_raises_anything_else(tmp_path, raw):
    for head, read in ((b"GGUF\x03\0\0\0", read_gguf), (b"", read_gguf), (b"", read_safetensors)):
        path = tmp_path / "f"
        path.write_bytes(head + raw)
        with contextlib.suppress(FustError):
            read(path)


def test_safetensors_tells_tensors_and_metadata(tmp_path):
    path = tmp_path / "m.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16]},
        "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    }
    path.write_bytes(safetensors_bytes(header, b"\0" * 16))
    read = read_safetensors(path)
    assert read.metadata == {"format": "pt"}
    assert [t.name for t in read.tensors] == ["a", "b"]
    assert read.parameters == 7


GOOD = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        struct.pack("<Q", 2**63) + b"{}",
        safetensors_bytes(b"[" * 100_000),
        safetensors_bytes(b"\xff\xfe"),
        safetensors_bytes([1]),
        safetensors_bytes({"a": 1}),
        safetensors_bytes({"a": GOOD}, b"\0" * 3),
        safetensors_bytes({"a": GOOD}, b"\0" * 5),
        safetensors_bytes({"a": {**GOOD, "shape": [-1]}}, b"\0" * 4),
        safetensors_bytes({"a": {**GOOD, "shape": [2**70]}}, b"\0" * 4),
        safetensors_bytes({"a": {**GOOD, "dtype": "PICKLE"}}, b"\0" * 4),
        safetensors_bytes({"a": GOOD, "b": GOOD}, b"\0" * 4),
        safetensors_bytes({"a": {**GOOD, "data_offsets": [4, 8]}}, b"\0" * 8),
        safetensors_bytes({"__metadata__": {"a": 1}, "a": GOOD}, b"\0" * 4),
        safetensors_bytes(b'{"a":' + b"9" * 5000 + b"}"),
    ],
    ids=range(15),
)
def test_bad_safetensors_is_refused_in_words(tmp_path, raw):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    with pytest.raises(InvalidInput) as caught:
        read_safetensors(path)
    assert "bad.safetensors" in caught.value.message()
    in_chinese = caught.value.message("zh").replace("GGUF", "").replace("JSON", "")
    assert not re.search("[a-z]{3}", re.sub("bad.(gguf|safetensors)|Fust|safetensors", "", in_chinese)), (
        in_chinese
    )


@QUICK
@given(
    header=st.recursive(
        st.none() | st.integers() | st.text(max_size=8) | st.booleans(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ),
    data=st.binary(max_size=16),
)
def test_any_json_never_raises_anything_else(tmp_path, header, data):
    path = tmp_path / "f"
    path.write_bytes(safetensors_bytes({"a": header, "b": GOOD}, data))
    with contextlib.suppress(FustError):
        read_safetensors(path)
