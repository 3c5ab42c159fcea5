"""Engines whose memory really ends while they answer: a bound put on the running process, as the kernel's own would be."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.model_house import House, running_house
from tests.support.small_models import write_llama

pytestmark = pytest.mark.faults
CONTEXT, SLOTS = 4096, 2
NO_MEMORY = (502, "engine_out_of_memory")
SAID = {
    NO_MEMORY,
    (502, "engine_unavailable"),  # it ended with it
}
OTHER = "other"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("memory") / "models"
    write_llama(root / "acme/gguf/m.gguf", context=CONTEXT)
    write_llama(root / "acme/gguf-2/m.gguf", context=CONTEXT)
    write_llama(root / "acme/other/m.gguf", context=CONTEXT, seed=1)
    return root


@pytest.fixture(scope="module")
def house(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    flags = ("serve.threads=1", f"serve.slots={SLOTS}", f"serve.context={CONTEXT}")
    with running_house(tmp_path_factory.mktemp("house") / "home", models, *flags) as house:
        house.serve("acme/other", alias=OTHER)
        yield house


def served(house: House, repo_id: str, engine: str, alias: str) -> int:
    """Serves a model; returns its engine's process id."""
    before = house.engine_pids()
    house.serve(repo_id, alias=alias, engine=engine)
    (pid,) = set(house.engine_pids()) - set(before)
    return pid


def bound(pid: int, more_bytes: int) -> None:
    """Lets a process take so much more and no byte beyond."""
    status = Path(f"/proc/{pid}/status").read_text()
    taken = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))
    resource.prlimit(pid, resource.RLIMIT_DATA, (taken + more_bytes, resource.RLIM_INFINITY))


def ask(house: House, model: str, prompt: object, **more: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": model, "prompt": prompt, "max_tokens": 4, "ignore_eos": True, "temperature": 0, **more}
    status, _, answer = house.request("POST", "/v1/completions", body)
    return status, json.loads(answer)


def code(found: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    return found[0], found[1].get("error", {}).get("code", "")


def insist(house: House, model: str, prompt: str, **more: Any) -> str:
    """Returns what is written; a process without memory may refuse, since a thread of its own wants some, but not for long."""
    for _ in range(40):
        status, answer = ask(house, model, prompt, **more)
        if status == 200:
            return answer["choices"][0]["text"]
        assert code((status, answer)) == NO_MEMORY, answer
        time.sleep(0.05)
    raise AssertionError("it found no memory for a short answer")


def check_all_slots_write(house: House, model: str, words: str) -> None:
    """Every slot is free, and says what it said before."""
    found: list[str] = []

    def write() -> None:
        found.append(insist(house, model, "ba be bi"))

    threads = [threading.Thread(target=write) for _ in range(SLOTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [words] * SLOTS


def test_llama_cpp_without_memory_refuses_one_request_and_serves_the_others(house: House) -> None:
    pid = served(house, "acme/gguf", "llamacpp", "first")
    status, first = ask(house, "first", "ba be bi")
    assert status == 200
    bound(pid, 3 << 20)
    status, answer = ask(house, "first", "ba " * 2_000_000)
    assert code((status, answer)) in SAID, answer
    assert ask(house, OTHER, "ba")[0] == 200
    check_all_slots_write(house, "first", first["choices"][0]["text"])
    assert len(house.engine_pids()) == 2


def test_an_allocation_that_nothing_catches_costs_the_engine_and_no_more(house: House) -> None:
    """Not one byte is left, so threads and batches fail too; the request goes to the next engine, or says why not."""
    pid = served(house, "acme/gguf-2", "llamacpp", "second")
    first = ask(house, "second", "ba be bi")[1]["choices"][0]["text"]
    bound(pid, 0)
    found = [ask(house, "second", "ba " * 1_000_000) for _ in range(3)]
    assert {code(it) for it in found} <= SAID | {(400, "context_length_exceeded")}, found
    check_all_slots_write(house, "second", first)
    assert ask(house, OTHER, "ba")[0] == 200


def test_transformers_without_memory_refuses_one_request_and_serves_the_others(
    models: Path, house: House
) -> None:
    pytest.importorskip("torch", reason="the transformers engine is an extra")
    from tests.support.hf_models import causal_model

    causal_model(
        models / "acme/torch", "Llama", hidden_size=512, intermediate_size=1024, num_attention_heads=8,
        num_key_value_heads=8, head_dim=64, num_hidden_layers=4, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    pid = served(house, "acme/torch", "transformers", "transformers")
    first = ask(house, "transformers", "ba be bi")[1]["choices"][0]["text"]
    check_all_slots_write(house, "transformers", first)
    bound(pid, 12 << 20)
    before = psutil.Process(pid).memory_info().rss
    long = [60 + i % 400 for i in range(CONTEXT - 16)]
    for _ in range(3):  # its cache would be 64 MB
        found = ask(house, "transformers", long)
        assert code(found) == NO_MEMORY, found
    assert "no memory" in found[1]["error"]["message"]
    status, _, answer = house.request(
        "POST",
        "/v1/completions",
        {"model": "transformers", "prompt": long},
        headers={"accept-language": "zh-CN"},
    )
    assert status == 502 and "没有足够的内存" in answer.decode()
    check_all_slots_write(house, "transformers", first)
    assert pid in house.engine_pids()  # it lives on, and keeps nothing of what failed
    assert psutil.Process(pid).memory_info().rss < before + (16 << 20)
    # A stream under way goes on while another request finds no memory.
    streamed = threading.Event()
    texts: list[str] = []

    def stream() -> None:
        texts.append(insist(house, "transformers", "ba be bi", max_tokens=60))
        streamed.set()

    threading.Thread(target=stream).start()
    time.sleep(0.05)
    assert code(ask(house, "transformers", long)) == NO_MEMORY
    assert streamed.wait(60) and texts[0].startswith(first)
    assert ask(house, OTHER, "ba")[0] == 200
