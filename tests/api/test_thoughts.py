"""A model that thinks: its thoughts stand apart from its answer in each API, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.support.engines_house import SHAPE
from tests.support.hf_models import causal_model
from tests.support.model_house import House, running_house
from tests.support.small_models import write_llama

OPENS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>\n{{ message.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""Opens the thought in the prompt, as Qwen's and DeepSeek's templates do; small random models never close it."""
ENGINES = ("llamacpp", "transformers")
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root: Path = tmp_path_factory.mktemp("thoughts")
    write_llama(root / "models/acme/llamacpp/small.gguf", chat_template=OPENS)
    causal_model(root / "models/acme/transformers", "Qwen3", tie_word_embeddings=False, **SHAPE)
    (root / "models/acme/transformers/chat_template.jinja").write_text(OPENS)
    with running_house(root / "home", root / "models", "serve.threads=1") as house:
        for engine in ENGINES:
            made = house.json("POST", "/fust/v1/deployments", {"repo_id": f"acme/{engine}", "engine": engine, "alias": engine})  # fmt: skip
            assert house.settled(made["id"], 60)["state"] == "ready"
        yield house


@pytest.mark.parametrize("engine", ENGINES)
def test_thoughts_stand_apart_in_each_api(house: House, engine: str) -> None:
    with OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as gpt:
        asked: dict[str, Any] = {"model": engine, "messages": HELLO, "max_tokens": 8, "temperature": 0}
        message = gpt.chat.completions.create(**asked).choices[0].message.model_dump()
        thought = message["reasoning_content"]
        assert thought and not message["content"]
        deltas = [it.choices[0].delta.model_dump() for it in gpt.chat.completions.create(**asked, stream=True) if it.choices]  # fmt: skip
        assert "".join(it.get("reasoning_content") or "" for it in deltas).strip() == thought.strip()
        assert not any(it.get("content") for it in deltas)
        response = gpt.responses.create(model=engine, input="hello", max_output_tokens=8, temperature=0)
        assert response.usage and 0 < response.usage.output_tokens_details.reasoning_tokens <= 8
        (item,) = response.output
        assert item.type == "reasoning" and item.content and item.content[0].text.strip() == thought.strip()
        events = list(gpt.responses.create(model=engine, input="hello", max_output_tokens=8, temperature=0, stream=True))  # fmt: skip
        told = "".join(it.delta for it in events if it.type == "response.reasoning_text.delta")
        assert told.strip() == thought.strip()
        assert events[-1].type == "response.incomplete"  # eight tokens are not enough for it
        assert events[-1].response.usage == response.usage
        back: list[Any] = [
            *HELLO,
            {"role": "assistant", "content": "ba", "reasoning_content": thought},
            *HELLO,
        ]
        assert gpt.chat.completions.create(**{**asked, "messages": back}).choices
    with Anthropic(base_url=house.url, api_key=house.token, max_retries=0) as claude:
        words: dict[str, Any] = {"model": engine, "max_tokens": 8, "extra_body": {"temperature": 0}}
        (block,) = claude.messages.create(**words, messages=HELLO).content
        assert block.type == "thinking" and block.thinking.strip() == thought.strip()
        with claude.messages.stream(**words, messages=HELLO) as stream:
            (streamed,) = stream.get_final_message().content
        assert streamed.type == "thinking" and streamed.thinking.strip() == thought.strip()
        turns: list[Any] = [*HELLO, {"role": "assistant", "content": [block, {"type": "text", "text": "ba"}]}, *HELLO]  # fmt: skip
        assert claude.messages.create(**words, messages=turns).content
