"""The engine vllm, from Fust to a `vllm` that keeps the contract of the real one (`tests/support/vllm.py`).

What Fust uses of vLLM was read in its published source, github.com/vllm-project/vllm; `READ_IN` says where and at which
commit. Nothing of it was run on a GPU.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import torch

from fust.core.errors import NotOffered
from fust.core.settings import ServeSettings
from fust.serve.engines import vllm
from fust.serve.engines.base import EngineSpec
from fust.serve.engines.gpu import Gpu, find_gpus
from fust.serve.engines.kinds import choose_kind, get_kind
from fust.serve.files import TreeFile
from tests.support import vllm as contract
from tests.support.hf_models import adapter_of, bert_model, causal_model
from tests.support.leaving import leave_midstream, wait_until_idle
from tests.support.model_house import House, running_house
from tests.support.small_adapters import write_lora_gguf, write_peft

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated:FutureWarning"
)  # peft and transformers, of one another

_ARGS = ("vllm/engine/arg_utils.py", "99d7eb5d6a512cfcc5a2b104f24ebf2d6cda772b")
_FRONT = ("vllm/entrypoints/launchers/cli_args.py", "003befe5e8e6747be941f1dffa2ac7307a107de0")
_CHAT = ("vllm/entrypoints/openai/chat_completion/protocol.py", "002032ee2b18e1f7bd924ec47b62504ba3866063")
_TEXT = ("vllm/entrypoints/openai/completion/protocol.py", "002032ee2b18e1f7bd924ec47b62504ba3866063")
_TOKENS = ("vllm/entrypoints/serve/tokenize/protocol.py", "343bacafc7bf4f973a105e8e7d99fa7de61f7e18")
_RERANK = ("vllm/entrypoints/pooling/scoring/protocol.py", "531586888ac9c9759c09b70c0d8d66d87f15d238")
_LORA = ("vllm/entrypoints/serve/lora/api_router.py", "27873cab97e41ef32a6a8bcf83fa475a23e6e921")
_MODELS = ("vllm/entrypoints/openai/models/serving.py", "00153c8b7948077ebdfc5bfa14e403da41aaea6d")
_ENVIRONMENT = ("vllm/envs.py", "001f69f8b52e0803c910525974d17010814947ad")
READ_IN = {
    "vllm serve MODEL": ("vllm/entrypoints/cli/serve.py", "00a5fdd20935ba7679750db22997dcf539ca4591"),
    "--served-model-name": _ARGS,
    "--max-model-len": _ARGS,
    "--max-num-seqs": _ARGS,
    "--gpu-memory-utilization": _ARGS,
    "--generation-config": _ARGS,
    "--tensor-parallel-size": _ARGS,
    "--runner": _ARGS,
    "--reasoning-parser": _ARGS,
    "--enable-lora": _ARGS,
    "--max-loras": _ARGS,
    "--max-lora-rank": _ARGS,
    "names of reasoning parsers": ("vllm/reasoning/__init__.py", "0064cc9cb1ae57b1308015d48a57462fa27a68f2"),
    "--host": _FRONT,
    "--port": _FRONT,
    "a key guards /v1, not /tokenize, /rerank, /classify, /health, /metrics": (
        "vllm/entrypoints/serve/middleware/authenticate.py",
        "baaf6e9c171b38e155d4191ac29f3a4a08817146",
    ),
    "GET /health": (
        "vllm/entrypoints/serve/instrumentator/health.py",
        "98b137c61dcf8be6fac463c982053db8c1417cfb",
    ),
    "/v1/chat/completions": _CHAT,
    "continue_final_message": _CHAT,
    "stop_reason of a chat": _CHAT,
    "stop_reason of a completion": _TEXT,
    "/v1/completions": _TEXT,
    "prompt_logprobs": _TEXT,
    "return_tokens_as_token_ids": _TEXT,
    "/tokenize": _TOKENS,
    "/detokenize": _TOKENS,
    "/rerank": _RERANK,
    "/v1/load_lora_adapter": _LORA,
    "/v1/unload_lora_adapter": _LORA,
    "an adapter's name stands for the model's, and is forgotten when it is unloaded": _MODELS,
    "VLLM_API_KEY": _ENVIRONMENT,
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": _ENVIRONMENT,
    "VLLM_NO_USAGE_STATS": _ENVIRONMENT,
    "VLLM_DO_NOT_TRACK": _ENVIRONMENT,
    "DO_NOT_TRACK": _ENVIRONMENT,
    "VLLM_MAX_STOP_STRINGS": (
        "vllm/entrypoints/generate/base/protocol.py",
        "567b35aa7b691e82dd80bd41854f8499002d5c0f",
    ),
    "/classify": (
        "vllm/entrypoints/pooling/classify/protocol.py",
        "dff4cad35b4faadb49e7a7e239dd27fe79c3e289",
    ),
    "/v1/embeddings": (
        "vllm/entrypoints/pooling/embed/protocol.py",
        "ff8d577a972bbcd9bc37b196343f5f9a86609ccb",
    ),
}
"""What is used of vLLM -> the file and the commit that it was read in."""
SHAPE = {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "c": {"enum": ["a", "b"]}},
    "required": ["n", "c"],
    "additionalProperties": False,
}


def adapter(models: Path, name: str, *, base: str = "acme/adapts", **more: Any) -> Any:
    """Writes an adapter that names its base by its repo; returns the model that has it."""
    folder = models / "acme" / name
    made = adapter_of(models / "acme/adapts", folder, std=0.5, **more).eval()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    return made


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("vllm")
    models = root / "models/acme"
    causal_model(
        models / "words", "Qwen3", no_lora=True, **SHAPE
    )  # started with adapters first, then without
    causal_model(models / "adapts", "Qwen3", **SHAPE)
    for name, seed in (("one", 4), ("two", 5), ("three", 6)):
        adapter(root / "models", name, seed=seed)
    bert_model(models / "vectors", pooling="mean_tokens")
    bert_model(models / "ranks", classes=1)
    bert_model(models / "classes", classes=3)
    programs = contract.install(root / "bin")
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{programs}:{before}"
    try:
        flags = ("serve.context=512", "serve.memory_bytes=40000000000")
        with running_house(root / "home", root / "models", *flags) as house:
            names = [path.name for path in models.iterdir() if (path / "config.json").exists()]
            found = [
                house.json("POST", "/fust/v1/deployments", {"repo_id": f"acme/{name}"}) for name in names
            ]
            for deployment in found:
                ready = house.settled(deployment["id"], 120)
                assert (ready["state"], ready["engine"]) == ("ready", "vllm"), ready
            yield house
    finally:
        os.environ["PATH"] = before


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
    asked = {"model": "acme/words", "messages": [{"role": "user", "content": "Hello there"}], "temperature": 0, "max_tokens": 12}  # fmt: skip
    return client.chat.completions.create(**(asked | more))


def servers(house: House) -> list[psutil.Process]:
    """Returns vLLM's own processes."""
    return [it for it in map(psutil.Process, house.engine_pids()) if contract.__file__ in it.cmdline()]


