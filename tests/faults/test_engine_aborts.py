"""Files that are sound to Fust and not to llama.cpp: it aborts, or throws. Only its child ends."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fust.serve.facts import read_facts
from tests.support.model_house import House, running_house
from tests.support.small_models import write_llama

pytestmark = pytest.mark.faults
U32 = struct.Struct("<I").pack


def with_value(path: Path, key: str, value: bytes) -> None:
    """Writes a model in which one number of the header is another."""
    write_llama(path)
    raw = bytearray(path.read_bytes())
    at = raw.index(key.encode()) + len(key) + 4  # behind the type
    raw[at : at + len(value)] = value
    path.write_bytes(raw)


def without_bytes(path: Path) -> None:
    """Writes a model whose vocabulary has no tokens for single bytes: llama.cpp's tokenizer throws on others' letters."""
    write_llama(path)
    path.write_bytes(path.read_bytes().replace(b"<0x", b"[0x"))


ABORTS = {
    "epsilon": ("llama.attention.layer_norm_rms_epsilon", struct.pack("<f", -1.0), "GGML_ASSERT(eps >= 0.0f)"),
    "layers": ("llama.block_count", U32(5000), "GGML_ASSERT"),
    "no-layers": ("llama.block_count", U32(0), "GGML_ASSERT"),
    "rope": ("llama.rope.dimension_count", U32(15), "invalid n_rot"),
    "heads": ("llama.attention.head_count_kv", U32(3), "wrong shape"),
    "width": ("llama.embedding_length", U32(96), ""),
}  # fmt: skip
"""Name -> key, value, and what llama.cpp says while it loads: by an assertion, or an exception."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("aborts")
    models = root / "models"
    for name, (key, value, _) in ABORTS.items():
        with_value(models / f"acme/{name}/m.gguf", key, value)
    without_bytes(models / "acme/without-bytes/m.gguf")
    write_llama(models / "acme/sound/m.gguf")
    with running_house(root / "home", models, "serve.threads=1", "serve.slots=2") as house:
        house.serve("acme/sound", alias="sound")
        yield house


def state(house: House, repo_id: str) -> dict[str, Any]:
    items = house.json("GET", "/fust/v1/deployments")["items"]
    return next(item for item in items if item["repo_id"] == repo_id)


def write(house: House, model: str, prompt: str = "ba be bi", **more: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": model, "prompt": prompt, "max_tokens": 4, **more}
    status, _, answer = house.request("POST", "/v1/completions", body)
    return status, json.loads(answer)


@pytest.mark.parametrize("name", ABORTS)
def test_a_file_on_which_llama_cpp_aborts_fails_with_its_words_and_alone(house: House, name: str) -> None:
    file = house.home.parent / "models" / f"acme/{name}/m.gguf"
    read_facts(file, file.stat().st_size)  # Fust's own look finds nothing
    pids = house.engine_pids()
    status, _, made = house.request("POST", "/fust/v1/deployments", {"repo_id": f"acme/{name}"})
    assert status == 201, made
    found = house.settled(json.loads(made)["id"])
    assert found["state"] == "failed" and ABORTS[name][2] in found["error"], found
    status, answer = write(house, f"acme/{name}")
    assert (status, answer["error"]["code"]) == (503, "model_failed")
    assert ABORTS[name][2] in answer["error"]["message"]
    zh = {"accept-language": "zh-CN"}
    body = {"model": f"acme/{name}", "prompt": "ba"}
    assert "无法提供服务" in house.request("POST", "/v1/completions", body, headers=zh)[2].decode()
    assert write(house, "sound")[0] == 200
    assert house.engine_pids() == pids
    assert not list((house.home / "engines").glob("*.lock"))[1:]


def test_what_throws_while_it_answers_costs_that_request(house: House) -> None:
    house.serve("acme/without-bytes", alias="bytes")
    pids = house.engine_pids()
    status, answer = write(house, "bytes", "你好 é")
    assert status in (400, 502) and "at" in answer["error"]["message"], answer
    assert write(house, "bytes")[0] == 200 and house.engine_pids() == pids


def test_what_throws_in_the_scorer_ends_it_and_the_next_request_starts_another(house: House) -> None:
    """There nothing catches it: the process ends by `std::terminate`."""
    house.serve("acme/without-bytes", alias="bytes")
    pids = house.engine_pids()
    scored = {"max_tokens": 0, "echo": True, "logprobs": 1}
    assert write(house, "bytes", **scored)[0] == 200
    status, answer = write(house, "bytes", "你好 é", **scored)
    assert (status, answer["error"]["code"]) == (502, "engine_unavailable")
    deadline = time.monotonic() + 10
    while "signal 6" not in (state(house, "acme/without-bytes")["note"] or ""):
        assert time.monotonic() < deadline, state(house, "acme/without-bytes")
        time.sleep(0.02)
    assert state(house, "acme/without-bytes")["state"] == "ready"
    assert write(house, "bytes")[0] == 200
    assert write(house, "bytes", **scored)[0] == 200
    assert set(pids) <= set(house.engine_pids())
