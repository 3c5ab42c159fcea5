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
from openai.types import (
    batch_create_params,
    completion_create_params,
    embedding_create_params,
    file_create_params,
    shared_params,
)
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartImageParam,
    ChatCompletionContentPartInputAudioParam,
    ChatCompletionContentPartRefusalParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
    chat_completion_content_part_image_param,
    chat_completion_content_part_param,
    chat_completion_message_function_tool_call_param,
)
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params, response_input_item_param

from fust.core.errors import FustError, Unsupported
from fust.gateway.messages import plan_messages
from fust.gateway.responses import plan_response
from fust.gateway.translate import plan_chat, plan_completion
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
    *((ours_a.Source, kind) for kind in (claude.Base64ImageSourceParam, claude.URLImageSourceParam, claude.FileImageSourceParam,
      claude.PlainTextSourceParam, claude.ContentBlockSourceParam, claude.Base64PDFSourceParam, claude.URLPDFSourceParam)),
    *((ours_a.Turn, kind) for kind in typing.get_args(claude.MessageParam)),
    (ours_r.ResponsesRequest, response_create_params.ResponseCreateParamsBase),
    (ours_r.Reasoning, shared_params.Reasoning),
    (ours_r.FunctionTool, responses.FunctionToolParam),
    (ours_r.InputItem, responses.ResponseFunctionToolCallParam),
    (ours_r.InputPart, responses.ResponseOutputRefusalParam),
    (ours_o.StreamOptions, response_create_params.StreamOptions),
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
    (ours_o.Part, ChatCompletionContentPartInputAudioParam),
    (ours_o.Part, ChatCompletionContentPartRefusalParam),
    (ours_o.Part, chat_completion_content_part_param.File),
    (ours_o.FileRef, chat_completion_content_part_param.FileFile),
    (ours_o.ImageURL, chat_completion_content_part_image_param.ImageURL),
    (ours_o.ToolCall, ChatCompletionMessageFunctionToolCallParam),
    (ours_o.FunctionCall, chat_completion_message_function_tool_call_param.Function),
    (ours_o.StreamOptions, ChatCompletionStreamOptionsParam),
    (ours_o.ResponseFormat, shared_params.ResponseFormatText),
    (ours_o.ResponseFormat, shared_params.ResponseFormatJSONObject),
    (ours_o.ResponseFormat, shared_params.ResponseFormatJSONSchema),
    (ours_o.JSONSchema, shared_params.response_format_json_schema.JSONSchema),
    (ours_o.ChatRequest, chat_create_params.CompletionCreateParamsBase),
    (ours_o.CompletionRequest, completion_create_params.CompletionCreateParamsBase),
    (ours_o.EmbeddingRequest, embedding_create_params.EmbeddingCreateParams),
    (BatchRequest, batch_create_params.BatchCreateParams),
    (ExpiresAfter, batch_create_params.OutputExpiresAfter),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "vendor"), PAIRS, ids=[f"{kind.__name__}-{vendor.__name__}" for kind, vendor in PAIRS]
)
def test_every_field_of_the_vendor_is_known(kind: type[Body], vendor: Any) -> None:
    assert set(typing.get_type_hints(vendor)) <= set(kind.__struct_encode_fields__)


def test_a_file_is_sent_with_the_vendors_fields() -> None:
    """Read by the gateway itself, for they come as a form (`fust.gateway.files`)."""
    assert set(typing.get_type_hints(file_create_params.FileCreateParams)) == {
        "file",
        "purpose",
        "expires_after",
    }
    assert set(typing.get_type_hints(file_create_params.ExpiresAfter)) == {"anchor", "seconds"}


def test_the_tables_name_fields_that_exist() -> None:
    for kind in {kind for kind, _ in PAIRS}:
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


