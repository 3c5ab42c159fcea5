"""The transformers engine behind the API, with the clients that people use: every claim of it has a test here."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

torch = pytest.importorskip("torch", reason="the transformers engine is an extra")

from fust.serve.engines.kinds import get_kind  # noqa: E402
from tests.support.hf_models import PROBE, bert_model, causal_model  # noqa: E402
from tests.support.leaving import leave_midstream, wait_until_idle  # noqa: E402
from tests.support.model_house import House, running_house  # noqa: E402
from tests.support.small_models import write_llama  # noqa: E402

SHAPE = {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}
HELLO: Any = [{"role": "user", "content": "你好, the cat"}]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "c": {"enum": ["a", "b"]}},
    "required": ["n", "c"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("transformers")
    models = root / "models/acme"
    causal_model(models / "words", "Qwen3", **SHAPE)
    bert_model(models / "vectors", pooling="cls_token")
    bert_model(models / "ranks", classes=1)
    bert_model(models / "classes", classes=3)
    other = (
        root / "modules/xllamacpp-1999.1.1.dist-info"
    )  # a wheel whose C structures the scorer does not know
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: xllamacpp\nVersion: 1999.1.1\n")
    flags = ("serve.threads=1", "serve.context=512")
    with running_house(root / "home", root / "models", *flags, modules=other.parent) as house:
        found = [
            house.json(
                "POST", "/fust/v1/deployments", {"repo_id": f"acme/{p.name}", "engine": "transformers"}
            )
            for p in models.iterdir()
        ]
        for deployment in found:
            ready = house.settled(deployment["id"], 120)
            assert (ready["state"], ready["engine"]) == ("ready", "transformers"), ready
        yield house


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def plain(house: House) -> Any:
    """The same model in this process, by transformers alone."""
    import transformers

    folder = house.models / "acme/words"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def chat(client: openai.OpenAI, **more: Any) -> Any:
    given = {"model": "acme/words", "messages": HELLO, "max_tokens": 12, "temperature": 0, **more}
    return client.chat.completions.create(**given)


def written(plain: Any, text: str, count: int) -> str:
    model, tokenizer = plain
    ids = tokenizer.encode(text, return_tensors="pt")
    out = model.generate(ids, max_new_tokens=count, do_sample=False)[0][ids.shape[1] :]
    return tokenizer.decode(out, skip_special_tokens=True)


def test_why_it_was_chosen(house: House) -> None:
    (found,) = [d for d in house.json("GET", "/fust/v1/deployments")["items"] if d["name"] == "acme/words"]
    assert found["why"][0] == "model.safetensors is the only model file."
    assert found["why"][1].startswith("Engine transformers: it serves safetensors")


def test_a_chat_says_what_transformers_says(client: openai.OpenAI, plain: Any) -> None:
    answer = chat(client)
    prompt = plain[1].apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)
    assert answer.choices[0].message.content == written(plain, prompt, 12)
    assert (answer.model, answer.choices[0].finish_reason) == ("acme/words", "length")
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == len(plain[1].encode(prompt, add_special_tokens=False))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = chat(client).choices[0].message.content
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 12 and chunks[-2].choices[0].finish_reason == "length"


def test_many_at_once_say_what_each_says_alone(client: openai.OpenAI) -> None:
    alone = [
        client.completions.create(model="acme/words", prompt=text, max_tokens=20, temperature=0)
        for text in PROBE
    ]
    found: dict[int, str] = {}

    def ask(i: int) -> None:
        answer = client.completions.create(
            model="acme/words", prompt=PROBE[i % 6], max_tokens=20, temperature=0
        )
        found[i] = answer.choices[0].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: alone[i % 6].choices[0].text for i in range(18)}


def test_completions_with_log_probabilities(client: openai.OpenAI, plain: Any) -> None:
    answer = client.completions.create(
        model="acme/words", prompt=PROBE[0], max_tokens=8, temperature=0, logprobs=3
    )
    found = answer.choices[0].logprobs
    assert found is not None and found.tokens and found.token_logprobs and found.top_logprobs
    model, tokenizer = plain
    ids = tokenizer.encode(PROBE[0])
    with torch.inference_mode():
        for told, top in zip(found.token_logprobs, found.top_logprobs, strict=True):
            line = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            assert told == pytest.approx(float(line.max()), abs=1e-4) == max(top.values())
            assert len(top) == 3
            ids.append(int(line.argmax()))
    chatted = chat(client, max_tokens=3, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(chatted) == 3 and all(len(token.top_logprobs) == 2 for token in chatted)
    assert all(bytes(token.bytes).decode("utf-8", "replace") == token.token for token in chatted)


def test_the_prompts_own_log_probabilities_are_exact(client: openai.OpenAI, plain: Any) -> None:
    """`echo`, as lm-eval asks: equal to a plain pass in 32 bits."""
    model, tokenizer = plain
    rows = [tokenizer.encode(text) for text in PROBE]
    answer = client.completions.create(model="acme/words", prompt=rows, max_tokens=1, temperature=0, logprobs=1, echo=True)  # fmt: skip
    worst = 0.0
    for row, choice in zip(rows, answer.choices, strict=True):
        with torch.inference_mode():
            lines = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
        wanted = [float(lines[i - 1, row[i]]) for i in range(1, len(row))] + [float(lines[-1].max())]
        told = choice.logprobs.token_logprobs
        assert told[0] is None and len(told) == len(row) + 1
        worst = max(worst, *(abs(a - b) for a, b in zip(told[1:], wanted, strict=True)))
    assert worst <= 1e-4


def test_gguf_that_cannot_be_scored_is_scored_from_the_same_repos_safetensors(
    house: House, client: openai.OpenAI
) -> None:
    folder = copy_of(house, "both")
    write_llama(folder / "chat.gguf", context=512)
    write_llama(house.models / "acme/alone/chat.gguf", context=512)
    assert house.serve("acme/both")["engine"] == house.serve("acme/alone")["engine"] == "llamacpp"

    def score(name: str) -> Any:
        return client.completions.create(model=name, prompt=PROBE[:2], max_tokens=0, logprobs=1, echo=True)

    pairs = zip(score("acme/both").choices, score("acme/words").choices, strict=True)
    for one, same in pairs:
        assert one.logprobs.token_logprobs[1:] == pytest.approx(same.logprobs.token_logprobs[1:], abs=1e-4)
    with pytest.raises(openai.APIStatusError, match=r"cannot give log-likelihoods here.*1999\.1\.1") as error:
        score("acme/alone")
    assert error.value.status_code == 501
    (found,) = [d for d in house.json("GET", "/fust/v1/deployments")["items"] if d["name"] == "acme/both"]
    assert found["state"] == "ready" and any(
        "transformers scores model.safetensors" in why for why in found["why"]
    )


def test_a_schema_is_kept(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    for seed in range(3):
        answer = chat(client, response_format=form, temperature=1.5, seed=seed, max_tokens=60).choices[0]
        value = json.loads(answer.message.content)
        assert set(value) == {"n", "c"} and 0 <= value["n"] <= 99 and answer.finish_reason == "stop"
    any_object = chat(
        client, response_format={"type": "json_object"}, max_tokens=3, extra_body={"logit_bias": {}}
    )
    assert any_object.choices[0].message.content.startswith("{")
    word = client.completions.create(model="acme/words", prompt="x", max_tokens=9, extra_body={"grammar": 'root ::= "yes" | "no"'})  # fmt: skip
    assert word.choices[0].text in ("yes", "no")
    with pytest.raises(openai.BadRequestError):
        chat(client, extra_body={"grammar": "root ::= missing"})


def test_a_tool_is_called_when_it_must_be(client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "count", "parameters": SCHEMA}}
    answer = chat(client, tools=[tool], tool_choice="required", max_tokens=100).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert call.function.name == "count" and set(json.loads(call.function.arguments)) == {"n", "c"}


def test_sampling_is_honoured(client: openai.OpenAI) -> None:
    def say(**more: Any) -> str:
        return chat(client, temperature=1, **more).choices[0].message.content

    assert say(seed=3) == say(seed=3) != say(seed=4)
    assert say(top_p=0.0001) == say(extra_body={"top_k": 1}) == say(extra_body={"min_p": 1}) == chat(client).choices[0].message.content  # fmt: skip
    many = chat(client, temperature=1, n=3, seed=5)
    assert len({choice.message.content for choice in many.choices}) == 3
    assert [choice.index for choice in many.choices] == [0, 1, 2] and many.usage.completion_tokens == 36
    bound = chat(client, logit_bias={"300": 100}, logprobs=True).choices[0].logprobs.content
    assert len({token.token for token in bound}) == 1
    free = chat(client, logit_bias={"300": 100}, frequency_penalty=2, logprobs=True, max_tokens=80).choices[0]
    assert len({token.token for token in free.logprobs.content}) > 1


def test_stop_words(client: openai.OpenAI) -> None:
    text = chat(client, max_tokens=20).choices[0].message.content
    word = text[len(text) // 2 :][:2]
    cut = chat(client, max_tokens=20, stop=["never ever", word]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (text[: text.index(word)], "stop")
    streamed = chat(client, max_tokens=20, stop=word, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == text[: text.index(word)]


def test_what_is_too_long_is_refused_with_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError, match="600 tokens, and the context of acme/words holds 512"
    ) as error:
        client.completions.create(model="acme/words", prompt=[5] * 600)
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError, match="context of acme/vectors holds 64"):
        client.embeddings.create(model="acme/vectors", input=PROBE[0] * 9)
    filled = client.completions.create(model="acme/words", prompt=[5] * 506, temperature=0, extra_body={"ignore_eos": True})  # fmt: skip
    assert (filled.choices[0].finish_reason, filled.usage.completion_tokens) == ("length", 6)


@pytest.mark.parametrize("field", ["mirostat", "dry_multiplier", "xtc_probability", "dynatemp_range"])
def test_a_field_that_the_engine_lacks_is_named(client: openai.OpenAI, field: str) -> None:
    with pytest.raises(
        openai.BadRequestError, match=f"{field} is not offered by the engine transformers"
    ) as error:
        chat(client, extra_body={field: 1})
    assert (error.value.code, error.value.param) == ("unsupported_parameter", field)


def test_embeddings(client: openai.OpenAI, house: House) -> None:
    import transformers

    folder = house.models / "acme/vectors"
    model, tokenizer = (
        transformers.AutoModel.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    texts = [text[:30] for text in PROBE]
    found = client.embeddings.create(model="acme/vectors", input=texts)
    assert found.usage.prompt_tokens == sum(len(tokenizer.encode(text)) for text in texts)
    for text, item in zip(texts, found.data, strict=True):
        with torch.inference_mode():
            first = model(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0, 0]
        assert item.embedding == pytest.approx((first / first.norm()).tolist(), abs=1e-5)
    assert len(client.embeddings.create(model="acme/words", input="by the mean").data[0].embedding) == 64
    with pytest.raises(openai.BadRequestError, match="only makes embeddings"):
        client.completions.create(model="acme/vectors", prompt="x")


def test_reranking_and_classes(house: House) -> None:
    import transformers

    query, documents = "the cat", [PROBE[0][:20], "你好", "x"]
    found = house.json("POST", "/v1/rerank", {"model": "acme/ranks", "query": query, "documents": documents})
    folder = house.models / "acme/ranks"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for result in found["results"]:
        pair = tokenizer(query, documents[result["index"]], return_tensors="pt")
        with torch.inference_mode():
            assert result["relevance_score"] == pytest.approx(
                float(model(**pair).logits[0].sigmoid()), abs=1e-5
            )
    scores = [result["relevance_score"] for result in found["results"]]
    assert scores == sorted(scores, reverse=True) and found["usage"]["prompt_tokens"] > 0
    sorted_ = house.json("POST", "/v1/classify", {"model": "acme/classes", "input": ["one", "two"]})
    for item in sorted_["data"]:
        assert sum(item["probs"]) == pytest.approx(1) and item["num_classes"] == 3
        assert item["label"] == f"class-{item['probs'].index(max(item['probs']))}"
    assert (sorted_["model"], sorted_["object"]) == ("acme/classes", "list")
    for path, body in (("rerank", {"query": "x", "documents": ["x"]}), ("classify", {"input": "x"})):
        status, _, answer = house.request("POST", f"/v1/{path}", {"model": "acme/words", **body})
        assert (status, json.loads(answer)["error"]["param"]) == (400, "model")
    status, _, answer = house.request("POST", "/v1/embeddings", {"model": "acme/classes", "input": "x"})
    assert (status, "no embeddings" in json.loads(answer)["error"]["message"]) == (501, True)


def test_tokens_and_counts(house: House, plain: Any) -> None:
    body = {"model": "acme/words", "prompt": PROBE[4], "return_token_strs": True}
    found = house.json("POST", "/v1/tokenize", body)
    assert found["tokens"] == plain[1].encode(PROBE[4]) and found["count"] == len(found["token_strs"])
    again = house.json("POST", "/v1/detokenize", {"model": "acme/words", "tokens": found["tokens"]})
    assert again["prompt"] == PROBE[4]
    counted = house.json("POST", "/v1/messages/count_tokens", {"model": "acme/words", "messages": HELLO})
    assert counted["input_tokens"] == chat_tokens(plain)


def chat_tokens(plain: Any) -> int:
    text = plain[1].apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)
    return len(plain[1].encode(text, add_special_tokens=False))


def test_other_apis_go_over_it_too(house: House, client: openai.OpenAI) -> None:
    answer = client.responses.create(model="acme/words", input="hello", max_output_tokens=5, temperature=0)
    assert answer.usage is not None and answer.usage.output_tokens == 5
    body = {"model": "acme/words", "messages": HELLO, "max_tokens": 5, "temperature": 0}
    message = house.json("POST", "/v1/messages", body)
    assert message["usage"]["output_tokens"] == 5 and message["content"][0]["text"]


def test_64_clients_that_leave_leave_no_slot_busy(house: House) -> None:
    leave_midstream(house, "acme/words")
    wait_until_idle(lambda: busy_slots(house))


def ask_engines(house: House, path: str) -> list[Any]:
    """Looks behind the gateway: what each transformers engine says of itself."""
    found: list[Any] = []
    for process in map(psutil.Process, house.engine_pids()):
        if "fust.serve.engines.transformers_child" not in process.cmdline():
            continue
        (listening,) = [c for c in process.net_connections("tcp") if c.status == "LISTEN"]
        with urllib.request.urlopen(f"http://127.0.0.1:{listening.laddr.port}{path}", timeout=10) as answer:
            found.append(json.load(answer))
    return found


def busy_slots(house: House) -> int:
    return sum(slot["is_processing"] for slots in ask_engines(house, "/slots") for slot in slots)


def test_every_claim_is_offered_by_some_model(house: House) -> None:
    """What the table of claims in the reference says of this engine, its loaded models say themselves."""
    kind = get_kind("transformers")
    claimed = frozenset[str]().union(*kind.claims.values(), kind.adds)
    assert {name for props in ask_engines(house, "/props") for name in props["capabilities"]} == claimed


@pytest.mark.faults
def test_an_engine_that_is_killed_comes_back(house: House, client: openai.OpenAI) -> None:
    before = chat(client).choices[0].message.content
    for pid in house.engine_pids():
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            assert chat(client).choices[0].message.content == before
            return
        except openai.APIStatusError:
            time.sleep(0.5)
    raise AssertionError("it did not come back")


def test_a_folder_without_a_model_says_why(house: House) -> None:
    folder = house.models / "acme/pickled"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    status, _, answer = house.request("POST", "/fust/v1/deployments", {"repo_id": "acme/pickled"})
    assert status == 501 and "never loaded" in json.loads(answer)["hint"]


def copy_of(house: House, name: str) -> Path:
    import shutil

    folder = house.models / f"acme/{name}"
    shutil.copytree(house.models / "acme/words", folder)
    return folder


@pytest.mark.parametrize("vocabulary", [400, 600])
def test_a_vocabulary_of_another_size_than_the_embedding_is_refused(house: House, vocabulary: int) -> None:
    path = copy_of(house, f"vocabulary-{vocabulary}") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": vocabulary}))
    found = house.serve(f"acme/vocabulary-{vocabulary}", engine="transformers")
    assert found["state"] == "failed" and "other sizes than its config.json says" in found["error"], found


def test_a_template_without_an_end_is_refused(house: House) -> None:
    folder = copy_of(house, "endless")
    (folder / "chat_template.jinja").write_text("{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}")  # fmt: skip
    found = house.serve("acme/endless")
    assert found["state"] == "failed" and "does not come to an end" in found["error"]
