"""The echo engine behind the API: what it answers is foretold, how it fails is too, and no failure outlives its request."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import openai
import psutil
import pytest
from anthropic import Anthropic
from openai import OpenAI

from fust.core.errors import InvalidInput
from fust.serve.engines.echo import MISBEHAVIOUR, read_turns
from fust.serve.engines.echo_schema import instance_of
from fust.serve.engines.echo_words import bytes_of, pieces_of, text_of, tokens_of
from tests.support.model_house import House, running_house

SAY: list[Any] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "Say 你好 🦊, please."},
]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 2},
        "at": {"$ref": "#/$defs/place"},
    },
    "required": ["city", "days", "at"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("echo")
    (folder / "models").mkdir()
    with running_house(folder / "home", folder / "models", "serve.context=3000000") as house:
        serve(house, "parrot", alias="polly")
        yield house


@pytest.fixture(scope="module")
def gpt(house: House) -> Iterator[OpenAI]:
    with OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
        yield client


def serve(house: House, name: str, *misbehave: str, **more: Any) -> dict[str, Any]:
    body = {"name": name, "engine": "echo", "options": {"misbehave": list(misbehave)}, **more}
    return house.settled(house.json("POST", "/fust/v1/deployments", body)["id"])


def streamed(client: OpenAI, model: str, **more: Any) -> str:
    chunks = client.chat.completions.create(model=model, messages=SAY, stream=True, **more)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_tokens_are_whole_and_come_back() -> None:
    for text in ("", "abcdefg", "你好 🦊!", "é", "\x00\n"):
        assert text_of(tokens_of(text)) == text
        assert "".join(pieces_of(tokens_of(text))) == text
    assert [bytes_of(token) for token in tokens_of("ab你")] == [b"ab", "你".encode()]
    assert text_of([2**31 - 1, 0]).encode()  # numbers that are no tokens break nothing


def test_an_instance_fits_its_schema() -> None:
    schemas: list[dict[str, Any]] = [
        WEATHER,
        {"type": "array", "items": {"type": "string", "minLength": 9}, "minItems": 2},
        {"anyOf": [{"type": "number", "exclusiveMinimum": 3, "maximum": 3.5}, {"type": "null"}]},
        {"type": "integer", "maximum": -3, "multipleOf": 5},
        {"allOf": [{"type": "object", "properties": {"a": {"const": 1}}}, {"required": ["a"]}]},
        {"type": ["string", "null"], "maxLength": 2},
        {"type": "object", "properties": {"n": {"$ref": "#"}}},
        {"type": "array", "prefixItems": [{"type": "boolean"}], "items": {"type": "integer"}, "minItems": 3},
    ]
    for schema in schemas:
        jsonschema_rs.validate(schema, instance_of(schema))
    assert instance_of({"$ref": "#"}) is None  # a reference to itself comes to an end


def test_chat_streams_what_it_answers(gpt: OpenAI) -> None:
    whole = gpt.chat.completions.create(model="parrot", messages=SAY)
    assert whole.choices[0].message.content == "Say 你好 🦊, please."
    assert whole.model == "parrot"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len(tokens_of("Say 你好 🦊, please."))
    assert streamed(gpt, "polly") == whole.choices[0].message.content
    last = list(
        gpt.chat.completions.create(
            model="parrot", messages=SAY, stream=True, stream_options={"include_usage": True}
        )
    )[-1]
    assert last.usage == whole.usage
    cut = gpt.chat.completions.create(model="parrot", messages=SAY, max_tokens=1)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("Say", "length")
    assert streamed(gpt, "parrot", stop=[" 你"]) == "Say"
    two = gpt.chat.completions.create(model="parrot", messages=SAY, n=2, logprobs=True, top_logprobs=1)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.choices[1].logprobs is not None and two.choices[1].logprobs.content[0].logprob == 0  # type: ignore[index]


@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "weather"}}]
)
def test_tools_are_called_with_arguments_that_fit(gpt: OpenAI, choice: Any) -> None:
    asked: dict[str, Any] = {
        "model": "parrot", "tools": [TOOL], "tool_choice": choice,
        "messages": [{"role": "user", "content": "the weather"}],
    }  # fmt: skip
    whole = gpt.chat.completions.create(**asked)
    assert whole.choices[0].finish_reason == "tool_calls"
    (call,) = whole.choices[0].message.tool_calls or ()
    wanted = {"city": "Oslo", "days": 2, "at": {"x": 0}}
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", wanted)  # type: ignore[union-attr]
    with gpt.chat.completions.stream(**asked) as stream:
        (streamed_call,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert json.loads(streamed_call.function.arguments) == wanted
    told = [
        *asked["messages"],
        whole.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    after = gpt.chat.completions.create(model="parrot", tools=[TOOL], messages=told)
    assert after.choices[0].message.content == "rain"
    none = gpt.chat.completions.create(**{**asked, "tool_choice": "none"})
    assert none.choices[0].message.content == "the weather"


def test_the_other_routes(house: House, gpt: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER, "strict": True}}
    made = gpt.chat.completions.create(model="parrot", messages=SAY, response_format=form)  # type: ignore[arg-type]
    assert json.loads(made.choices[0].message.content or "")["days"] == 2
    assert gpt.completions.create(model="parrot", prompt="ba").choices[0].text == "ba"
    assert gpt.completions.create(model="parrot", prompt=tokens_of("ba be")).choices[0].text == "ba be"
    one, same, other = gpt.embeddings.create(model="parrot", input=["a", "a", "b"]).data
    assert one.embedding == same.embedding != other.embedding
    assert math.isclose(sum(x * x for x in one.embedding), 1, abs_tol=1e-6)
    response = gpt.responses.create(model="parrot", input="Hello!")
    assert response.output_text == "Hello!"
    with Anthropic(base_url=house.url, api_key=house.token, max_retries=0) as claude:
        hello: Any = [{"role": "user", "content": "Hello!"}]
        assert (
            claude.messages.create(model="parrot", max_tokens=9, messages=hello).content[0].text == "Hello!"
        )  # type: ignore[union-attr]
        assert claude.messages.count_tokens(model="parrot", messages=hello).input_tokens == 3
    ranked = house.json(
        "POST", "/v1/rerank", {"model": "parrot", "query": "red fox", "documents": ["a hen", "a red fox"]}
    )
    assert [(r["index"], r["relevance_score"]) for r in ranked["results"]] == [(1, 1.0), (0, 0.0)]
    tokens = house.json("POST", "/v1/tokenize", {"model": "parrot", "prompt": "你好!"})["tokens"]
    assert house.json("POST", "/v1/detokenize", {"model": "parrot", "tokens": tokens})["prompt"] == "你好!"
    status, _, raw = house.request(
        "POST",
        "/v1/completions",
        {"model": "parrot", "prompt": "a", "max_tokens": 0, "echo": True, "logprobs": 1},
    )
    assert (status, json.loads(raw)["error"]["code"]) == (501, "not_offered_by_engine")
    (listed,) = [m for m in house.json("GET", "/fust/v1/deployments")["items"] if m["name"] == "parrot"]
    assert (listed["engine"], listed["repo_id"], listed["state"], listed["private"]) == (
        "echo",
        "",
        "ready",
        False,
    )


def test_names_belong_to_those_who_may_give_them(house: House) -> None:
    def asked(body: dict[str, Any], **more: Any) -> tuple[int, str]:
        status, _, raw = house.request("POST", "/fust/v1/deployments", {"engine": "echo", **body}, **more)
        return status, json.loads(raw).get("code", "")

    writer = house.tokens["tiny only"]
    assert asked({"name": "free"}, token=writer) == (403, "denied")
    assert asked({"name": "admin/mine"}, token=writer)[0] == 403
    assert asked({"name": "no good!"})[0] == 400
    assert asked({"name": "x", "options": {"misbehave": ["nonsense"]}})[0] == 400
    assert asked({"name": "x", "options": {"colour": 1}})[0] == 400
    assert asked({"name": "x", "repo_id": "a/b"})[0] == 400
    assert asked({"name": "x", "engine": "llamacpp"})[0] == 400
    mine = serve(house, "admin/mine")
    assert mine["private"] is True
    body = {"model": "admin/mine", "messages": SAY}
    assert house.request("POST", "/v1/chat/completions", body, token=house.reader)[0] == 404
    assert house.request("POST", "/v1/chat/completions", body)[0] == 200
    assert (
        house.request("POST", "/v1/chat/completions", {**body, "model": "parrot"}, token=house.reader)[0]
        == 200
    )
    assert house.request("DELETE", f"/fust/v1/deployments/{mine['id']}", token=house.reader)[0] in (403, 404)
    house.json("DELETE", f"/fust/v1/deployments/{mine['id']}")


def test_turns_are_read() -> None:
    assert [(turn.name, turn.seconds) for turn in read_turns(["slow:0.5", "429", "ok"])] == [
        ("slow", 0.5),
        ("429", 1.0),
        ("ok", 0.0),
    ]
    for wrong in ("", "slow:", "slow:-1", "ok:1", "slow:nan", "SLOW"):
        with pytest.raises(InvalidInput, match="no misbehaviour"):
            read_turns([wrong])


# What a client sees of each misbehaviour; docs/test-your-client.md says the same


def test_every_misbehaviour_reaches_the_client_as_the_documents_say(house: House) -> None:
    page = (Path(__file__).parents[2] / "docs" / "test-your-client.md").read_text()
    assert [name for name in MISBEHAVIOUR if f"| `{name}" not in page] == []


def test_slow_stalled_and_huge_answers_arrive(house: House, gpt: OpenAI) -> None:
    serve(house, "late", "slow:0.3", "stall:0.3", "slow:0.3", "stall:0.3", "huge")
    for _ in range(2):
        began = time.monotonic()
        assert streamed(gpt, "late") == "Say 你好 🦊, please."
        assert time.monotonic() - began > 0.3
    for _ in range(2):
        began = time.monotonic()
        assert gpt.chat.completions.create(model="late", messages=SAY).choices[0].message.content
        assert time.monotonic() - began > 0.3
    assert (
        len(gpt.chat.completions.create(model="late", messages=SAY).choices[0].message.content or "")
        > 4 << 20
    )


def test_errors_keep_their_meaning(house: House, gpt: OpenAI) -> None:
    serve(house, "sick", "429:3", "500", "ok")
    with pytest.raises(openai.RateLimitError) as busy:
        gpt.chat.completions.create(model="sick", messages=SAY)
    assert (busy.value.response.headers["retry-after"], busy.value.code) == ("3", "engine_busy")
    with pytest.raises(openai.APIStatusError) as broken:
        streamed(gpt, "sick")
    assert broken.value.status_code == 502
    assert streamed(gpt, "sick")
    retrying = gpt.with_options(max_retries=2)
    serve(house, "sick", "429:0.1", "500", "ok")
    assert retrying.chat.completions.create(model="sick", messages=SAY).choices[0].message.content


@pytest.mark.parametrize("how", ["garbage", "type", "cut"])
def test_nonsense_never_passes_for_an_answer(house: House, gpt: OpenAI, how: str) -> None:
    serve(house, "mad", how)
    with pytest.raises(openai.APIError) as whole:
        gpt.chat.completions.create(model="mad", messages=SAY)
    assert isinstance(whole.value, openai.APIStatusError) and whole.value.status_code == 502
    with pytest.raises(openai.APIError):
        streamed(gpt, "mad")
    with pytest.raises(openai.APIError):
        gpt.embeddings.create(model="mad", input="a")
    with pytest.raises(openai.APIError):
        gpt.chat.completions.create(model="mad", messages=SAY, n=2)


def test_bytes_that_are_no_text_break_nothing(house: House) -> None:
    serve(house, "torn", "utf8")
    for stream in (True, False):
        body = {"model": "torn", "messages": SAY, "stream": stream}
        status, _, raw = house.request("POST", "/v1/chat/completions", body)
        assert (status, raw.count(b"\xff")) in ((200, 1), (502, 0))
    assert house.json("GET", "/v1/models")["data"]


def open_stream(house: House, model: str) -> socket.socket:
    host, port = house.url.removeprefix("http://").split(":")
    sock = socket.create_connection((host, int(port)), timeout=20)
    body = json.dumps({"model": model, "messages": SAY, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.token}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    return sock


@pytest.mark.faults
def test_64_clients_that_leave_in_the_middle_leave_nothing_behind(house: House, gpt: OpenAI) -> None:
    deployment = serve(house, "tireless", *["endless"] * 64, "ok")
    (pid,) = [p for p in house.engine_pids() if any("echo_child" in a for a in psutil.Process(p).cmdline())][
        -1:
    ]
    socks = [open_stream(house, "tireless") for _ in range(64)]
    for sock in socks:
        assert b"200" in sock.recv(64)
    for sock in socks:
        sock.close()
    deadline = time.monotonic() + 10

    def open_to_engines() -> int:
        engines = {psutil.Process(p).net_connections()[0].laddr.port for p in house.engine_pids()}
        server = psutil.Process(house.process.pid)
        return sum(
            1
            for c in server.net_connections()
            if c.status == "ESTABLISHED" and c.raddr and c.raddr.port in engines
        )

    while open_to_engines() > 4 and time.monotonic() < deadline:  # those of the pool may stay
        time.sleep(0.05)
    assert open_to_engines() <= 4
    assert streamed(gpt, "tireless")
    assert psutil.pid_exists(pid)
    house.json("DELETE", f"/fust/v1/deployments/{deployment['id']}")


@pytest.mark.faults
def test_an_engine_that_dies_or_hangs_is_started_again(house: House, gpt: OpenAI) -> None:
    serve(house, "mortal", "ok", "die")
    assert streamed(gpt, "mortal")
    with pytest.raises(openai.APIError):
        streamed(gpt, "mortal")
    assert streamed(gpt.with_options(timeout=20), "mortal")
    serve(house, "frozen", "ok", "hang")
    assert streamed(gpt, "frozen")
    pids = set(house.engine_pids())
    assert streamed(
        gpt.with_options(timeout=60), "frozen"
    )  # nothing was said yet, so the next engine answers
    assert set(house.engine_pids()) != pids
