"""`echo` of plain completions: prompts come back with their own log-probabilities, as evaluation harnesses read them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from fust.serve.engines.scorer import Scorer
from fust.wire.openai import MAX_PROMPTS
from tests.support.model_house import House, running_house
from tests.support.small_models import write_llama

WORDS = "ba be bi ban ber"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("scoring")
    write_llama(root / "models/acme/chat/chat.gguf", context=512)
    write_llama(root / "models/acme/large/large.gguf", layers=8, width=512, feed_forward=1024, context=4096)
    with running_house(root / "home", root / "models", "serve.threads=1") as house:
        house.serve("acme/chat")
        house.serve("acme/large")
        yield house


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, prompt: Any, **more: Any) -> Any:
    given = {"max_tokens": 0, "temperature": 0, "logprobs": 1, "echo": True, **more}
    return client.completions.create(model="acme/chat", prompt=prompt, **given)


def test_a_prompt_comes_back_with_the_probability_of_each_token(client: openai.OpenAI) -> None:
    answer = ask(client, WORDS, logprobs=3)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, choice.index) == (WORDS, "length", 0)
    found = choice.logprobs
    count = len(found.tokens)
    assert count == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset) > 5
    assert found.tokens[0] == "<s>" and found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert all(value < 0 for value in found.token_logprobs[1:])
    assert all(len(place) == 3 for place in found.top_logprobs[1:])
    ends = [*found.text_offset[1:], len(WORDS)]
    shown = [WORDS[start:end] for start, end in zip(found.text_offset, ends, strict=True)]
    assert "".join(shown) == WORDS and shown[3:] == found.tokens[3:]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (count, 0)


def test_what_the_model_wrote_has_the_probability_it_was_written_with(
    house: House, client: openai.OpenAI
) -> None:
    written = client.completions.create(
        model="acme/chat", prompt=WORDS, max_tokens=12, temperature=0, logprobs=1
    ).choices[0]
    scorer = Scorer(house.models / "acme/chat/chat.gguf", 512, 1)
    ids = {scorer.piece(token).decode(): token for token in range(259, scorer.vocabulary)}
    prompt = scorer.tokenize(WORDS) + [ids[token] for token in written.logprobs.tokens]
    whole = ask(client, prompt).choices[0].logprobs
    told = written.logprobs.token_logprobs
    again = whole.token_logprobs[-len(told) :]
    assert whole.tokens[-len(told) :] == written.logprobs.tokens
    assert again == pytest.approx(told, abs=3e-2)  # the engine that writes keeps 16-bit keys and values
    greedy = [max(place.values()) for place in whole.top_logprobs[-len(told) :]]
    assert again == pytest.approx(greedy, abs=3e-2)


def test_token_ids_as_lm_eval_sends_them(client: openai.OpenAI) -> None:
    rows = [[1, 300, 301, 302, 310], [1, 300, 301, 302, 311, 312], [1, 320]]
    answer = ask(client, rows, max_tokens=1, seed=1234)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for row, choice in zip(rows, answer.choices, strict=True):
        found = choice.logprobs
        assert len(found.token_logprobs) == len(row) + 1  # the harness leaves the last one out
        assert found.token_logprobs[-1] == max(found.top_logprobs[-1].values())
        for value, place in zip(found.token_logprobs[1:], found.top_logprobs[1:], strict=True):
            assert value <= max(place.values())
    alone = [ask(client, row, max_tokens=1).choices[0].logprobs.token_logprobs for row in rows]
    for choice, values in zip(answer.choices, alone, strict=True):
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(values[1:], abs=1e-4)


def test_more_than_one_token_is_written_by_the_engine_that_writes(client: openai.OpenAI) -> None:
    plain = client.completions.create(
        model="acme/chat", prompt=WORDS, max_tokens=5, temperature=0, logprobs=1
    )
    answer = ask(client, WORDS, max_tokens=5, n=2)
    for choice in answer.choices:
        assert choice.text == WORDS + plain.choices[0].text
        assert choice.logprobs.tokens[-5:] == plain.choices[0].logprobs.tokens
        assert choice.logprobs.text_offset[-5] == len(WORDS)
    assert answer.usage.completion_tokens == 10
    bare = ask(client, WORDS, max_tokens=5, logprobs=None).choices[0]
    assert bare.text == WORDS + plain.choices[0].text and bare.logprobs is None


def test_the_beginning_may_go_without_log_probabilities(client: openai.OpenAI) -> None:
    """`logprob_start_len`, one for all prompts or one for each: what is told is what is told without it."""
    rows = [[1, 300, 301, 302, 310], [1, 300, 301, 302, 311, 312], [1, 320]]
    whole = [choice.logprobs for choice in ask(client, rows, logprobs=2).choices]
    for starts in (2, [0, 5, 1], [5, 6, 2]):
        told = ask(client, rows, logprobs=2, extra_body={"logprob_start_len": starts}).choices
        for i, (choice, known) in enumerate(zip(told, whole, strict=True)):
            start = max(1, starts if isinstance(starts, int) else starts[i])
            assert (choice.logprobs.tokens, choice.logprobs.text_offset) == (known.tokens, known.text_offset)
            likely = choice.logprobs.token_logprobs
            assert likely[:start] == choice.logprobs.top_logprobs[:start] == [None] * start
            assert likely[start:] == pytest.approx(known.token_logprobs[start:], abs=1e-4)
            assert None not in choice.logprobs.top_logprobs[start:]
    written = ask(client, WORDS, max_tokens=3, extra_body={"logprob_start_len": 4}).choices[0].logprobs
    assert written.token_logprobs[:4] == [None] * 4 and None not in written.token_logprobs[4:]


@pytest.mark.parametrize(
    ("prompt", "more", "said", "in_chinese"),
    [
        (WORDS, {"logprob_start_len": 99}, r"more than the \d+ tokens of the prompt", r"超过了提示的 \d+ 个"),
        ([1, 300], {"logprob_start_len": 3}, "more than the 2 tokens of the prompt", "超过了提示的 2 个"),
        (WORDS, {"logprob_start_len": 1, "echo": False}, "needs echo and logprobs", "一起使用"),
        (WORDS, {"logprob_start_len": [1, 2]}, "has 2 numbers, and there are 1 prompts", "有 2 个数"),
        (WORDS, {"logprob_start_len": -1}, "value that is not allowed", "的值不被允许"),
    ],
)
def test_a_start_that_cannot_be_is_refused_in_both_languages(
    client: openai.OpenAI, prompt: Any, more: dict[str, Any], said: str, in_chinese: str
) -> None:
    for language, words in (("en", said), ("zh", in_chinese)):
        with pytest.raises(openai.BadRequestError, match=words) as error:
            ask(client, prompt, max_tokens=1, extra_body=more, extra_headers={"Accept-Language": language})
        assert error.value.param == "logprob_start_len"


def test_as_many_prompts_are_scored_as_a_completion_takes(client: openai.OpenAI) -> None:
    answer = ask(client, [[1, 300]] * MAX_PROMPTS)
    likely = {choice.logprobs.token_logprobs[1] for choice in answer.choices}
    assert len(answer.choices) == MAX_PROMPTS and max(likely) - min(likely) < 1e-4


def test_without_echo_zero_tokens_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens") as error:
        client.completions.create(model="acme/chat", prompt=WORDS, max_tokens=0)
    assert error.value.param == "max_tokens"


def test_what_cannot_be_scored_says_why(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="700 tokens") as error:
        ask(client, [300] * 700)
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="no token 640"):
        ask(client, [1, 640])
    with pytest.raises(openai.BadRequestError, match="echo and stream"):
        ask(client, WORDS, stream=True)


def scorer_pid(house: House) -> int:
    found = [pid for pid in house.engine_pids() if "scorer_child" in " ".join(psutil.Process(pid).cmdline())]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.faults
def test_a_killed_scorer_is_made_anew_and_chat_goes_on(house: House, client: openai.OpenAI) -> None:
    before = ask(client, WORDS).choices[0].logprobs.token_logprobs
    for _ in range(5):  # more often than a writing engine may die
        os.kill(scorer_pid(house), signal.SIGKILL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                assert ask(client, WORDS).choices[0].logprobs.token_logprobs == before
                break
            except openai.InternalServerError:  # it died while it was asked
                time.sleep(0.1)
        else:
            raise AssertionError("the scorer did not come back")
        assert client.completions.create(model="acme/chat", prompt=WORDS, max_tokens=2).choices[0].text
    states = {d["name"]: d["state"] for d in house.json("GET", "/fust/v1/deployments")["items"]}
    assert states["acme/chat"] == "ready"


@pytest.mark.faults
def test_a_client_that_leaves_frees_the_scorer(house: House) -> None:
    body = {
        "model": "acme/large",
        "prompt": [[300 + i % 300, *[300] * 3500] for i in range(64)],
        "max_tokens": 0,
    }
    body |= {"echo": True, "logprobs": 1}
    house.json("POST", "/v1/completions", {**body, "prompt": [1, 300]})

    def leave() -> None:
        import http.client

        connection = http.client.HTTPConnection(house.url.removeprefix("http://"), timeout=1.0)
        connection.request(
            "POST", "/v1/completions", json.dumps(body), {"authorization": f"Bearer {house.token}"}
        )
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    began = time.monotonic()
    house.json("POST", "/v1/completions", {**body, "prompt": [1, 301]})
    # 64 rows of 3,501 tokens take minutes here; one batch of 512 may still have to end.
    assert time.monotonic() - began < 30


def test_a_reader_of_another_model_only_is_told_nothing(house: House) -> None:
    status, _, _ = house.request(
        "POST",
        "/v1/completions",
        {"model": "acme/chat", "prompt": "ba", "echo": True, "max_tokens": 0},
        token=house.tokens["tiny only"],
    )
    assert status == 404


def test_deployments_say_that_another_engine_scores(house: House, client: openai.OpenAI) -> None:
    ask(client, WORDS)
    found = next(d for d in house.json("GET", "/fust/v1/deployments")["items"] if d["name"] == "acme/chat")
    assert any("log-likelihoods" in line for line in found["why"])
    assert Path(house.home / "log" / f"engine-{found['id']}-score.log").exists()
