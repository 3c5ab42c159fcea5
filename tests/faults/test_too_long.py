"""Requests longer than the context, on every route and over both engines: 400 with the vendor's code and both numbers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.model_house import House, running_house
from tests.support.small_models import TOOLS_CHATML, write_llama

pytestmark = pytest.mark.faults
CONTEXT = 256
TEXT = "ba be bi bo bu " * 100
MESSAGES = [{"role": "user", "content": TEXT}]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat/completions", {"messages": MESSAGES}),
    "stream": ("chat/completions", {"messages": MESSAGES, "stream": True}),
    "choices": ("chat/completions", {"messages": MESSAGES, "n": 3}),
    "forced": ("chat/completions", {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "required"}),
    "completions": ("completions", {"prompt": TEXT}),
    "tokens": ("completions", {"prompt": [300] * (CONTEXT + 1)}),
    "prompts": ("completions", {"prompt": ["a", TEXT]}),
    "echo": ("completions", {"prompt": TEXT, "echo": True, "max_tokens": 0, "logprobs": 1}),
    "responses": ("responses", {"input": TEXT}),
    "messages": ("messages", {"messages": MESSAGES, "max_tokens": 4}),
    "embeddings": ("embeddings", {"input": ["a", TEXT]}),
    "embedded-tokens": ("embeddings", {"input": [300] * (CONTEXT + 1)}),
    "rerank": ("rerank", {"query": "a", "documents": ["b", TEXT]}),
}  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    pytest.importorskip("torch", reason="the transformers engine is an extra")
    from tests.support.hf_models import bert_model, causal_model

    root = tmp_path_factory.mktemp("long")
    models = root / "models/acme"
    write_llama(models / "llamacpp/m.gguf", context=CONTEXT, chat_template=TOOLS_CHATML)
    write_llama(models / "llamacpp-ranks/m.gguf", context=CONTEXT, pooling=4)
    causal_model(models / "transformers", "Llama", max_position_embeddings=CONTEXT, intermediate_size=96)
    bert_model(models / "transformers-ranks", classes=1)
    flags = ("serve.threads=1", f"serve.context={CONTEXT}")
    with running_house(root / "home", root / "models", *flags) as house:
        for path in models.iterdir():
            engine = path.name.removesuffix("-ranks")
            assert house.serve(f"acme/{path.name}", alias=path.name, engine=engine)["state"] == "ready"
        yield house


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
@pytest.mark.parametrize("name", ROUTES)
def test_it_is_refused_with_the_vendors_code_and_both_numbers(house: House, name: str, engine: str) -> None:
    path, body = ROUTES[name]
    model = f"{engine}-ranks" if name == "rerank" else engine
    status, _, answer = house.request("POST", f"/v1/{path}", {"model": model, **body})
    assert status == 400, answer
    error = json.loads(answer)["error"]
    assert error["code"] == "context_length_exceeded", error
    asked, holds = map(int, re.findall(r"\b\d+\b", error["message"])[:2])
    assert model in error["message"] and asked > holds == (
        64 if model == "transformers-ranks" else CONTEXT
    ), error
    if name == "messages":
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_what_only_counts_takes_any_length(house: House, engine: str) -> None:
    counted = house.json("POST", "/v1/messages/count_tokens", {"model": engine, "messages": MESSAGES})
    assert counted["input_tokens"] > CONTEXT
    assert house.json("POST", "/v1/tokenize", {"model": engine, "prompt": TEXT})["count"] > CONTEXT


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_a_word_more_than_fits_ends_the_answer_at_the_end_of_the_context(house: House, engine: str) -> None:
    body = {"model": engine, "prompt": [300] * (CONTEXT - 8), "ignore_eos": True, "max_tokens": 100_000}
    answer = house.json("POST", "/v1/completions", body)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert 7 <= answer["usage"]["completion_tokens"] <= 9


def test_a_line_of_a_batch_is_refused_alone(house: House) -> None:
    lines = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "llamacpp", "max_tokens": 2, "messages": [{"role": "user", "content": text}]}}
        for i, text in enumerate(("a", TEXT))
    ]  # fmt: skip
    raw = "\n".join(map(json.dumps, lines))
    form = (
        '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--x\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
        + raw
        + "\r\n--x--\r\n"
    )
    import urllib.request

    request = urllib.request.Request(house.url + "/v1/files", data=form.encode())
    request.add_header("authorization", f"Bearer {house.token}")
    request.add_header("content-type", "multipart/form-data; boundary=x")
    with urllib.request.urlopen(request, timeout=30) as answer:
        file = json.load(answer)["id"]
    wish = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = house.json("POST", "/v1/batches", wish)
    deadline = time.monotonic() + 60
    while batch["status"] not in ("completed", "failed"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
        batch = house.json("GET", f"/v1/batches/{batch['id']}")
    assert (batch["status"], batch["request_counts"]["completed"], batch["request_counts"]["failed"]) == (
        "completed", 1, 1,
    )  # fmt: skip
    said = house.request("GET", f"/v1/files/{batch['error_file_id']}/content")[2]
    assert b"context_length_exceeded" in said
