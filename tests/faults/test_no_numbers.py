"""Models whose weights hold NaN: nobody gets 200 with null, or rubbish; an error names the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.support.model_house import House, running_house
from tests.support.small_models import write_llama

pytestmark = pytest.mark.faults
BAD, GOOD = "b", "c"
"""Reading the first makes NaN of everything, reading the second does not."""
HELLO = [{"role": "user", "content": BAD}]


def spoil(path: Path, tensor: str, row: object) -> None:
    """Makes NaN of rows of a tensor."""
    reader = gguf.GGUFReader(str(path), "r+")
    next(it for it in reader.tensors if it.name == tensor).data[row] = np.nan


def spoil_words(path: Path) -> None:
    """Makes NaN of the embedding of one word."""
    words = gguf.GGUFReader(str(path)).fields["tokenizer.ggml.tokens"]
    row = next(i for i, at in enumerate(words.data) if bytes(words.parts[at]).decode() == BAD)
    spoil(path, "token_embd.weight", row)


def spoil_torch(folder: Path, word: str | None) -> None:
    """Makes NaN of the embedding of one word's tokens, or of all."""
    import transformers
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = dict(load_file(path))
    ids = (
        transformers.AutoTokenizer.from_pretrained(folder).encode(word, add_special_tokens=False)
        if word
        else ...
    )
    name = next(name for name in tensors if name.endswith(("embed_tokens.weight", "word_embeddings.weight")))
    tensors[name] = tensors[name].copy()
    tensors[name][ids] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    pytest.importorskip("torch", reason="the transformers engine is an extra")
    from tests.support.hf_models import bert_model, causal_model

    root = tmp_path_factory.mktemp("numbers")
    models = root / "models/acme"
    for name, pooling in (("llamacpp", None), ("vectors", 3), ("ranks", 4)):
        spoil_words(write_llama(models / name / "m.gguf", pooling=pooling))
    spoil(write_llama(models / "none/m.gguf"), "output.weight", ...)
    spoil(write_llama(models / "no-vectors/m.gguf", pooling=3), "token_embd.weight", ...)
    causal_model(models / "transformers", "Llama", max_position_embeddings=512, intermediate_size=96)
    bert_model(models / "tf-vectors", pooling="mean_tokens")
    bert_model(models / "tf-ranks", classes=1)
    for name in ("transformers", "tf-vectors", "tf-ranks"):
        spoil_torch(models / name, BAD)
    flags = ("serve.threads=1", "serve.context=512")
    with running_house(root / "home", root / "models", *flags) as house:
        for name in ("llamacpp", "transformers", "vectors", "ranks", "tf-vectors", "tf-ranks"):
            engine = "transformers" if name.startswith(("tf-", "transformers")) else "llamacpp"
            assert house.serve(f"acme/{name}", alias=name, engine=engine)["state"] == "ready"
        yield house


def ask(house: House, path: str, model: str, **body: Any) -> tuple[int, bytes]:
    status, _, answer = house.request("POST", f"/v1/{path}", {"model": model, **body})
    return status, answer


def check_refused(found: tuple[int, bytes], model: str) -> None:
    status, answer = found
    error = json.loads(answer)["error"]
    assert (status, error["code"]) == (502, "no_numbers"), answer
    assert model in error["message"] and "no numbers" in error["message"]


@pytest.mark.parametrize("model", ["llamacpp", "transformers"])
def test_what_is_written_after_a_damaged_word_is_refused(house: House, model: str) -> None:
    told = {"max_tokens": 3, "logprobs": 2}
    check_refused(ask(house, "completions", model, prompt=BAD, **told), model)
    check_refused(ask(house, "completions", model, prompt=[GOOD, BAD], **told), model)
    check_refused(ask(house, "completions", model, prompt=BAD, echo=True, max_tokens=0, logprobs=1), model)
    chat = {"messages": HELLO, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    check_refused(ask(house, "chat/completions", model, **chat), model)
    for path, body in (("chat/completions", chat), ("completions", {"prompt": BAD, **told})):
        status, answer = ask(house, path, model, stream=True, **body)
        last = answer.strip().split(b"\n\n")[-1] if status == 200 else answer
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "no_numbers", answer
        assert b'"logprob":null' not in answer
    status, answer = ask(house, "completions", model, prompt=GOOD, **told)
    assert status == 200 and b'"logprob":null' not in answer


def test_transformers_refuses_it_without_log_probabilities_too(house: House) -> None:
    model = "transformers"
    check_refused(ask(house, "chat/completions", model, messages=HELLO, max_tokens=3), model)
    check_refused(ask(house, "responses", model, input=BAD), model)
    status, answer = ask(house, "messages", model, messages=HELLO, max_tokens=3)
    assert status == 502 and b"no numbers" in answer


@pytest.mark.parametrize("model", ["vectors", "tf-vectors", "llamacpp", "transformers"])
def test_embeddings_of_a_damaged_word_are_refused(house: House, model: str) -> None:
    for given in (BAD, [GOOD, BAD]):
        for form in ("float", "base64"):
            check_refused(ask(house, "embeddings", model, input=given, encoding_format=form), model)
    status, answer = ask(house, "embeddings", model, input=GOOD)
    assert status == 200 and all(np.isfinite(json.loads(answer)["data"][0]["embedding"]))


@pytest.mark.parametrize("model", ["ranks", "tf-ranks"])
def test_ranks_of_a_damaged_word_are_refused(house: House, model: str) -> None:
    check_refused(ask(house, "rerank", model, query=GOOD, documents=[GOOD, BAD]), model)
    assert ask(house, "rerank", model, query=GOOD, documents=[GOOD, GOOD])[0] == 200


@pytest.mark.parametrize("name", ["none", "no-vectors"])
def test_a_gguf_file_without_any_number_is_refused_as_it_loads(house: House, name: str) -> None:
    """What llama.cpp writes without log-probabilities does not show it, so it is asked for a word with them first."""
    mode = "embed" if name == "no-vectors" else "generate"
    path, body = ("embeddings", {"input": GOOD}) if mode == "embed" else ("completions", {"prompt": GOOD})
    status, _, made = house.request("POST", "/fust/v1/deployments", {"repo_id": f"acme/{name}"})
    assert status == 201, made
    found = house.settled(json.loads(made)["id"])
    status, answer = ask(house, path, f"acme/{name}", **body)
    assert status == 503 and "no numbers" in json.loads(answer)["error"]["message"], (found, answer)
    zh = {"accept-language": "zh-CN"}
    said = house.request("POST", f"/v1/{path}", {"model": f"acme/{name}", **body}, headers=zh)[2].decode()
    assert "不是数字" in said