def _chat(**fields: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": HELLO, **fields}
    decoder = msgspec.json.Decoder(ours_o.ChatRequest)
    return plan_chat(decode_request(decoder, json.dumps(body).encode())).body


def _completion(**fields: Any) -> dict[str, Any]:
    decoder = msgspec.json.Decoder(ours_o.CompletionRequest)
    body = {"model": "m", "prompt": "hello", **fields}
    return plan_completion(decode_request(decoder, json.dumps(body).encode())).body


ASKED: list[tuple[Any, type[Body]]] = [
    (_message, ours_a.MessagesRequest),
    (_response, ours_r.ResponsesRequest),
    (_chat, ours_o.ChatRequest),
    (_completion, ours_o.CompletionRequest),
]


@pytest.mark.parametrize(("ask", "kind"), ASKED)
def test_ignored_fields_change_nothing_and_refused_ones_are_named(ask: Any, kind: type[Body]) -> None:
    for name in kind.ignored:
        assert ask(**{name: "any thing" if name == "user" else {"any": "thing"}}) == ask(), name
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


def _members(union: Any) -> list[Any]:
    """Returns the typed dictionaries of a union, at any depth."""
    if hasattr(union, "__required_keys__"):  # of typing_extensions, which typing.is_typeddict does not know
        return [union]
    return [member for part in typing.get_args(union) for member in _members(part)]


def _literals(hint: Any) -> list[str]:
    return [
        word
        for part in typing.get_args(hint)
        for word in ([part] if isinstance(part, str) else _literals(part))
    ]


def _least(vendor: Any) -> dict[str, Any]:
    """Returns an object with every field of a vendor's type, each with a value of some kind."""
    return {
        name: _literals(hint)[0] if name == "type" else f"any {name}"
        for name, hint in typing.get_type_hints(vendor).items()
    }


OTHERS = [
    (_response, "input", "input[0].type", kind, {"message", "function_call", "function_call_output", "reasoning"})
    for kind in _members(responses.ResponseInputItemParam)
] + [
    (_response, "tools", "tools[0].type", kind, {"function"}) for kind in _members(responses.ToolParam)
] + [
    (_message, "tools", "tools[0].type", kind, {"custom"}) for kind in _members(claude.ToolUnionParam)
] + [
    (_message, "blocks", "messages[0].content[0].type", kind,
     {"text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result"})
    for kind in _members(claude.ContentBlockParam)
] + [
    (_response, "parts", "input[0].content[0].type", kind, {"input_text", "input_image"})
    for kind in _members(responses.ResponseInputContentParam)
]  # fmt: skip


@pytest.mark.parametrize(
    ("ask", "where", "param", "vendor", "read"), OTHERS, ids=lambda it: getattr(it, "__name__", None)
)
def test_what_the_vendors_own_tools_need_is_refused_by_its_type(
    ask: Any, where: str, param: str, vendor: Any, read: set[str]
) -> None:
    """Whatever fields it has: none of them is somebody's spelling mistake."""
    made = _least(vendor)
    if made.get("type", "message") in read:
        return
    fields: dict[str, Any] = {where: [made]}
    if where == "blocks":
        fields = {"messages": [{"role": "user", "content": [made]}]}
    elif where == "parts":
        fields = {"input": [{"role": "user", "content": [made]}]}
    with pytest.raises(Unsupported) as refused:
        ask(**fields)
    assert refused.value.params["param"] == param


@pytest.mark.parametrize("stop", ["", [""], ["", "a"]])
def test_an_empty_stop_word_stops_nothing(stop: Any) -> None:
    kept = ["a"] if "a" in stop else None
    assert _chat(stop=stop).get("stop") == _completion(stop=stop).get("stop") == kept
    given = [stop] if isinstance(stop, str) else stop
    assert _message(stop_sequences=given).get("stop") == kept


def test_two_tools_of_one_name_are_refused_by_every_api() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for ask, tool, param in (
        (_chat, {"type": "function", "function": {"name": "now", "parameters": schema}}, "tools[1]"),
        (_response, {"type": "function", "name": "now", "parameters": schema}, "tools[1]"),
        (_message, {"name": "now", "input_schema": schema}, "tools[1]"),
    ):
        with pytest.raises(FustError) as refused:
            ask(tools=[tool, tool])
        assert refused.value.params["param"] == param
    deferred = {"type": "function", "name": "now", "parameters": schema, "async": True}
    with pytest.raises(Unsupported) as late:
        _response(tools=[deferred])
    assert late.value.params["param"] == "tools[0].async"


def test_an_image_that_may_not_be_made_smaller_is_refused() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "eA=="}
    image = {"type": "image", "source": source, "transformations": {"oversized_image": "error"}}
    with pytest.raises(Unsupported) as refused:
        _message(messages=[{"role": "user", "content": [image]}])
    assert refused.value.params["param"] == "messages[0].content[0].transformations"
