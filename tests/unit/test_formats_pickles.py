"""What pickles import, read without loading them; and that nothing gets past by being odd."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import struct
import time
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fust.formats.pickles import Import, judge, may_be_pickle, scan


class Evil:
    """Loads as a call of ``os.system``."""

    def __init__(self, function: Any = None, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        import os

        return (self.call[0] or os.system, self.call[1] or ("true",))


def imports(data: bytes) -> set[str]:
    return {f"{found.module}.{found.name}" for found in scan(io.BytesIO(data)).imports}


def level(data: bytes) -> str:
    return scan(io.BytesIO(data)).level


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(protocol: int) -> None:
    assert level(pickle.dumps({"a": [1, 2.5, "x", b"y", None, True]}, protocol)) == "safe"
    assert level(pickle.dumps(OrderedDict(a=np.arange(5)), protocol)) == "safe"
    evil = pickle.dumps({"weights": [1], "x": Evil()}, protocol)
    assert level(evil) == "unsafe" and "posix.system" in imports(evil)
    assert level(pickle.dumps(Evil(eval, "1"), protocol)) == "unsafe"
    assert level(pickle.dumps(random.Random(1), protocol)) == "suspicious"


def test_pytorch_archives() -> None:
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(10, 10), "b": torch.ones(3, dtype=torch.bfloat16)}, buffer)
    found = scan(io.BytesIO(buffer.getvalue()))
    assert found.level == "safe" and found.is_pickle, found
    assert Import("torch._utils", "_rebuild_tensor_v2", "innocuous") in found.imports
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(10, 10), "x": Evil()}, buffer)
    assert level(buffer.getvalue()) == "unsafe"
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1000), "x": Evil()}, buffer, _use_new_zipfile_serialization=False)
    assert level(buffer.getvalue()) == "unsafe", "the format before 1.6: several pickles, raw storages behind"
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1000)}, buffer, _use_new_zipfile_serialization=False)
    assert level(buffer.getvalue()) == "safe"


def test_inside_archives() -> None:
    evil = pickle.dumps(Evil())
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        assert level(zipped({"a/data.pkl": evil}, method)) == "unsafe"
        assert level(zipped({"readme.txt": b"x", "hidden": evil}, method)) == "unsafe", (
            "whatever it is called"
        )
    assert level(zipped({"inner.zip": zipped({"data.pkl": evil})})) == "unsafe"
    assert level(zipped({"data.pkl": pickle.dumps([1]), "data/0": b"\0" * 1000})) == "safe"
    raw = bytearray(zipped({"data.pkl": evil}))
    raw[6] |= 1  # said to be encrypted in its own header only
    central = raw.rindex(b"PK\x01\x02")
    raw[central + 8] |= 1
    assert level(bytes(raw)) == "caution"
    raw = bytearray(zipped({"data.pkl": evil}))
    raw[raw.index(evil) + 3] ^= 0xFF  # the checksum does not fit: strict readers refuse, PyTorch's does not
    assert level(bytes(raw)) in ("unsafe", "caution")


def test_numpy_arrays_of_objects() -> None:
    plain, objects = io.BytesIO(), io.BytesIO()
    np.save(plain, np.arange(4))
    np.save(objects, np.array([Evil()], dtype=object), allow_pickle=True)
    assert level(plain.getvalue()) == "safe" and level(objects.getvalue()) == "unsafe"


def test_tricks() -> None:
    # Names written with escapes, kept in the memo, doubled, or built where they cannot be followed.
    assert level(b"cos\nsystem\n(S'true'\ntR.") == "unsafe"
    assert level(b"(S'true'\nios\nsystem\n.") == "unsafe"
    assert level(b"\x80\x04V\\u006fs\nVsys\\u0074em\n\x93(V1\ntR.") == "unsafe"
    assert "os.system" in imports(b"\x80\x04V\\u006fs\nVsys\\u0074em\n\x93(V1\ntR.")
    assert "os.system" in imports(b"\x80\x04S'o\\x73'\nS'system'\n\x93.")
    memo = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94" + b"00" + b"h\x00h\x01\x93."
    assert "os.system" in imports(memo)
    assert level(b"\x80\x04K\x01K\x02\x93.") == "unsafe", "what cannot be followed is no friend"
    cut = pickle.dumps(Evil())[:-1]
    assert level(cut) == "unsafe", "a loader runs what comes before the end is missed"
    assert level(pickle.dumps(Evil())[:-1] + b"\xff\xff") == "unsafe"
    assert level(pickle.dumps([1]) + pickle.dumps(Evil())) == "unsafe", "the second of several"
    assert level(b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.") == "unsafe"
    assert level(b"\x80\x04\x82\x01.") == "suspicious"  # an extension of copyreg
    assert judge("collections", "OrderedDict.__class__") == "dangerous"
    assert judge("torch.storage", "_load_from_bytes") == "dangerous"
    assert judge("some.package", "Thing") == "suspicious"


def test_what_is_no_pickle() -> None:
    for data in (b"", b"GGUF" + bytes(100), b'{"a": 1}', b"\x89PNG\r\n", struct.pack("<100f", *range(100))):
        found = scan(io.BytesIO(data))
        assert found.level == "safe" and not found.imports, data
    assert may_be_pickle("a/pytorch_model.BIN") and not may_be_pickle("model.safetensors")


def test_bounded() -> None:
    started = time.monotonic()
    for data in (
        b"\x80\x04" + b"N0" * 4_000_000 + b"N.",
        b"\x80\x04" + b"(" * 3_000_000,
        b"\x80\x04N" + b"2" * 3_000_000,
        zipped({"data.pkl": b"\x80\x04" + b"N" * 50_000_000}, zipfile.ZIP_DEFLATED),
        zipped(
            {"data.pkl": b"\x80\x04\x8e" + (2**31).to_bytes(8, "little") + bytes(2**27)}, zipfile.ZIP_DEFLATED
        ),
    ):
        assert scan(io.BytesIO(data), seconds=1).level == "caution"
    assert level(b"\x80\x04\x8e" + (2**62).to_bytes(8, "little")) in ("safe", "caution")
    assert time.monotonic() - started < 15


@given(st.binary(max_size=300))
def test_no_bytes_trip_it(data: bytes) -> None:
    scan(io.BytesIO(data))
    scan(io.BytesIO(b"\x80\x04" + data))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(_VALUES, st.integers(0, 5))
def test_data_alone_imports_nothing(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = scan(io.BytesIO(data))
    assert found.level == "safe" and found.is_pickle
    wanted = {argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}
    assert {f"{it.module} {it.name}" for it in found.imports} == wanted