def test_why_it_was_chosen_and_how_it_was_started(house: House) -> None:
    (found,) = [d for d in house.json("GET", "/fust/v1/deployments")["items"] if d["name"] == "acme/words"]
    why = " ".join(found["why"])
    assert "a GPU is here" in why
    assert "NVIDIA Contract" in why and "90%" in why
    assert found["slots"] == 64
    (kind,) = [k for k in house.json("GET", "/fust/v1/engines")["items"] if k["name"] == "vllm"]
    assert kind["available"]


def test_every_flag_and_route_was_read_in_its_source(house: House) -> None:
    """The contract server refuses what it does not know, so what it knows is what is used; each has its place."""
    assert {*contract.FLAGS, *contract.SWITCHES} == {word for word in READ_IN if word.startswith("--")}
    assert set(contract.FIELDS) <= READ_IN.keys()
    environs = [server.environ() for server in servers(house)]
    ours = {name for name in READ_IN if name.isupper()}
    told = {name for environ in environs for name in environ if name.startswith("VLLM_") or name == "DO_NOT_TRACK"}  # fmt: skip
    assert ours <= told
    inherited = os.environ.keys()  # where another test's library set some (trl: the level of vLLM's logging)
    assert told - ours <= inherited
    assert all(environ["HF_HUB_OFFLINE"] == "1" for environ in environs)  # huggingface_hub's own
    assert all(len(commit) == 40 and path.startswith("vllm/") for path, commit in READ_IN.values())


