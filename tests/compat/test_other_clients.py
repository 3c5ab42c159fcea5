"""Every client over every engine: both vendors' in Python and Node, LangChain, LlamaIndex and lm-eval; every claim of each.

Those that live in environments of their own are skipped where they are not installed (scripts/test-system.sh).
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import jinja2
import openai
import pytest

from fust.serve.engines.kinds import KINDS
from tests.support.engines_house import ENGINES, Engines, running_engines
from tests.support.pictures import data_url, picture
from tests.support.small_models import TOOLS_CHATML

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "tests" / "clients"
LLAMA_INDEX = ROOT / ".venv-llamaindex" / "bin" / "python"
LM_EVAL = ROOT / ".venv-lm-eval" / "bin" / "python"
EMBEDDING = {"llamacpp": 64, "transformers": 64, "echo": 64, "upstream": 64}
"""Numbers of an embedding; a text model on vLLM makes none."""
SCORES = ("llamacpp", "transformers", "vllm")
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
PICK: Any = {
    "type": "object",
    "properties": {"d": {"enum": [1, 2]}},
    "required": ["d"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with running_engines(tmp_path_factory.mktemp("clients")) as engines:
        yield engines


def run(engines: Engines, engine: str, *command: str) -> dict[str, Any]:
    house = engines.house
    environ = {**os.environ, "FUST_URL": house.url, "FUST_KEY": house.token}
    environ |= {"FUST_MODEL": engines.serve(engine), "FUST_TOOLS": "1"}
    if engine in EMBEDDING:
        environ["FUST_EMBEDS"] = "1"
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("engine", ENGINES)
def test_openai(engines: Engines, engine: str) -> None:
    asked: dict[str, Any] = {"model": engines.serve(engine), "messages": HELLO, "max_tokens": 6, "temperature": 0}  # fmt: skip
    with openai.OpenAI(base_url=engines.house.base_url, api_key=engines.house.token, max_retries=0) as client:
        whole = client.chat.completions.create(**asked)
        chunks = list(
            client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage is not None and whole.usage is not None
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0
        plain = client.completions.create(model=engine, prompt="ba be", max_tokens=3, temperature=0)
        assert plain.usage is not None and plain.usage.completion_tokens > 0
        response = client.responses.create(model=engine, input="hello", max_output_tokens=6, temperature=0)
        assert response.output_text == text
        if engine in EMBEDDING:
            made = client.embeddings.create(model=engine, input=["ba", "be be"])
            assert [len(one.embedding) for one in made.data] == [EMBEDDING[engine]] * 2
        called = client.chat.completions.create(
            model=engine, messages=HELLO, max_tokens=100, tool_choice="required",
            tools=[{"type": "function", "function": {"name": "now", "parameters": PICK}}],
        )  # fmt: skip
        calls: Any = called.choices[0].message.tool_calls
        assert json.loads(calls[0].function.arguments)["d"] in (1, 2)
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=engine, messages=HELLO, extra_body={"nonsense": 1})
        assert "nonsense" in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_openai_with_all_that_its_users_send(engines: Engines, engine: str) -> None:
    """What programs put in beside the conversation: none of it is refused, and what can be seen in the answer is."""
    with openai.OpenAI(base_url=engines.house.base_url, api_key=engines.house.token, max_retries=0) as client:
        chat = functools.partial(
            client.chat.completions.create, model=engines.serve(engine), messages=HELLO, max_tokens=6, temperature=0,
            user="u", metadata={"a": "b"}, store=False, service_tier="auto",
        )  # fmt: skip
        text = chat().choices[0].message.content
        parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
        assert chat(messages=parts, max_completion_tokens=6).choices[0].message.content == text
        roles: list[Any] = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hello", "name": "bo"}]  # fmt: skip
        system: list[Any] = [{"role": "system", "content": "be brief"}, *HELLO]
        assert (
            chat(messages=roles).choices[0].message.content
            == chat(messages=system).choices[0].message.content
        )
        assert chat(stop=["", *(f"never {i}" for i in range(20))]).choices[0].message.content == text
        two = chat(n=2, seed=3).choices
        assert [it.message.content for it in two] == [text, text] and [it.index for it in two] == [0, 1]
        any_json = chat(response_format={"type": "json_object"}, max_tokens=200).choices[0]
        if any_json.finish_reason == "stop":
            assert isinstance(json.loads(any_json.message.content or ""), dict)
        assert not chat(tools=[NOW], tool_choice="none", max_tokens=30).choices[0].message.tool_calls
        later: Any = {"type": "function", "function": {"name": "later", "parameters": PICK}}
        named: Any = {"type": "function", "function": {"name": "later"}}
        (call,) = chat(tools=[NOW, later], tool_choice=named, parallel_tool_calls=False, max_tokens=200).choices[0].message.tool_calls or []  # fmt: skip
        assert call.function.name == "later" and json.loads(call.function.arguments)["d"] in (1, 2)
        responses = functools.partial(
            client.responses.create, model=engine, max_output_tokens=6, temperature=0
        )
        first = responses(input="hello")
        events = list(responses(input="and then?", previous_response_id=first.id, stream=True))
        said: list[Any] = [*HELLO, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "and then?"}]  # fmt: skip
        assert events[-1].response.output_text == responses(input=said, store=False).output_text  # type: ignore[union-attr]
        assert "".join(it.delta for it in events if it.type == "response.output_text.delta") == events[-1].response.output_text  # type: ignore[union-attr]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_anthropic(engines: Engines, engine: str) -> None:
    asked: dict[str, Any] = {"model": engines.serve(engine), "messages": HELLO, "max_tokens": 6, "extra_body": {"temperature": 0}}  # fmt: skip
    with anthropic.Anthropic(
        base_url=engines.house.url, api_key=engines.house.token, max_retries=0
    ) as client:
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            final = stream.get_final_message()
        assert [block.text for block in final.content] == [block.text for block in whole.content]  # type: ignore[union-attr]
        assert final.usage.output_tokens == whole.usage.output_tokens > 0
        if engine != "upstream":  # which has no tokenizer to count with
            counted = client.messages.count_tokens(model=engine, messages=HELLO)
            assert counted.input_tokens == whole.usage.input_tokens + (
                whole.usage.cache_read_input_tokens or 0
            )


@pytest.mark.parametrize("engine", SCORES)
def test_log_probabilities_without_alternatives(engines: Engines, engine: str) -> None:
    asked = {"model": engines.serve(engine), "prompt": "ba", "max_tokens": 2, "temperature": 0}
    zero, one = (
        engines.house.json("POST", "/v1/completions", {**asked, "logprobs": top})["choices"][0]["logprobs"]
        for top in (0, 1)
    )
    assert zero["tokens"] == one["tokens"]
    assert zero["token_logprobs"] == pytest.approx(one["token_logprobs"], abs=1e-4)
    assert [len(it) for it in zero["top_logprobs"]] == [0, 0] and all(map(len, one["top_logprobs"]))


@pytest.mark.parametrize("engine", ("llamacpp", "transformers"))
def test_a_token_that_is_none_is_the_callers_fault(engines: Engines, engine: str) -> None:
    for path, body in (("detokenize", {"tokens": [99_999_999]}), ("completions", {"prompt": [99_999_999]}), ("embeddings", {"input": [99_999_999]})):  # fmt: skip
        status, _, answer = engines.house.request("POST", f"/v1/{path}", {"model": engines.serve(engine), **body})  # fmt: skip
        assert status == 400, answer


ORACLE: Any = {"name": "now", "description": "the day", "input_schema": PICK}


@pytest.mark.parametrize("engine", ENGINES)
def test_anthropic_with_all_that_its_users_send(engines: Engines, engine: str) -> None:
    """Stop sequences, a beginning of the answer, tools that are counted and called, and their results."""
    asked: dict[str, Any] = {
        "model": engines.serve(engine),
        "max_tokens": 8,
        "extra_body": {"temperature": 0},
    }
    with anthropic.Anthropic(
        base_url=engines.house.url, api_key=engines.house.token, max_retries=0
    ) as client:

        def said(messages: list[Any], **more: Any) -> tuple[str, str | None, str | None]:
            answer = client.messages.create(**asked, messages=messages, **more)
            with client.messages.stream(**asked, messages=messages, **more) as stream:
                final = stream.get_final_message()
            one, other = (
                ("".join(block.text for block in it.content), it.stop_reason, it.stop_sequence)  # type: ignore[union-attr]
                for it in (answer, final)
            )
            assert one == other, "an answer and its stream are two things"
            return one

        text = said(HELLO)[0]
        assert said(HELLO, stop_sequences=[""])[0] == text
        if engine != "echo":  # which stops at nothing
            cut = said(HELLO, stop_sequences=["never met", text[2:4]])
            named = ("stop_sequence", text[2:4]) if engine != "upstream" else ("end_turn", None)
            assert cut == (text[: text.index(text[2:4])], *named)
            begun = said([*HELLO, {"role": "assistant", "content": text[:4]}])[0]
            assert not begun.startswith(text[:4])
            assert begun[:2] == text[4:6], "the answer goes on from its beginning"
        with client.messages.stream(**asked, messages=HELLO, thinking={"type": "adaptive"}) as stream:
            first = next(iter(stream))
            told = first.message.usage.input_tokens + (first.message.usage.cache_read_input_tokens or 0)  # type: ignore[union-attr]
            read = stream.get_final_message().usage
            if engine in ("llamacpp", "transformers"):  # the others tell it at the end
                assert told == read.input_tokens + (read.cache_read_input_tokens or 0) > 0
        budget: Any = {"type": "enabled", "budget_tokens": 1024}
        if engine in ("vllm", "upstream"):
            with pytest.raises(anthropic.BadRequestError) as refused:
                client.messages.create(**asked, messages=HELLO, thinking=budget)
            assert refused.value.body["error"]["param"] == "thinking.budget_tokens"  # type: ignore[index]
        else:
            assert said(HELLO, thinking=budget)[0]
        counted: dict[str, Any] = {
            "model": engine,
            "messages": HELLO,
            "tools": [ORACLE],
            "system": "be brief",
        }
        called = client.messages.create(
            **{**asked, **counted, "max_tokens": 200}, tool_choice={"type": "any"}
        )
        (call,) = called.content
        assert call.type == "tool_use" and call.input["d"] in (1, 2)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "4 degrees"}
        turns: list[Any] = [*HELLO, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]  # fmt: skip
        counted["messages"] = turns
        onward = client.messages.create(**{**asked, **counted})
        if engine != "upstream":
            read = onward.usage.input_tokens + (onward.usage.cache_read_input_tokens or 0)
            assert client.messages.count_tokens(**counted).input_tokens == read


@pytest.mark.parametrize("engine", ENGINES)
def test_langchain(engines: Engines, engine: str) -> None:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    base, key = engines.house.base_url, engines.house.token
    model = ChatOpenAI(model=engines.serve(engine), base_url=base, api_key=key, max_tokens=5, temperature=0, max_retries=0)  # type: ignore[call-arg, arg-type]  # fmt: skip
    answer = model.invoke("hello")
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] > 0
    assert "".join(str(chunk.content) for chunk in model.stream("hello")) == answer.content
    if engine in EMBEDDING:
        embedder = OpenAIEmbeddings(model=engine, base_url=base, api_key=key, check_embedding_ctx_length=False)  # type: ignore[call-arg, arg-type]  # fmt: skip
        assert len(embedder.embed_query("ba be")) == EMBEDDING[engine]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_clients_of_node(engines: Engines, engine: str) -> None:
    node = shutil.which("node")
    if node is None or not (CLIENTS / "node_modules" / "openai").is_dir():
        pytest.skip("the Node clients are not installed (scripts/test-system.sh)")
    found = run(engines, engine, node, str(CLIENTS / "client.mjs"))
    assert found["chat"] == found["stream"]
    assert found["chat"][1] >= 1
    assert found["responses"][0] == "response.created"
    assert found["responses"][1] in ("response.completed", "response.incomplete")
    assert found["embedding"] == EMBEDDING.get(engine, 0)
    assert found["tool"]["d"] in (1, 2)
    assert found["error"] == ["NotFoundError", 404, "model_not_found", True]
    assert found["anthropic"] == found["chat"]
    if engine == "echo":
        assert found["chat"] == ["hello", 2]


DEAR = [
    pytest.param(name, marks=[] if name in ("llamacpp", "echo") else pytest.mark.slow) for name in ENGINES
]


@pytest.mark.parametrize("engine", DEAR)
def test_llama_index(engines: Engines, engine: str) -> None:
    if not LLAMA_INDEX.exists():
        pytest.skip("LlamaIndex is not installed (scripts/test-system.sh)")
    found = run(engines, engine, str(LLAMA_INDEX), str(CLIENTS / "llama_index_client.py"))
    assert found["chat"].strip() == found["stream"].strip()
    assert found.get("embedding") == EMBEDDING.get(engine)
    if engine == "echo":
        assert found["chat"] == "hello"


# What the table of engines in the reference claims (docs/reference/model-api.md), by the client that the claim is for

CLAIMED = [
    (kind.name, claim) for kind in KINDS.values() for claim in sorted(kind.adds.union(*kind.claims.values()))
]
NOT_CLAIMED = [
    (kind, claim)
    for kind in KINDS
    for claim in ("chat", "classify", "rerank", "scoring", "vision")
    if (kind, claim) not in CLAIMED
]
LATER = {("transformers", "classify"), ("transformers", "rerank"), ("vllm", "rerank")}
"""Claims of models that load torch once more; tests of these engines alone ask for them every time."""
NOW: Any = {"type": "function", "function": {"name": "now", "description": "the day", "parameters": PICK}}


def probed(engines: Engines, model: str, claim: str) -> None:
    """Asks a model for what is claimed of it, and checks that it came."""
    house = engines.house
    with openai.OpenAI(base_url=house.base_url, api_key=house.token, max_retries=0) as client:
        chat = functools.partial(
            client.chat.completions.create, model=model, messages=HELLO, max_tokens=100, temperature=0
        )
        if claim == "chat":
            assert chat(max_tokens=4).usage.completion_tokens > 0
        elif claim == "completions":
            assert (
                client.completions.create(model=model, prompt="ba be", max_tokens=3).usage.completion_tokens
                > 0
            )  # type: ignore[union-attr]
        elif claim == "embeddings":
            near, far, same = (
                it.embedding for it in client.embeddings.create(model=model, input=["ba", "be ra", "ba"]).data
            )
            assert near == pytest.approx(same, abs=1e-5) and near != pytest.approx(far, abs=1e-2)
            if model in ("llamacpp", "transformers"):  # with the token ids of a text its own embedding comes
                cut = house.json("POST", "/v1/tokenize", {"model": model, "prompt": "ba"})["tokens"]
                both = house.json("POST", "/v1/embeddings", {"model": model, "input": [cut, cut + cut]})[
                    "data"
                ]
                assert both[0]["embedding"] == pytest.approx(near, abs=1e-5)
                assert both[1]["embedding"] != pytest.approx(near, abs=1e-2)
        elif claim == "json_schema":
            form = {"type": "json_schema", "json_schema": {"name": "pick", "schema": PICK, "strict": True}}
            assert json.loads(chat(response_format=form).choices[0].message.content)["d"] in (1, 2)
        elif claim == "logprobs":
            found = chat(logprobs=True, top_logprobs=2, max_tokens=3).choices[0].logprobs.content
            assert all(
                it.logprob <= 1e-6 and it.logprob == pytest.approx(it.top_logprobs[0].logprob, abs=1e-4)
                for it in found
            )
        elif claim == "tools":
            called = chat(tools=[NOW], tool_choice="required").choices[0].message.tool_calls[0].function
            assert called.name == "now" and json.loads(called.arguments)["d"] in (1, 2)
        elif claim == "template_tools":
            asked = chat(tools=[NOW], messages=(say := [{"role": "user", "content": "now"}]))
            if model == "echo":
                assert asked.choices[0].message.tool_calls[0].function.name == "now"
            else:  # its own template told it of the tool: no word of Fust's own stands in the prompt
                own = jinja2.Template(TOOLS_CHATML).render(
                    tools=[NOW], messages=say, add_generation_prompt=True
                )
                cut = house.json("POST", "/v1/tokenize", {"model": model, "prompt": own})
                assert asked.usage.prompt_tokens == cut["count"]
        elif claim == "scoring":
            scored = client.completions.create(
                model=model, prompt="ba be", echo=True, max_tokens=0, logprobs=1
            ).choices[0]
            likely = scored.logprobs.token_logprobs  # type: ignore[union-attr]
            assert scored.text == "ba be" and likely[0] is None and all(-99 < it < 0 for it in likely[1:])  # type: ignore[index]
            late = client.completions.create(
                model=model, prompt="ba be", echo=True, max_tokens=0, logprobs=1, extra_body={"logprob_start_len": 2}
            ).choices[0]  # fmt: skip
            assert late.text == "ba be" and late.logprobs.tokens == scored.logprobs.tokens  # type: ignore[union-attr]
            assert late.logprobs.token_logprobs == [
                None,
                None,
                *(pytest.approx(it, abs=1e-4) for it in likely[2:]),
            ]  # type: ignore[index, union-attr]
        elif claim == "vision":
            seen = [
                chat(messages=shown(colour), max_tokens=1, logprobs=True).choices[0]
                for colour in ("red", "blue", "red")
            ]
            red, blue, again = ((it.message.content, it.logprobs.content[0].logprob) for it in seen)
            assert red == (again[0], pytest.approx(again[1], abs=1e-3)) and red != (
                blue[0],
                pytest.approx(blue[1], abs=1e-3),
            )
        elif claim == "rerank":
            results = house.json(
                "POST", "/v1/rerank", {"model": model, "query": "ba", "documents": ["be", "ba", "du ra"]}
            )["results"]
            scores = [it["relevance_score"] for it in results]
            assert scores == sorted(scores, reverse=True) and {it["index"] for it in results} == {0, 1, 2}
        elif claim == "classify":
            sorted_ = house.json("POST", "/v1/classify", {"model": model, "input": ["ba", "be"]})["data"]
            assert [sum(it["probs"]) for it in sorted_] == [pytest.approx(1)] * 2 and sorted_[0][
                "num_classes"
            ] == 3
        else:
            raise AssertionError(f"{claim} is claimed, and nothing asks for it here")


def shown(colour: str) -> list[Any]:
    parts = [
        {"type": "text", "text": "what is it"},
        {"type": "image_url", "image_url": {"url": data_url(picture(colour))}},
    ]
    return [{"role": "user", "content": parts}]


@pytest.mark.parametrize(
    ("engine", "claim"),
    [pytest.param(*it, marks=pytest.mark.slow if it in LATER else []) for it in CLAIMED],
)
def test_what_is_claimed_comes(engines: Engines, engine: str, claim: str) -> None:
    probed(engines, engines.serve_able(engine, claim), claim)


@pytest.mark.parametrize(("engine", "claim"), NOT_CLAIMED)
def test_what_is_not_claimed_is_refused_by_name(engines: Engines, engine: str, claim: str) -> None:
    """400 or 501, with what is missing; never an answer that looks like one."""
    model, house = engines.serve(engine), engines.house
    path, body = {
        "classify": ("/v1/classify", {"input": ["ba"]}),
        "rerank": ("/v1/rerank", {"query": "ba", "documents": ["be"]}),
        "scoring": ("/v1/completions", {"prompt": "ba be", "echo": True, "max_tokens": 0, "logprobs": 1}),
        "vision": ("/v1/chat/completions", {"messages": shown("red"), "max_tokens": 2}),
    }[claim]
    status, _, answer = house.request("POST", path, {"model": model, **body})
    error = json.loads(answer)["error"]
    assert status in (400, 501), answer
    assert error["code"] in ("not_a_classifier", "not_offered_by_engine", "unsupported_parameter"), error
    assert model in error["message"]


# lm-eval, with a task of four choices and one of written answers that the test makes

CHOICES = [
    {"question": f"Which word follows {word}?", "choices": ["red", "blue fox", "a", "quick 你好"], "answer": i % 4}
    for i, word in enumerate(("The", "brown", "over", "lazy", "dog", "jumps"))
]  # fmt: skip
CHOOSING = """task: fust_choices
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
"""
WRITING = """task: fust_answers
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "red"
generation_kwargs: {until: ["zzzz"], max_gen_toks: 6, temperature: 0}
metric_list: [{metric: exact_match}]
"""


def lm_eval(engines: Engines, engine: str, folder: Path, task: str, text: str, kind: str, route: str, *more: str) -> list[dict[str, Any]]:  # fmt: skip
    """Runs lm-eval with a task of ours; returns what it noted of each item."""
    if not LM_EVAL.exists():
        pytest.skip("lm-eval is not installed (scripts/test-system.sh slow)")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in CHOICES))
    (folder / f"{task}.yaml").write_text(text % rows)
    house = engines.house
    args = f"model={engines.serve(engine)},base_url={house.url}{route},tokenizer={engines.words},num_concurrent=2,max_retries=1"
    command = [
        str(LM_EVAL), "-m", "lm_eval", "--model", kind, "--model_args", args, "--tasks", task, "--include_path", str(folder),
        "--output_path", str(folder / "out"), "--log_samples", *more,
    ]  # fmt: skip
    environ = {**os.environ, "OPENAI_API_KEY": house.token, "HF_HOME": str(folder / "hf"), "PYTHONPATH": ""}
    environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    return sorted(found, key=lambda sample: sample["doc_id"])


@pytest.fixture(scope="module")
def plain(engines: Engines) -> Any:
    """The same model in this process, by transformers alone."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(engines.words, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(engines.words)


