"""Deployments over real engines: choice, alias, pin, memory, idle, restart of the server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fust.serve.facts import read_facts
from tests.support.model_house import House, running_house
from tests.support.small_models import write_llama, write_repos


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repos(tmp_path_factory.mktemp("serve") / "models")


@pytest.fixture(scope="module")
def house(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running_house(tmp_path_factory.mktemp("house") / "home", models, "serve.threads=1") as house:
        yield house


def complete(house: House, model: str, **more: Any) -> dict[str, Any]:
    return house.json("POST", "/v1/completions", {"model": model, "prompt": "ba", "max_tokens": 2, **more})


def states(house: House) -> dict[str, dict[str, Any]]:
    return {d["name"]: d for d in house.json("GET", "/fust/v1/deployments")["items"]}


def refused(house: House, **body: Any) -> dict[str, Any]:
    status, _, answer = house.request("POST", "/fust/v1/deployments", body)
    return {"http": status, **json.loads(answer)}


def estimate(path: Path) -> int:
    return read_facts(path, path.stat().st_size).memory_bytes("generate", 2048, 4)


def test_the_largest_is_taken_and_a_file_can_be_named(house: House) -> None:
    large = house.serve("acme/several")
    assert (large["file"], large["name"], large["state"]) == ("m-large.gguf", "acme/several", "ready")
    assert "largest of 2" in large["why"][0]
    small = house.serve("acme/several", file="small", alias="little", pin=True)
    assert (small["file"], small["name"], small["pinned"]) == (
        "m-small.gguf",
        "acme/several:m-small.gguf",
        True,
    )
    for name in ("acme/several", "acme/several:m-small.gguf", "little"):
        assert complete(house, name)["model"] == name
    assert small["context"] == 2048
    assert small["memory_bytes"] > 10_000_000
    assert small["has_chat_template"] is True
    house.json("DELETE", f"/fust/v1/deployments/{small['id']}")
    assert house.request("POST", "/v1/completions", {"model": "little", "prompt": "a"})[0] == 404


def test_the_same_again_is_the_same(house: House) -> None:
    first = house.serve("acme/chat")
    pids = house.engine_pids()
    again = house.serve("acme/chat", alias="again")
    assert (first["id"], again["alias"]) == (again["id"], "again")
    assert house.engine_pids() == pids
    assert refused(house, repo_id="acme/plain", alias="again")["code"] == "conflict"
    assert refused(house, repo_id="acme/plain", alias="no good!")["http"] == 400


def test_a_deployment_is_changed_freed_and_loaded_by_who_may_stop_it(house: House) -> None:
    served = house.serve("acme/chat")
    path = f"/fust/v1/deployments/{served['id']}"
    changed = house.json("PATCH", path, {"alias": "talker", "pinned": True})
    assert (changed["alias"], changed["pinned"], changed["busy"]) == ("talker", True, 0)
    assert complete(house, "talker")["model"] == "talker"
    assert house.json("POST", f"{path}/unload")["state"] == "idle"
    assert house.json("POST", f"{path}/load")["state"] in ("loading", "ready")
    changed = house.json("PATCH", path, {"alias": "", "pinned": False})
    assert (changed["alias"], changed["pinned"]) == (None, False)
    assert house.request("POST", "/v1/completions", {"model": "talker", "prompt": "a"})[0] == 404
    assert complete(house, "acme/chat")["model"] == "acme/chat"
    assert isinstance(house.json("GET", f"{path}/logs")["items"], list)
    assert house.json("PATCH", path, {})["alias"] is None
    for method, tail, body in (
        ("PATCH", "", {"pinned": True}),
        ("POST", "/unload", None),
        ("GET", "/logs", None),
    ):
        assert house.request(method, path + tail, body, token=house.tokens["repo only"])[0] == 403


def test_what_cannot_be_served_says_what_to_do(house: House) -> None:
    assert refused(house, repo_id="acme/nothing")["http"] == 404
    torch = refused(house, repo_id="acme/torch")
    assert (torch["http"], torch["code"]) == (501, "needs_gguf")
    assert "never loaded" in torch["hint"]
    assert refused(house, repo_id="acme/chat", file="other.gguf")["code"] == "file_not_found"
    assert refused(house, repo_id="../etc")["http"] == 400
    assert refused(house, repo_id="acme/chat", path="/etc/passwd")["http"] == 400
    broken = house.serve("acme/broken")
    assert broken["state"] == "failed"
    assert "not within the file bounds" in broken["error"] or "cut off" in broken["error"]
    status, _, answer = house.request("POST", "/v1/completions", {"model": "acme/broken", "prompt": "a"})
    assert (status, json.loads(answer)["error"]["code"]) == (503, "model_failed")
    assert str(house.home) not in answer.decode()


def test_a_split_model_is_served(house: House, models: Path) -> None:
    gguf = pytest.importorskip("gguf")
    # A model in two files as llama-gguf-split makes them: the first holds all keys, each its own tensors.
    source = write_llama(models / "whole.gguf", seed=9)
    reader = gguf.GGUFReader(source)
    names = [tensor.name for tensor in reader.tensors]
    for number, part in enumerate((names[:8], names[8:])):
        path = models / f"acme/split/big-0000{number + 1}-of-00002.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(str(path), "llama")
        if number == 0:
            for field in reader.fields.values():
                if field.name.startswith(("GGUF.", "general.architecture")):
                    continue
                kinds = field.types
                value = field.contents()
                if kinds[0] == gguf.GGUFValueType.ARRAY:
                    writer.add_key_value(field.name, value, kinds[0], kinds[-1])
                else:
                    writer.add_key_value(field.name, value, kinds[0])
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(names))
        for tensor in reader.tensors:
            if tensor.name in part:
                writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    served = house.serve("acme/split")
    assert (served["state"], served["file"]) == ("ready", "big-00001-of-00002.gguf"), served
    assert complete(house, "acme/split")["choices"]


def test_the_least_recently_used_makes_room(models: Path, tmp_path: Path) -> None:
    need = estimate(models / "acme/chat/chat.gguf")
    with running_house(
        tmp_path / "home", models, "serve.threads=1", f"serve.memory_bytes={int(need * 2.5)}"
    ) as house:
        house.serve("acme/chat", pin=True)
        house.serve("acme/plain")
        house.serve("acme/other")
        found = states(house)
        assert [found[n]["state"] for n in ("acme/chat", "acme/plain", "acme/other")] == [
            "ready",
            "idle",
            "ready",
        ]
        assert "make room for acme/other" in found["acme/plain"]["note"]
        complete(house, "acme/plain")
        found = states(house)
        assert [found[n]["state"] for n in ("acme/chat", "acme/plain", "acme/other")] == [
            "ready",
            "ready",
            "idle",
        ]
        assert found["acme/plain"]["note"] is None
        assert len(house.engine_pids()) == 2


def test_what_cannot_fit_is_refused_with_what_would(models: Path, tmp_path: Path) -> None:
    with running_house(tmp_path / "home", models, "serve.threads=1", "serve.memory_bytes=20000000") as house:
        assert refused(house, repo_id="acme/several")["code"] == "does_not_fit"
        served = house.serve("acme/chat")
        assert served["state"] == "failed"
        assert "serve.memory_bytes" in served["error"]


def test_idle_models_are_unloaded_and_come_back(models: Path, tmp_path: Path) -> None:
    with running_house(tmp_path / "home", models, "serve.threads=1", "serve.idle_unload_s=1") as house:
        house.serve("acme/chat")
        house.serve("acme/plain", pin=True)
        deadline = time.monotonic() + 15
        while states(house)["acme/chat"]["state"] != "idle" and time.monotonic() < deadline:
            time.sleep(0.1)
        found = states(house)
        assert (found["acme/chat"]["state"], found["acme/plain"]["state"]) == ("idle", "ready")
        assert "without a request" in found["acme/chat"]["note"]
        assert found["acme/chat"]["memory_bytes"] == 0
        assert complete(house, "acme/chat")["choices"]


def test_deployments_come_back_after_a_restart(models: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running_house(home, models, "serve.threads=1") as house:
        house.serve("acme/chat", alias="tiny")
        house.serve("acme/plain", pin=True)
        complete(house, "tiny")
        pids = house.engine_pids()
        assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with running_house(home, models, "serve.threads=1") as house:
        pinned = house.settled(states(house)["acme/plain"]["id"])
        assert pinned["state"] == "ready"
        assert states(house)["acme/chat"]["state"] == "idle"
        assert states(house)["acme/chat"]["last_used_at"]
        answers: list[dict[str, Any]] = []
        threads = [threading.Thread(target=lambda: answers.append(complete(house, "tiny"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 8  # all waited for one engine
        assert len(house.engine_pids()) == 2


def test_a_deployment_of_a_repo_that_is_gone_is_not_shown(models: Path, tmp_path: Path) -> None:
    own = tmp_path / "models"
    write_llama(own / "acme/gone/gone.gguf")
    with running_house(tmp_path / "home", own, "serve.threads=1") as house:
        house.serve("acme/gone")
        (own / "acme/gone/gone.gguf").unlink()
        (own / "acme/gone").rmdir()
        time.sleep(1.1)
        assert house.json("GET", "/v1/models")["data"] == []
        assert house.request("POST", "/v1/completions", {"model": "acme/gone", "prompt": "a"})[0] == 404


def test_of_several_quantisations_the_best_that_fits_is_served_and_the_rest_named(
    models: Path, tmp_path: Path
) -> None:
    large, small = (models / f"acme/several/m-{name}.gguf" for name in ("large", "small"))
    need = [
        read_facts(path, path.stat().st_size).memory_bytes("generate", 2048, 4) for path in (large, small)
    ]
    room = f"serve.memory_bytes={sum(need) // 2}"
    with running_house(tmp_path / "home", models, "serve.threads=1", room) as house:
        served = house.serve("acme/several")
        assert (served["file"], served["slots"], served["context"]) == ("m-small.gguf", 4, 2048)
        assert "m-large.gguf would need about" in served["why"][0]
    least = read_facts(large, large.stat().st_size).memory_bytes("generate", 1024, 1)
    with running_house(
        tmp_path / "other", models, "serve.threads=1", f"serve.memory_bytes={least - 100_000}"
    ) as house:
        refused = house.serve("acme/several", file="m-large.gguf")
        assert refused["state"] == "failed" and "fust serve acme/several:m-small.gguf" in refused["error"]
