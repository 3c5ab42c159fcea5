"""Tools with real engines: what has to be called is called, by models that know no better and by templates that know no tools."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from openai import OpenAI, RateLimitError

from tests.conftest import REPOSITORY
from tests.support.model_house import House, running_house
from tests.support.small_models import TOOLS_CHATML, write_llama

STARTER = REPOSITORY / "src/fust/app/starter/starter-q8_0.gguf"
STORIES = (
    Path(os.environ.get("FUST_SHARED", REPOSITORY.parent / "shared")) / "weights/stories260K-ctx4k-f32.gguf"
)
HELLO: list[Any] = [{"role": "user", "content": "How will the weather be in Oslo?"}]
SCHEMAS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"$ref": "#/$defs/city"},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
        "$defs": {"city": {"enum": ["Oslo", "Lima"]}},
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": name, "description": f"tells {name}", "parameters": schema, "strict": True},
    }
    for name, schema in SCHEMAS.items()
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("tools")
    models = folder / "models"
    write_llama(models / "acme/tools/tools.gguf", chat_template=TOOLS_CHATML, context=4096)
    for name, source in (("starter", STARTER), ("stories", STORIES)):
        if source.exists():
            (models / "acme" / name).mkdir(parents=True)
            shutil.copy(source, models / "acme" / name / f"{name}.gguf")
    with running_house(folder / "home", models, "serve.threads=1", "serve.slots=2") as house:
        yield house


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[OpenAI]:
    with OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module", params=["tools", "starter", "stories"])
def model(request: pytest.FixtureRequest, house: House) -> str:
    name = f"acme/{request.param}"
    if not (house.models / name).exists():
        pytest.skip(f"no real weights at {STORIES}")
    assert house.serve(name)["state"] == "ready"
    return name


def checked(name: str, arguments: str) -> None:
    jsonschema_rs.validate(SCHEMAS[name], json.loads(arguments))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_is_asked_for_comes(client: OpenAI, model: str, choice: Any) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "messages": HELLO,
        "tools": TOOLS,
        "tool_choice": choice,
        "max_tokens": 300,
    }
    for seed in range(3):
        (answer,) = client.chat.completions.create(**asked, seed=seed, temperature=1.5).choices
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        (call,) = answer.message.tool_calls or ()
        assert call.type == "function"
        assert choice == "required" or call.function.name == "weather"
        checked(call.function.name, call.function.arguments)
    with client.chat.completions.stream(**asked, seed=1) as stream:
        (streamed,) = stream.get_final_completion().choices
    assert streamed.finish_reason == "tool_calls"
    (same,) = streamed.message.tool_calls or ()
    checked(same.function.name, same.function.arguments)


def test_several_calls_and_several_choices(client: OpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "messages": HELLO, "tools": TOOLS, "tool_choice": "required"}
    answer = client.chat.completions.create(
        **asked, parallel_tool_calls=True, n=2, max_tokens=900, seed=1, temperature=0.7
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        calls = choice.message.tool_calls or ()
        assert calls or choice.finish_reason == "length"
        for call in calls if choice.finish_reason == "tool_calls" else ():
            assert call.type == "function"
            checked(call.function.name, call.function.arguments)
    one = client.chat.completions.create(**asked, parallel_tool_calls=False, max_tokens=300)
    assert len(one.choices[0].message.tool_calls or ()) == 1


def test_no_call_where_none_is_allowed(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=HELLO, tools=TOOLS, tool_choice="none", max_tokens=10
    )
    assert not answer.choices[0].message.tool_calls
    bare = client.chat.completions.create(model=model, messages=HELLO, max_tokens=1)
    assert answer.usage is not None and bare.usage is not None
    assert answer.usage.prompt_tokens == bare.usage.prompt_tokens, "the model hears of no tool"


def test_the_model_hears_of_tools_and_results(client: OpenAI, model: str) -> None:
    def tokens(**more: Any) -> int:
        usage = client.chat.completions.create(model=model, max_tokens=1, **more).usage
        assert usage is not None
        return usage.prompt_tokens

    bare = tokens(messages=HELLO)
    assert tokens(messages=HELLO, tools=TOOLS) > bare + 50
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    after = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "it is four in the afternoon"},
    ]
    assert tokens(messages=after) > bare + 15


def test_limits_over_http(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with running_house(tmp_path / "home", tmp_path / "models", "gateway.requests_per_minute=2") as house:
        body = {"model": "no/such", "messages": HELLO}
        status, headers, _ = house.request("POST", "/v1/chat/completions", body)
        assert status == 404 and headers["x-ratelimit-limit-requests"] == "2"
        assert headers["x-ratelimit-remaining-requests"] == "1"
        with OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
            client.models.list()
            house.request("POST", "/v1/messages", {**body, "max_tokens": 1})
            with pytest.raises(RateLimitError) as full:
                client.chat.completions.create(model="no/such", messages=HELLO)
        assert int(full.value.response.headers["retry-after"]) >= 1
        status, headers, answer = house.request("POST", "/v1/messages", {**body, "max_tokens": 1})
        assert status == 429 and json.loads(answer)["error"]["type"] == "rate_limit_error"
        assert headers["anthropic-ratelimit-requests-remaining"] == "0"
