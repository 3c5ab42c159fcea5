"""Fields of both vendors' published schemas (the types of their own clients): each is known, and none by accident."""

from __future__ import annotations

import json
import typing
from typing import Any

import anthropic.types as claude
import msgspec
import openai.types.responses as responses
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types import batch_create_params, shared_params
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartImageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.responses import response_create_params, response_input_item_param

from fust.core.errors import FustError, Unsupported
from fust.gateway.messages import plan_messages
from fust.gateway.responses import plan_response
from fust.wire import anthropic as ours_a
from fust.wire import openai as ours_o
from fust.wire import responses as ours_r
from fust.wire.batches import BatchRequest, ExpiresAfter
from fust.wire.body import Body, decode_request

HELLO = [{"role": "user", "content": "hello"}]

PAIRS: list[tuple[type[Body], Any]] = [
    (ours_a.MessagesRequest, message_create_params.MessageCreateParamsBase),
    (ours_a.CountRequest, message_count_tokens_params.MessageCountTokensParams),
    *(
        (ours_a.Block, kind)
        for kind in (
            claude.TextBlockParam, claude.ImageBlockParam, claude.DocumentBlockParam, claude.SearchResultBlockParam,
            claude.ThinkingBlockParam, claude.RedactedThinkingBlockParam, claude.ToolUseBlockParam,
            claude.ToolResultBlockParam,
        )
    ),
    (ours_a.Tool, claude.ToolParam),
    *((ours_a.ToolChoice, kind) for kind in typing.get_args(claude.ToolChoiceParam)),
    *((ours_a.Thinking, kind) for kind in typing.get_args(claude.ThinkingConfigParam)),
    (ours_a.OutputConfig, claude.OutputConfigParam),
    (ours_a.OutputFormat, claude.JSONOutputFormatParam),
    (ours_r.ResponsesRequest, response_create_params.ResponseCreateParamsBase),
    (ours_r.Reasoning, shared_params.Reasoning),
    (ours_r.Text, responses.ResponseTextConfigParam),
    (ours_r.Format, responses.ResponseFormatTextJSONSchemaConfigParam),
    (ours_r.InputItem, responses.EasyInputMessageParam),
    (ours_r.InputItem, responses.ResponseOutputMessageParam),
    (ours_r.InputItem, responses.ResponseReasoningItemParam),
    (ours_r.InputItem, response_input_item_param.FunctionCallOutput),
    (ours_r.InputPart, responses.ResponseInputTextParam),
    (ours_r.InputPart, responses.ResponseInputImageParam),
    (ours_r.InputPart, responses.ResponseOutputTextParam),
    *(
        (ours_o.Message, kind)
        for kind in (
            ChatCompletionSystemMessageParam, ChatCompletionDeveloperMessageParam, ChatCompletionUserMessageParam,
            ChatCompletionAssistantMessageParam, ChatCompletionToolMessageParam,
        )
    ),
    (ours_o.Part, ChatCompletionContentPartTextParam),
    (ours_o.Part, ChatCompletionContentPartImageParam),
    (BatchRequest, batch_create_params.BatchCreateParams),
    (ExpiresAfter, batch_create_params.OutputExpiresAfter),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "vendor"), PAIRS, ids=[f"{kind.__name__}-{vendor.__name__}" for kind, vendor in PAIRS]
)
def test_every_field_of_the_vendor_is_known(kind: type[Body], vendor: Any) -> None:
    assert set(vendor.__annotations__) <= set(kind.__struct_encode_fields__)


def test_the_tables_name_fields_that_exist() -> None:
    kinds = {kind for kind, _ in PAIRS} | {
        ours_o.ChatRequest,
        ours_o.CompletionRequest,
        ours_o.EmbeddingRequest,
    }
    for kind in kinds:
        named = kind.ignored | set(kind.neutral)
        assert named <= set(kind.__struct_fields__), kind
        assert not kind.ignored & set(kind.neutral), kind


def _message(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "max_tokens": 1, "messages": HELLO, **fields}
    decoder = msgspec.json.Decoder(ours_a.MessagesRequest)
    return plan_messages(decode_request(decoder, json.dumps(body).encode())).body


def _response(**fields: Any) -> dict[str, Any]:
    decoder = msgspec.json.Decoder(ours_r.ResponsesRequest)
    body = {"model": "m", "input": "hello", **fields}
    return plan_response(decode_request(decoder, json.dumps(body).encode()), []).body


@pytest.mark.parametrize(
    ("ask", "kind"), [(_message, ours_a.MessagesRequest), (_response, ours_r.ResponsesRequest)]
)
def test_ignored_fields_change_nothing_and_refused_ones_are_named(ask: Any, kind: type[Body]) -> None:
    for name in kind.ignored:
        assert ask(**{name: {"any": "thing"}}) == ask(), name
    for name, passing in kind.neutral.items():
        for value in (None, *passing):
            assert ask(**{name: value}) == ask(), name
        with pytest.raises(Unsupported) as refused:
            ask(**{name: {"any": "thing"}})
        assert refused.value.params["param"] == name
    with pytest.raises(FustError) as unknown:
        ask(colour="red")
    assert (unknown.value.code, unknown.value.params["param"]) == ("unknown_parameter", "colour")


def test_effort_and_thoughts_reach_the_template() -> None:
    assert _response(reasoning={"effort": "high"})["chat_template_kwargs"] == {"reasoning_effort": "high"}
    off = _response(reasoning={"effort": "none"})["chat_template_kwargs"]
    assert off == {"reasoning_effort": "none", "enable_thinking": False}
    thinking = _message(thinking={"type": "enabled", "budget_tokens": 2000})
    assert thinking["chat_template_kwargs"] == {"enable_thinking": True}
    assert thinking["thinking_budget_tokens"] == 2000
    assert _message(thinking={"type": "disabled"})["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "container_upload"},
        {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}},
    ],
)
def test_what_no_model_reads_is_refused_by_its_place(block: Any) -> None:
    with pytest.raises(Unsupported) as refused:
        _message(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, block]}])
    assert refused.value.params["param"] == "messages[0].content[1].type"
