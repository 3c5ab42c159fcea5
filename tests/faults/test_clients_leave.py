"""Clients by the dozen that leave, on every route that writes, in mid-stream and before an answer begins: no slot stays busy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.leaving import leave
from tests.support.model_house import House, running_house
from tests.support.small_models import TOOLS_CHATML, write_llama

pytestmark = pytest.mark.faults
CONTEXT = 4096
SAY: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat/completions", {**SAY, "max_tokens": 3000, "ignore_eos": True}),
    "choices": ("chat/completions", {**SAY, "max_tokens": 3000, "ignore_eos": True, "n": 4}),
    "completions": ("completions", {"prompt": "x", "max_tokens": 3000, "ignore_eos": True}),
    "responses": ("responses", {"input": "x", "max_output_tokens": 3000}),
    "messages": ("messages", {**SAY, "max_tokens": 3000}),
    "forced": (
        "chat/completions",
        {**SAY, "max_tokens": 3000, "tool_choice": "required",
         "tools": [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]},
    ),
    "forced-messages": (
        "messages",
        {**SAY, "max_tokens": 3000, "tools": [{"name": "f", "input_schema": PARAMETERS}], "tool_choice": {"type": "any"}},
    ),
    "forced-responses": (
        "responses",
        {"input": "x", "max_output_tokens": 3000, "tool_choice": "required",
         "tools": [{"type": "function", "name": "f", "parameters": PARAMETERS}]},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    pytest.importorskip("torch", reason="the transformers engine is an extra")
    from tests.support.hf_models import causal_model

    root = tmp_path_factory.mktemp("leaving")
    write_llama(root / "models/acme/llamacpp/m.gguf", context=CONTEXT, chat_template=TOOLS_CHATML)
    causal_model(root / "models/acme/transformers", "Llama", max_position_embeddings=CONTEXT, intermediate_size=96)  # fmt: skip
    flags = ("serve.threads=1", "serve.slots=4", f"serve.context={CONTEXT}")
    with running_house(root / "home", root / "models", *flags) as house:
        for name in ("llamacpp", "transformers"):
            assert house.serve(f"acme/{name}", alias=name, engine=name)["state"] == "ready"
        yield house


def spent_s(house: House) -> float:
    return sum(psutil.Process(pid).cpu_times().user for pid in house.engine_pids())


def wait_until_nothing_works(house: House) -> None:
    deadline = time.monotonic() + 30
    before = spent_s(house)
    while True:
        time.sleep(0.5)
        now = spent_s(house)
        if now - before < 0.1:
            return
        before = now
        assert time.monotonic() < deadline, "an engine works on for nobody"


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
@pytest.mark.parametrize("name", ROUTES)
def test_sixty_four_that_leave_keep_no_slot_busy(house: House, name: str, engine: str) -> None:
    path, body = ROUTES[name]
    pids = house.engine_pids()
    ways = [
        {"stream": True, "begun": True},
        {"stream": True, "begun": False},
        {"stream": False, "begun": False},
    ]
    for way in ways:
        leave(house, f"/v1/{path}", {"model": engine, **body, "stream": way["stream"]}, begun=way["begun"])
        asked = {"model": engine, "prompt": "x", "max_tokens": 1}
        status, _, answer = house.request("POST", "/v1/completions", asked)
        assert status == 200, (way, json.loads(answer))
    wait_until_nothing_works(house)
    assert house.engine_pids() == pids