def likelihood(plain: Any, question: str, choice: str) -> float:
    """Returns the log-likelihood of a choice after a question, with the blank between them that lm-eval puts there."""
    import torch

    model, tokenizer = plain
    before, whole = tokenizer(question)["input_ids"], tokenizer(question + " " + choice)["input_ids"]
    with torch.inference_mode():
        rows = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(rows[at - 1, whole[at]]) for at in range(len(before), len(whole)))


@pytest.mark.slow
@pytest.mark.parametrize("engine", SCORES)
def test_lm_eval_scores_choices_as_a_plain_pass_does(
    engines: Engines, engine: str, plain: Any, tmp_path: Path
) -> None:
    samples = lm_eval(engines, engine, tmp_path, "fust_choices", CHOOSING, "local-completions", "/v1/completions")  # fmt: skip
    assert len(samples) == len(CHOICES)
    bound = 1e-3 if engine == "llamacpp" else 1e-4
    for row, sample in zip(CHOICES, samples, strict=True):
        told = [float(answer[0][0]) for answer in sample["resps"]]
        truth = [likelihood(plain, row["question"], choice) for choice in row["choices"]]
        assert told == pytest.approx(truth, abs=bound * 8)
        assert sample["acc"] == float(max(range(4), key=truth.__getitem__) == row["answer"])


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_lm_eval_reads_written_answers(engines: Engines, engine: str, plain: Any, tmp_path: Path) -> None:
    samples = lm_eval(engines, engine, tmp_path, "fust_answers", WRITING, "local-chat-completions", "/v1/chat/completions", "--apply_chat_template")  # fmt: skip
    model, tokenizer = plain
    for row, sample in zip(CHOICES, samples, strict=True):
        told = sample["resps"][0][0]
        if engine == "echo":
            assert row["question"].startswith(told) and told
            continue
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": row["question"]}], add_generation_prompt=True, return_tensors="pt", return_dict=False)  # fmt: skip
        written = model.generate(prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :]
        assert told == tokenizer.decode(written, skip_special_tokens=True)