def test_the_command_for_each_kind_of_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = contract.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    for name, config in {
        "plain": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        "thinks": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
        "ranks": {"architectures": ["BertForSequenceClassification"], "model_type": "bert"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        spec = EngineSpec("e", tmp_path / name / "model.safetensors", "m", "generate", 512, 8, 1, settings=ServeSettings(gpu_share=0.5, gpu_adapter_rank=40))  # fmt: skip
        argv = vllm.command_of(spec, 2)
        assert argv[:3] == [str(programs / "vllm"), "serve", str(tmp_path / name)]
        assert argv[argv.index("--tensor-parallel-size") + 1] == "2"
        assert argv[argv.index("--gpu-memory-utilization") + 1] == "0.5"
        assert ("--reasoning-parser" in argv) is (name == "thinks")
        assert ("--runner" in argv) is (name == "ranks")
        assert ("--enable-lora" in argv) is (name != "ranks")
        if name != "ranks":
            assert argv[argv.index("--max-loras") + 1] == "4"
            assert argv[argv.index("--max-lora-rank") + 1] == "64"  # the next that it may be
        assert {word for word in argv if word.startswith("--")} <= {*contract.FLAGS, *contract.SWITCHES}


def test_a_chat_says_what_the_model_says(client: openai.OpenAI, plain: Any) -> None:
    model, tokenizer = plain
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello there"}], return_tensors="pt", add_generation_prompt=True, return_dict=False)  # fmt: skip
    written = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    said = chat(client)
    assert said.choices[0].message.content == tokenizer.decode(written)
    assert said.model == "acme/words"
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (prompt.shape[1], 12)
    pieces = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices)
    assert text == said.choices[0].message.content
    assert pieces[-1].usage == said.usage


def test_log_probabilities_of_an_answer(client: openai.OpenAI) -> None:
    said = chat(client, logprobs=True, top_logprobs=2, max_tokens=3)
    content = said.choices[0].logprobs.content
    assert len(content) == 3 and all(len(token.top_logprobs) == 2 for token in content)
    assert all(token.logprob == max(top.logprob for top in token.top_logprobs) for token in content)


def test_the_prompts_own_log_probabilities_are_those_of_a_plain_pass(
    client: openai.OpenAI, plain: Any
) -> None:
    model, tokenizer = plain
    text = "The quick brown fox, 你好"
    said = client.completions.create(
        model="acme/words", prompt=text, echo=True, max_tokens=0, logprobs=2, temperature=0
    )
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        truth = model(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()
    told = said.choices[0].logprobs
    assert said.choices[0].text == text
    assert told.token_logprobs[0] is None
    assert told.token_logprobs[1:] == pytest.approx(truth, abs=1e-4)
    assert len(told.top_logprobs[1]) == 2
    by_ids = client.completions.create(
        model="acme/words", prompt=ids[0].tolist(), echo=True, max_tokens=1, logprobs=1, temperature=0
    )
    assert by_ids.choices[0].logprobs.token_logprobs[1:-1] == pytest.approx(truth, abs=1e-4)


def test_a_schema_is_kept_and_a_tool_is_called_when_it_must_be(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    said = json.loads(chat(client, response_format=form, max_tokens=60).choices[0].message.content)
    assert set(said) == {"n", "c"}
    tool: Any = {"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}
    called = chat(client, tools=[tool], tool_choice="required", max_tokens=100).choices[0]
    assert called.finish_reason == "tool_calls"
    assert set(json.loads(called.message.tool_calls[0].function.arguments)) == {"n", "c"}


def test_stop_words_seeds_and_bias(client: openai.OpenAI) -> None:
    whole = chat(client).choices[0].message.content
    assert whole[4:7]
    stopped = chat(client, stop=whole[4:7]).choices[0]
    assert stopped.message.content == whole[: whole.index(whole[4:7])] and stopped.finish_reason == "stop"
    one, two = (chat(client, temperature=1.0, seed=7).choices[0].message.content for _ in range(2))
    assert one == two
    assert chat(client, logit_bias={"65": 100}, max_tokens=2).usage.completion_tokens == 2


def test_what_does_not_fit_is_shortened_or_refused_with_numbers(client: openai.OpenAI) -> None:
    said = chat(client, max_tokens=100_000, stop=["\x00"])
    assert said.choices[0].finish_reason in ("length", "stop")
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, messages=[{"role": "user", "content": "fox " * 2000}])
    assert caught.value.code == "context_length_exceeded"
    assert "512" in str(caught.value)


@pytest.mark.parametrize("field", ["typical_p", "repeat_last_n"])
def test_a_field_that_vllm_would_pass_over_is_refused(client: openai.OpenAI, field: str) -> None:
    with pytest.raises(openai.BadRequestError, match=field):
        chat(client, extra_body={field: 1})


def test_embeddings_reranking_and_classes(client: openai.OpenAI, house: House) -> None:
    made = client.embeddings.create(model="acme/vectors", input=["one", "four four"])
    assert [len(one.embedding) for one in made.data] == [32, 32]
    ranked = house.json("POST", "/v1/rerank", {"model": "acme/ranks", "query": "red fox", "documents": ["a dog", "a red fox"]})  # fmt: skip
    assert [result["index"] for result in ranked["results"]] == [1, 0]
    found = house.json("POST", "/v1/classify", {"model": "acme/classes", "input": ["a", "bc"]})
    assert [row["label"] for row in found["data"]] == ["class-1", "class-2"]
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="acme/words", input="one")
    assert caught.value.status_code == 501


def test_tokens_and_counts(house: House, plain: Any) -> None:
    _, tokenizer = plain
    text = "Hello there, 你好"
    found = house.json("POST", "/v1/tokenize", {"model": "acme/words", "prompt": text, "return_token_strs": True})  # fmt: skip
    assert found["tokens"] == tokenizer(text)["input_ids"]
    assert "".join(found["token_strs"]).startswith("Hello there,")
    again = house.json("POST", "/v1/detokenize", {"model": "acme/words", "tokens": found["tokens"]})
    assert again["prompt"] == text
    counted = house.json("POST", "/v1/messages/count_tokens", {"model": "acme/words", "messages": [{"role": "user", "content": "Hi"}]})  # fmt: skip
    assert counted["input_tokens"] == len(tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_dict=False))  # fmt: skip


def test_the_key_is_on_no_command_line_and_the_port_is_on_loopback(house: House) -> None:
    assert len(servers(house)) == 5
    for server in servers(house):
        (listening,) = [c for c in server.net_connections("tcp") if c.status == "LISTEN"]
        assert listening.laddr.ip == "127.0.0.1"
        assert server.environ()["VLLM_API_KEY"] not in " ".join(server.cmdline())


def running(house: House) -> float:
    """Returns what all servers say of the requests that they work on."""
    total = 0.0
    for process in servers(house):
        (listening,) = [c for c in process.net_connections("tcp") if c.status == "LISTEN"]
        url = f"http://127.0.0.1:{listening.laddr.port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            total += float(answer.read().split()[-1])
    return total


@pytest.mark.faults
def test_64_clients_that_leave_leave_nothing_running(house: House) -> None:
    leave_midstream(house, "acme/words")
    wait_until_idle(lambda: running(house))


@pytest.mark.faults
def test_a_server_that_is_killed_comes_back(house: House, client: openai.OpenAI) -> None:
    before = chat(client).choices[0].message.content
    adapted = chat(client, model="acme/two").choices[0].message.content
    victims = [p for p in map(psutil.Process, house.engine_pids()) if contract.__file__ in p.cmdline() and "--runner" not in p.cmdline()]  # fmt: skip
    for victim in victims:
        victim.kill()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            assert chat(client).choices[0].message.content == before
            assert chat(client, model="acme/two").choices[0].message.content == adapted  # it has it again
            return
        except openai.APIStatusError:
            time.sleep(0.2)
    raise AssertionError("it did not come back")


# Adapters beside a model


def adapters_of(house: House, name: str = "acme/adapts") -> tuple[str, dict[str, str]]:
    """Returns a deployment's id, and the state of each adapter."""
    (found,) = [d for d in house.json("GET", "/fust/v1/deployments")["items"] if d["name"] == name]
    return found["id"], {it["name"]: it["error"] or it["state"] for it in found["adapters"]}


def loaded(house: House) -> int:
    """Returns how many adapters vLLM itself has."""
    count = 0
    for process in map(psutil.Process, house.engine_pids()):
        if contract.__file__ in process.cmdline() and str(process.cmdline()).count("--enable-lora"):
            (listening,) = [c for c in process.net_connections("tcp") if c.status == "LISTEN"]
            url = f"http://127.0.0.1:{listening.laddr.port}/v1/models"
            key = {"authorization": "Bearer " + process.environ()["VLLM_API_KEY"]}
            with urllib.request.urlopen(urllib.request.Request(url, headers=key), timeout=30) as answer:
                count += sum("parent" in card for card in json.loads(answer.read())["data"])
    return count


def scored(client: openai.OpenAI, model: str, prompt: str = "The quick fox") -> tuple[str, list[float]]:
    said = client.completions.create(model=model, prompt=prompt, max_tokens=0, echo=True, logprobs=1)
    written = client.completions.create(model=model, prompt=prompt, max_tokens=8, temperature=0)
    return written.choices[0].text, said.choices[0].logprobs.token_logprobs[1:]


def test_each_adapter_answers_as_a_plain_pass_with_it(house: House, client: openai.OpenAI) -> None:
    """None, one, none, two, one: answers and log-likelihoods are those of PEFT's own model each time."""
    import peft
    import transformers

    folder = house.models / "acme/adapts"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The quick fox", return_tensors="pt")["input_ids"]
    truth: dict[str, list[float]] = {}
    for name in ("acme/adapts", "acme/one", "acme/two"):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if name != "acme/adapts":
            model = peft.PeftModel.from_pretrained(model, house.models / name)
        with torch.inference_mode():
            likely = model.eval()(ids).logits[0].log_softmax(-1)[:-1]
        truth[name] = likely.gather(1, ids[0, 1:, None])[:, 0].tolist()
    said: dict[str, str] = {}
    for name in ("acme/adapts", "acme/one", "acme/adapts", "acme/two", "acme/one"):
        text, logprobs = scored(client, name)
        assert logprobs == pytest.approx(truth[name], abs=1e-4)
        assert said.setdefault(name, text) == text
    assert len(set(said.values())) == 3
    assert scored(client, "acme/adapts:two")[0] == said["acme/two"]
    assert chat(client, model="acme/adapts:one").model == "acme/adapts:one"
    assert adapters_of(house)[1] == {"one": "ready", "two": "ready"}


def test_adapters_come_and_go_under_traffic_and_no_request_fails(house: House, client: openai.OpenAI) -> None:
    """vLLM forgets an adapter when the last request that names it is over, not before."""
    id_, _ = adapters_of(house)
    house.json("POST", f"/fust/v1/deployments/{id_}/adapters", {"repo_id": "acme/one"})
    stream = chat(client, model="acme/adapts:one", max_tokens=200, stream=True, logit_bias={"2": -100})
    next(iter(stream))
    house.json("DELETE", f"/fust/v1/deployments/{id_}/adapters/one")
    assert "one" not in adapters_of(house)[1]
    server = next(pid for pid in house.engine_pids() if "--enable-lora" in psutil.Process(pid).cmdline())
    house.json("POST", f"/fust/v1/deployments/{id_}/adapters", {"repo_id": "acme/three"})
    assert scored(client, "acme/adapts:three")[0]
    before = loaded(house)
    folder = house.home / "engines/adapters"
    files = len(list(folder.iterdir()))
    with pytest.raises(openai.NotFoundError):
        chat(client, model="acme/adapts:one")
    assert sum(1 for chunk in stream if chunk.choices) > 100  # it went on to its end
    deadline = time.monotonic() + 20
    while loaded(house) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert loaded(house) == before - 1
    assert len(list(folder.iterdir())) == files - 1
    assert psutil.pid_exists(server)  # the same process all the time


def test_an_adapter_that_vllm_cannot_take_is_refused_by_name(house: House) -> None:
    id_, _ = adapters_of(house)
    models = house.models
    adapter(models, "tall", r=40)
    adapter(models, "patterned", alpha_pattern={"layers.1.mlp.down_proj": 20})
    adapter(models, "spared", modules_to_save=["lm_head"])
    write_peft(models / "acme/unlike", width=32, target_modules=["q_proj"])
    adapter(models, "foreign", base="acme/vectors")
    write_lora_gguf(models / "acme/gguf/one.gguf")
    for name, code, said in (
        ("tall", "adapter_not_supported", "rank 40, and vLLM was started for 32"),
        ("patterned", "adapter_not_supported", "alpha_pattern"),
        ("spared", "adapter_not_supported", "modules_to_save"),
        ("unlike", "other_base", "down_proj is 32 × 128, in the model 64 × 96"),
        ("foreign", "other_base", "acme/vectors"),
        ("gguf", "needs_adapter", "holds no adapter"),
    ):
        path = f"/fust/v1/deployments/{id_}/adapters"
        answer = json.loads(house.request("POST", path, {"repo_id": f"acme/{name}"})[2])
        assert answer["code"] == code and said in answer["detail"], answer
    # A model of which vLLM says that it has no adapters for it answers without; the adapter says why it cannot be used.
    adapter(models, "wordy", base="acme/words")
    words, _ = adapters_of(house, "acme/words")
    house.json("POST", f"/fust/v1/deployments/{words}/adapters", {"repo_id": "acme/wordy"})
    deadline = time.monotonic() + 20
    while adapters_of(house, "acme/words")[1]["wordy"] == "loading" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "no adapters for models of this architecture" in adapters_of(house, "acme/words")[1]["wordy"]


# Without a GPU, or with one that is too small


def test_without_a_gpu_or_without_vllm_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = contract.install(tmp_path / "bin")
    files = [TreeFile("config.json", 1), TreeFile("model.safetensors", 9), TreeFile("m.gguf", 9)]
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(NotOffered, match="nvidia-smi shows none"):
        vllm.check(ServeSettings())
    assert choose_kind(files, None, ServeSettings())[0].name == "llamacpp"
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    (programs / "vllm").rename(tmp_path / "elsewhere")
    with pytest.raises(NotOffered, match="no program vllm") as caught:
        vllm.check(ServeSettings())
    assert "serve.vllm" in caught.value.hint()
    named = ServeSettings(vllm=str(tmp_path / "elsewhere"))
    vllm.check(named)
    assert find_gpus() == (Gpu("NVIDIA Contract", 81_559 << 20),)
    assert choose_kind(files, None, named)[0].name == "vllm"
    assert choose_kind(files, "llamacpp", named)[0].name == "llamacpp"


def test_weights_are_split_over_gpus_or_refused() -> None:
    gpus = (Gpu("a", 80 << 30), Gpu("b", 80 << 30), Gpu("c", 80 << 30))
    assert [vllm.gpus_for(size << 30, 0.9, gpus) for size in (1, 57, 58, 100)] == [1, 1, 2, 2]
    with pytest.raises(NotOffered, match="do not fit"):
        vllm.gpus_for(120 << 30, 0.9, gpus)


def test_every_claim_is_offered_by_some_model(house: House) -> None:
    kind = get_kind("vllm")
    claimed = frozenset[str]().union(*kind.claims.values(), kind.adds)
    folders = (path for path in (house.models / "acme").iterdir() if (path / "config.json").exists())
    assert frozenset[str]().union(*map(vllm.offers_of, folders)) == claimed
