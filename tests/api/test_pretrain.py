"""`fust tune --method pretrain` on a real server: documents in, a model with a tokenizer of its own out; llama.cpp agrees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fust.core.i18n import fill
from tests.conftest import RunningFust, start_fust
from tests.support.tiny_bases import write_documents

pytest.importorskip("transformers", reason="transformers is not installed (pip install 'fust[tune]')")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    """A server with documents, and a model that was made of them."""
    folder = tmp_path_factory.mktemp("pretrain")
    running = start_fust(folder / "home", jobs__cores=1)
    rows = write_documents(folder / "rows" / "rows.jsonl")
    (rows.parent / "README.md").write_text("---\nlicense: cc-by-4.0\nlanguage: [en, ru]\n---\n# Rows\n")
    running.cli("push", str(rows.parent), "admin/rows", "--type", "dataset")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def result(house: RunningFust) -> dict:
    recipe = house.home.parent / "recipe.toml"
    recipe.write_text('gguf = ["F32"]\nepochs = 2\n[model]\nfamily = "qwen3"\nnum_hidden_layers = 2\n')
    done = house.cli(
        "--json", "tune", "--method", "pretrain", "--data", "admin/rows", "--to", "admin/fresh",
        "--recipe", str(recipe), "--set", "model.vocab_size=300", "--set", "learning_rate=0.02",
    )  # fmt: skip
    return json.loads(done.stdout)["result"]


def test_a_model_of_its_own_which_transformers_and_llama_cpp_read_alike(house, result, tmp_path):
    import torch
    from huggingface_hub import snapshot_download
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(snapshot_download("admin/fresh", endpoint=house.url, token=house.token, local_dir=tmp_path))
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert (model.config.model_type, model.config.num_hidden_layers) == ("qwen3", 2)
    assert len(tokenizer) == model.config.vocab_size == result["recipe"]["model"]["vocab_size"] == 300
    text = "Mbweha 你好 🌍 The hen"
    assert tokenizer.decode(tokenizer(text).input_ids) == text, "every byte has a token"
    trained = result["trained"]
    assert trained["held_out_loss"] < trained["first_held_out_loss"] - 2
    ids = tokenizer("The lion met the", return_tensors="pt").input_ids
    with torch.no_grad():
        likely = model.float()(input_ids=ids).logits[0, -1].log_softmax(-1)
    house.cli("serve", "admin/fresh-GGUF")
    body = {
        "model": "admin/fresh-GGUF",
        "prompt": "The lion met the",
        "max_tokens": 1,
        "logprobs": 3,
        "temperature": 0,
    }
    status, _, answer = house.request("POST", "/v1/completions", body)
    assert status == 200, answer
    said = json.loads(answer)["choices"][0]
    assert tokenizer.decode([int(likely.argmax())]) == said["text"]
    assert said["logprobs"]["token_logprobs"][0] == pytest.approx(float(likely.max()), abs=0.05)
    house.cli("stop", "admin/fresh-GGUF")


def test_the_card_says_in_both_languages_that_it_is_from_nothing(house, result):
    card = house.request("GET", "/admin/fresh/resolve/main/README.md")[2].decode()
    front, english, chinese = card.split("---\n", 3)[1:]
    assert "base_model" not in front and "trained-from-scratch" in front and "license: cc-by-4.0" in front
    for said in (
        "trained from nothing",
        "qwen3: 2 layers",
        "gemma-3 wrote rows",
        result["weights_sha256"],
        "core hours",
    ):
        assert said in english, said
    for said in ("从零训练", "教师模型", result["weights_sha256"], "核时", "学习率", "限制"):
        assert said in chinese, said
    lineage = json.loads(house.request("GET", "/api/models/admin/fresh")[2])
    assert "base_model:" not in json.dumps(lineage["tags"]) and "dataset:admin/rows" in lineage["tags"]


def test_every_choice_has_its_reason_in_both_languages(result):
    chosen = {it["name"]: it for it in result["reasons"]}
    assert {"vocab_size", "tokens_per_word", "model", "step_tokens"} <= chosen.keys()
    assert chosen["vocab_size"]["why"] == "As asked."
    assert 1 < float(chosen["tokens_per_word"]["value"]) < 6
    for it in result["reasons"]:
        assert fill(it["why"], it["params"], "zh") != fill(it["why"], it["params"], "en"), it


def test_a_dry_run_says_it_before_and_trains_nothing(house, result):
    done = house.cli(
        "tune",
        "--method",
        "pretrain",
        "--data",
        "admin/rows",
        "--to",
        "admin/none",
        "--dry-run",
        "--budget",
        "1m",
    ).stdout
    assert "tokens_per_word" in done and "for each weight of the layers" in done
    assert "of the work at which a model of this size learns best" in done
    assert house.request("GET", "/api/models/admin/none")[0] == 404


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["admin/fresh", "--method", "pretrain"], "takes no base, and admin/fresh was named"),
        (["--method", "full"], "full needs a base model"),
        (["--method", "pretrain", "--set", "model.vocab_size=9"], "vocab_size is 9, and goes from 264"),
        (["--method", "pretrain", "--set", "model.hidden_size=100"], "no multiple of 32"),
        (["--method", "pretrain", "--set", "model.colour=1"], "colour"),
        (["admin/fresh", "--set", "model.vocab_size=999"], "belongs to pretrain"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_compute_is_spent(house, arguments, said):
    done = house.cli("tune", *arguments, "--data", "admin/rows", "--to", "admin/x", check=False)
    assert done.returncode != 0
    assert said in done.stderr
