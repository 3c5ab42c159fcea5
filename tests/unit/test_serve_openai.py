"""Requests of OpenAI's schema: every field has its place, every fault its path."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_params

from fust.core.errors import FustError
from fust.gateway.serving import check_fit
from fust.gateway.translate import plan_chat, plan_completion, plan_embedding
from fust.wire.body import decode_request
from fust.wire.openai import ChatRequest, CompletionRequest, EmbeddingRequest
from fust.wire.targets import Target

CHAT = msgspec.json.Decoder(ChatRequest)
COMPLETION = msgspec.json.Decoder(CompletionRequest)
EMBEDDING = msgspec.json.Decoder(EmbeddingRequest)
TARGET = Target("d", "asked", "http://x", alias="inner")
HELLO = [{"role": "user", "content": "hello"}]


def chat(target: Target = TARGET, **fields: Any) -> dict[str, Any]:
    plan = plan_chat(decode_request(CHAT, json.dumps({"model": "m", "messages": HELLO, **fields}).encode()))
    return json.loads(plan.encode(target))


def fault(**fields: Any) -> FustError:
    with pytest.raises(FustError) as caught:
        chat(**fields)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "vendor"),
    [
        (ChatRequest, {**chat_params.CompletionCreateParamsBase.__annotations__, "stream": 0}),
        (
            CompletionRequest,
            {**completion_create_params.CompletionCreateParamsBase.__annotations__, "stream": 0},
        ),
        (EmbeddingRequest, embedding_create_params.EmbeddingCreateParams.__annotations__),
    ],
)
def test_every_field_of_the_vendors_client_is_known(
    kind: type[msgspec.Struct], vendor: dict[str, Any]
) -> None:
    assert set(vendor) <= set(kind.__struct_fields__)


def test_what_is_forwarded_and_what_is_not() -> None:
    body = chat(
        temperature=0.5, top_p=0.9, seed=7, stop=["a"], user="u", store=True, metadata={"a": "b"}, top_k=3,
        logprobs=True, top_logprobs=2, max_completion_tokens=9, max_tokens=12, frequency_penalty=None,
        service_tier="auto", prediction={"type": "content", "content": "x"},
    )  # fmt: skip
    assert body == {
        "model": "inner", "messages": HELLO, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["a"], "top_k": 3,
        "logprobs": True, "top_logprobs": 2, "max_tokens": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"foo": 1}, "unknown_parameter", "foo"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "unknown_parameter", "messages[0].colour"),
        ({"messages": [{"role": "king", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"temperature": 9}, "invalid_value", "temperature"),
        ({"n": 0}, "invalid_value", "n"),
        ({"audio": {"voice": "x"}}, "unsupported_parameter", "audio"),
        ({"modalities": ["audio"]}, "unsupported_parameter", "modalities"),
        ({"web_search_options": {}}, "unsupported_parameter", "web_search_options"),
        ({"verbosity": "low"}, "unsupported_parameter", "verbosity"),
        ({"top_logprobs": 3}, "invalid_input", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "invalid_input", "stream_options"),
        ({"lora": []}, "unknown_parameter", "lora"),
        ({"id_slot": 1}, "unknown_parameter", "id_slot"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}]},
            "unsupported_parameter",
            "messages[0].content[0].input_audio",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "unsupported_parameter",
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "huge"}}]}]},
            "invalid_value",
            "messages[0].content[0].image_url.detail",
        ),
    ],
)  # fmt: skip
def test_faults_name_the_field(fields: dict[str, Any], code: str, param: str) -> None:
    error = fault(**fields)
    assert (error.status, error.code, error.params.get("param")) == (400, code, param)
    assert error.message("zh") != error.message("en")


@pytest.mark.parametrize(
    "fields",
    [{"audio": None}, {"modalities": ["text"]}, {"verbosity": "medium"}, {"functions": []}, {"stop": None}],
)
def test_values_that_ask_for_nothing_pass(fields: dict[str, Any]) -> None:
    assert chat(**fields) == {"model": "inner", "messages": HELLO}


def test_messages_are_mended() -> None:
    plain = chat(
        messages=[
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
        ]
    )  # fmt: skip
    assert [(m["role"], m["content"]) for m in plain["messages"]] == [
        ("assistant", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
        ("user", "<tool_response>\n3\n</tool_response>"),
    ], "a template that knows no tools gets text"
    body = chat(
        target=replace(TARGET, capabilities=frozenset({"template_tools"})),
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
        ]
    )  # fmt: skip
    assert body["messages"][0] == {"role": "system", "content": "a\nb"}
    assert body["messages"][1]["content"] == ""
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "f"


def test_adapters_are_always_named_in_full() -> None:
    plan = plan_chat(decode_request(CHAT, json.dumps({"model": "m", "messages": HELLO}).encode()))
    target = Target("d", "m", "http://x", alias="a", adapters=(0, 1, 2), adapter_scales={1: 1.0})
    lora = json.loads(plan.encode(target))["lora"]
    assert lora == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}, {"id": 2, "scale": 0.0}]


def test_bombs() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    for body in (
        deep,
        b'{"model":"m","messages":' + deep + b"}",
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":' + deep + b"}",
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"metadata":' + deep + b"}",
    ):
        with pytest.raises(FustError) as caught:
            decode_request(CHAT, body)
        assert caught.value.status == 400
    nested: Any = {}
    for _ in range(70):
        nested = {"properties": {"a": nested}}
    assert (
        fault(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": nested}}).code
        == "invalid_json"
    )
    assert (
        fault(tools=[{"type": "function", "function": {"name": "f", "parameters": nested}}]).code
        == "invalid_json"
    )
    with pytest.raises(FustError):
        decode_request(CHAT, b"\xff\xfe")


def test_prompts_and_choices() -> None:
    def plan(**fields: Any):  # type: ignore[no-untyped-def]
        return plan_completion(decode_request(COMPLETION, json.dumps({"model": "m", **fields}).encode()))

    assert plan(prompt="a").is_single
    assert plan(prompt=[1, 2, 3]).prompts == [[1, 2, 3]]
    several = plan(prompt=["a", "b"], n=2, seed=5)
    assert [json.loads(several.encode(TARGET, i))["prompt"] for i in range(4)] == ["a", "a", "b", "b"]
    assert [json.loads(several.encode(TARGET, i))["seed"] for i in range(4)] == [5, 6, 5, 6]
    for wrong in ([], [[]], ["a", 1], ["a", [1]]):
        with pytest.raises(FustError):
            plan(prompt=wrong)
    assert plan(prompt="a", echo=True).mode == "score"
    with pytest.raises(FustError, match="echo"):
        plan(prompt="a", echo=True, stream=True)
    scored = {"echo": True, "logprobs": 1}
    assert plan(prompt=["a", "b"], logprob_start_len=3, **scored).starts == [3, 3]
    assert plan(prompt=["a", "b"], logprob_start_len=[0, 3], **scored).starts == [0, 3]
    assert plan(prompt="a", logprob_start_len=None).starts == plan(prompt="a", **scored).starts == []
    for wrong in (
        {"logprob_start_len": 3},
        {"logprob_start_len": 3, "echo": True},
        {"logprob_start_len": 3, "logprobs": 1},
        {"logprob_start_len": -1, **scored},
        {"logprob_start_len": "3", **scored},
        {"logprob_start_len": [1, 2], **scored},
        {"logprob_start_len": [-1], **scored},
    ):
        with pytest.raises(FustError) as caught:
            plan(prompt="a", **wrong)
        assert caught.value.status == 400 and str(caught.value.params["param"]).startswith(
            "logprob_start_len"
        )


def test_embeddings() -> None:
    def plan(**fields: Any):  # type: ignore[no-untyped-def]
        return plan_embedding(decode_request(EMBEDDING, json.dumps({"model": "m", **fields}).encode()))

    assert plan(input="a").mode == "embed"
    assert plan(input=["a"], encoding_format="base64").body["encoding_format"] == "base64"
    for wrong in ("", [], [""], [[]]):
        with pytest.raises(FustError):
            plan(input=wrong)
    with pytest.raises(FustError, match="dimensions"):
        check_fit(plan(input="a", dimensions=3), replace(TARGET, embedding=64))
    check_fit(plan(input="a", dimensions=64), replace(TARGET, embedding=64))
