"""The model surface with both vendors' own clients: Anthropic's Messages, OpenAI's Responses, and what belongs to neither."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.support.model_house import House, running_house
from tests.support.small_models import write_repos

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("vendors")
    with running_house(folder / "home", write_repos(folder / "models"), "serve.threads=1") as house:
        house.serve("acme/chat", alias="tiny")
        house.serve("acme/tools", alias="handy")
        house.serve("acme/ranks")
        yield house


@pytest.fixture(scope="module")
def claude(house: House) -> Iterator[Anthropic]:
    with Anthropic(base_url=house.url, api_key=house.token, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def gpt(house: House) -> Iterator[OpenAI]:
    with OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
        yield client


# Anthropic


def test_a_message_and_its_stream_say_the_same(claude: Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "max_tokens": 12,
        "extra_body": {"temperature": 0},
        "messages": HELLO,
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        "metadata": {"user_id": "u"},
    }
    whole = claude.messages.create(**asked)
    assert whole.type == "message" and whole.model == "tiny" and whole.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == 12
    assert whole._request_id
    (block,) = whole.content
    assert block.type == "text"
    count = claude.messages.count_tokens(model="tiny", messages=HELLO, system="be brief")
    assert count.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    with claude.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].text == block.text  # type: ignore[union-attr]
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 12
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == count.input_tokens
    raw = [kind for kind in kinds if kind in ("message_start", "content_block_start", "message_stop")]
    assert raw == ["message_start", "content_block_start", "message_stop"]


def test_the_first_event_tells_the_prompts_tokens(house: House) -> None:
    body = {"model": "tiny", "max_tokens": 2, "messages": HELLO, "stream": True}
    status, headers, answer = house.request("POST", "/v1/messages", body)
    assert status == 200 and headers["request-id"] == headers["x-request-id"]
    events = [
        (piece.split("\n")[0][7:], json.loads(piece.split("data: ", 1)[1]))
        for piece in answer.decode().split("\n\n")
        if piece
    ]
    assert [name for name, _ in events][-2:] == ["message_delta", "message_stop"]
    assert all(name == data["type"] for name, data in events)
    usage = events[0][1]["message"]["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] > 10


def test_a_stop_sequence_is_named(claude: Anthropic) -> None:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 60, "messages": HELLO}
    asked["extra_body"] = {"temperature": 0}
    text = claude.messages.create(**asked).content[0].text  # type: ignore[union-attr]
    word = text[8:11]
    cut = claude.messages.create(**asked, stop_sequences=["never met", word])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)
    assert cut.content[0].text == text[: text.index(word)]  # type: ignore[union-attr]
    with claude.messages.stream(**asked, stop_sequences=[word]) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", word)


@pytest.mark.parametrize("model", ["tiny", "handy"])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_tool_that_has_to_be_called_is_called(claude: Anthropic, model: str, choice: Any) -> None:
    tool: Any = {"name": "weather", "description": "tells it", "input_schema": WEATHER}
    asked: dict[str, Any] = {
        "model": model, "max_tokens": 200, "messages": HELLO, "tools": [tool], "tool_choice": choice,
    }  # fmt: skip
    whole = claude.messages.create(**asked)
    (block,) = whole.content
    assert whole.stop_reason == "tool_use"
    assert block.type == "tool_use" and block.name == "weather"
    check_weather(block.input)
    with claude.messages.stream(**asked) as stream:
        (streamed,) = stream.get_final_message().content
    assert streamed.type == "tool_use"
    check_weather(streamed.input)
    result = {
        "type": "tool_result",
        "tool_use_id": block.id,
        "content": [{"type": "text", "text": "4 degrees"}],
    }
    onward = claude.messages.create(
        model=model,
        max_tokens=5,
        messages=[
            *HELLO,
            {"role": "assistant", "content": whole.content},
            {"role": "user", "content": [result]},
        ],  # type: ignore[list-item]
        tools=[tool],
        tool_choice={"type": "none"},
    )
    assert onward.content[0].type == "text"


def check_weather(given: Any) -> None:
    assert set(given) == {"city", "days"}
    assert given["city"] in ("Oslo", "Lima")
    assert 1 <= given["days"] <= 9


def test_a_schema_over_the_message(claude: Anthropic) -> None:
    held: Any = {"format": {"type": "json_schema", "schema": WEATHER}, "effort": "low"}
    answer = claude.messages.create(model="tiny", max_tokens=200, messages=HELLO, output_config=held)
    check_weather(json.loads(answer.content[0].text))  # type: ignore[union-attr]


def test_faults_have_anthropics_form(claude: Anthropic, house: House) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        claude.messages.create(model="no/such", max_tokens=1, messages=HELLO)
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    assert missing.value.request_id
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="fust_wrong").messages.create(model="tiny", max_tokens=1, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError) as unknown:
        claude.messages.create(model="tiny", max_tokens=1, messages=HELLO, extra_body={"colour": "red"})
    assert unknown.value.body["error"]["param"] == "colour"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError) as container:
        claude.messages.create(model="tiny", max_tokens=1, messages=HELLO, extra_body={"container": "c"})
    assert container.value.body["error"]["code"] == "unsupported_parameter"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError) as long:
        claude.messages.create(
            model="tiny", max_tokens=1, messages=[{"role": "user", "content": "ba " * 9000}]
        )
    assert long.value.body["error"]["code"] == "context_length_exceeded"  # type: ignore[index]
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "eA=="}}
    with pytest.raises(anthropic.BadRequestError) as document:
        claude.messages.create(model="tiny", max_tokens=1, messages=[{"role": "user", "content": [pdf]}])  # type: ignore[list-item]
    assert document.value.body["error"]["param"] == "messages[0].content[0].source"  # type: ignore[index]
    status, _, answer = house.request("GET", "/v1/messages")
    assert status == 405 and json.loads(answer)["type"] == "error"


def test_documents_are_read_as_text(claude: Anthropic) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "ba be bi"}
    blocks = [{"type": "document", "source": source, "title": "Bo"}, {"type": "text", "text": "what is it?"}]
    counted = claude.messages.count_tokens(model="tiny", messages=[{"role": "user", "content": blocks}])  # type: ignore[list-item]
    plain = claude.messages.count_tokens(
        model="tiny", messages=[{"role": "user", "content": "Bo\nba be bi\nwhat is it?"}]
    )
    assert counted.input_tokens == plain.input_tokens


def test_anthropics_models(claude: Anthropic) -> None:
    assert {"acme/chat", "tiny"} <= {model.id for model in claude.models.list()}
    assert claude.models.retrieve("tiny").type == "model"


# OpenAI's Responses


def test_a_response_and_its_stream_say_the_same(gpt: OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny", "input": "hello", "instructions": "be brief", "max_output_tokens": 8, "temperature": 0,
        "metadata": {"a": "b"},
    }  # fmt: skip
    whole = gpt.responses.create(**asked)
    assert whole.status == "incomplete" and whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None and whole.usage.output_tokens == 8
    assert whole.metadata == {"a": "b"}
    with gpt.responses.stream(**asked) as stream:
        events = list(stream)
    final = events[-1].response  # type: ignore[union-attr]
    assert final.output_text == whole.output_text
    assert final.usage is not None and final.usage.output_tokens == 8
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.incomplete",
    ]  # fmt: skip


def test_a_response_goes_on_from_the_one_before(gpt: OpenAI, house: House) -> None:
    first = gpt.responses.create(model="tiny", input="ba be", max_output_tokens=4, temperature=0)
    second = gpt.responses.create(
        model="tiny", input="and then?", previous_response_id=first.id, max_output_tokens=4, temperature=0
    )
    spoken: list[Any] = [
        {"role": "user", "content": "ba be"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "and then?"},
    ]
    by_hand = gpt.responses.create(
        model="tiny", input=spoken, max_output_tokens=4, temperature=0, store=False
    )
    assert second.output_text == by_hand.output_text
    assert second.usage is not None and by_hand.usage is not None
    assert second.usage.input_tokens == by_hand.usage.input_tokens
    assert gpt.responses.retrieve(second.id).previous_response_id == first.id
    assert gpt.responses.input_items.list(first.id).data[0].type == "message"
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(by_hand.id)
    stranger = gpt.with_options(api_key=house.reader)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as foreign:
        stranger.responses.create(model="tiny", input="x", previous_response_id=first.id)
    assert foreign.value.code == "previous_response_not_found"
    gpt.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as gone:
        gpt.responses.create(model="tiny", input="x", previous_response_id=second.id)
    assert (gone.value.code, gone.value.param) == ("previous_response_not_found", "previous_response_id")
    with pytest.raises(openai.BadRequestError):
        gpt.responses.cancel(second.id)


def test_a_key_for_one_model_finds_only_its_own_responses(gpt: OpenAI, house: House) -> None:
    reader = gpt.with_options(api_key=house.reader)
    mine = reader.responses.create(model="tiny", input="x", max_output_tokens=1)
    narrow = gpt.with_options(api_key=house.tokens["tiny only"])
    with pytest.raises(openai.NotFoundError):
        narrow.responses.retrieve(mine.id)
    own = narrow.responses.create(model="tiny", input="x", max_output_tokens=1)
    assert narrow.responses.retrieve(own.id).id == own.id


@pytest.mark.parametrize("model", ["tiny", "handy"])
def test_a_response_calls_its_tool(gpt: OpenAI, model: str) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
    asked: dict[str, Any] = {
        "model": model, "input": "hello", "tools": [tool], "tool_choice": {"type": "function", "name": "weather"},
    }  # fmt: skip
    whole = gpt.responses.create(**asked)
    (call,) = whole.output
    assert call.type == "function_call" and call.name == "weather"
    check_weather(json.loads(call.arguments))
    with gpt.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call"
    check_weather(json.loads(streamed.arguments))
    assert "response.function_call_arguments.delta" in kinds
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "4 degrees"}
    onward = gpt.responses.create(
        model=model,
        input=[result],
        previous_response_id=whole.id,
        max_output_tokens=4,  # type: ignore[list-item]
    )
    assert onward.output_text


def test_a_schema_over_the_response(gpt: OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "weather", "schema": WEATHER, "strict": True}}
    check_weather(json.loads(gpt.responses.create(model="tiny", input="hello", text=form).output_text))


def test_log_probabilities_of_a_response(gpt: OpenAI) -> None:
    answer = gpt.responses.create(
        model="tiny", input="x", max_output_tokens=3, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    (message,) = answer.output
    assert message.type == "message"
    told = message.content[0].logprobs  # type: ignore[union-attr]
    assert told is not None and len(told) == 3 and all(len(token.top_logprobs) == 2 for token in told)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "c"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    ],
)
def test_what_a_response_cannot_have(gpt: OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        gpt.responses.create(model="tiny", input="x", extra_body=fields)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", param)


def test_errors_in_a_responses_stream(gpt: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as long:
        gpt.responses.create(model="tiny", input="ba " * 9000, stream=True)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "input")


# Neither


def test_reranking(house: House) -> None:
    documents = ["ba be", {"text": "ra ro"}, "du"]
    body = {
        "model": "acme/ranks",
        "query": "ba be",
        "documents": documents,
        "top_n": 2,
        "return_documents": True,
    }
    answer = house.json("POST", "/v1/rerank", body)
    scores = [result["relevance_score"] for result in answer["results"]]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    assert answer["usage"]["total_tokens"] > 0
    texts = ["ba be", "ra ro", "du"]
    assert all(result["document"]["text"] == texts[result["index"]] for result in answer["results"])
    status, _, fault = house.request("POST", "/v1/rerank", {**body, "model": "tiny"})
    assert (status, json.loads(fault)["error"]["code"]) == (400, "not_a_reranker")


def test_tokens_there_and_back(house: House) -> None:
    body = {"model": "tiny", "prompt": "ba be 你", "return_token_strs": True}
    cut = house.json("POST", "/v1/tokenize", body)
    assert cut["count"] == len(cut["tokens"]) == len(cut["token_strs"])
    assert cut["tokens"][0] == 1, "the token of the beginning comes first"
    bare = house.json(
        "POST", "/v1/tokenize", {"model": "tiny", "prompt": "ba be 你", "add_special_tokens": False}
    )
    assert bare["tokens"] == cut["tokens"][1:]
    back = house.json("POST", "/v1/detokenize", {"model": "tiny", "tokens": bare["tokens"]})
    assert back["prompt"].strip() == "ba be 你"
    same = house.json(
        "POST",
        "/v1/completions",
        {"model": "tiny", "prompt": cut["tokens"], "max_tokens": 2, "temperature": 0},
    )
    text = house.json(
        "POST", "/v1/completions", {"model": "tiny", "prompt": "ba be 你", "max_tokens": 2, "temperature": 0}
    )
    assert same["choices"][0]["text"] == text["choices"][0]["text"]


def test_dimensions_of_embeddings(gpt: OpenAI, house: House) -> None:
    whole = gpt.embeddings.create(model="tiny", input="ba be", dimensions=64)
    assert len(whole.data[0].embedding) == 64
    with pytest.raises(openai.BadRequestError) as fewer:
        gpt.embeddings.create(model="tiny", input="ba be", dimensions=32)
    assert (fewer.value.code, fewer.value.param) == ("unsupported_parameter", "dimensions")
    packed = house.json(
        "POST", "/v1/embeddings", {"model": "tiny", "input": "ba be", "encoding_format": "base64"}
    )
    assert len(struct.unpack("<64f", base64.b64decode(packed["data"][0]["embedding"]))) == 64
