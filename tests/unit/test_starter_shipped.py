"""The starter model in the wheel: small enough, whole, one model in two files, and it answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fust.app
from fust.formats import read_gguf, read_safetensors

FOLDER = Path(fust.app.__file__).parent / "starter"
GGUF = FOLDER / "starter-q8_0.gguf"
WEIGHTS = FOLDER / "model.safetensors"

CHILD = """
import json, sys, xllamacpp as x
p = x.CommonParams()
p.model.path = sys.argv[1]; p.n_ctx = 1024; p.n_parallel = 1; p.verbosity = -1
p.hostnames = ["127.0.0.1"]; p.port = 0; p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
server = x.Server(p)
answers = []
for prompt in json.loads(sys.argv[2]):
    got = server.handle_chat_completions({"messages": [{"role": "user", "content": prompt}], "temperature": 0,
                                          "max_tokens": 600})
    answers.append([got["choices"][0]["message"]["content"], got["choices"][0]["finish_reason"]])
print("RESULT" + json.dumps(answers))
"""


def test_weights_stay_under_twenty_megabytes():
    assert WEIGHTS.stat().st_size + GGUF.stat().st_size <= 20_000_000


def test_the_folder_holds_what_a_hub_repo_holds():
    names = {path.name for path in FOLDER.iterdir()}
    assert names >= {
        "README.md", "ATTRIBUTION", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "model.safetensors", "starter-q8_0.gguf", "prompts.json",
    }  # fmt: skip


def test_both_files_are_one_model():
    header, weights = read_gguf(GGUF), read_safetensors(WEIGHTS)
    config = json.loads((FOLDER / "config.json").read_text())
    assert header.parameters == weights.parameters
    assert {tensor.dtype for tensor in weights.tensors} == {"BF16"}
    assert (header.architecture, header.file_type) == ("llama", "Q8_0")
    assert header.context_length == config["max_position_embeddings"]
    assert header.chat_template == (FOLDER / "chat_template.jinja").read_text("utf-8")


def test_the_card_says_what_matters():
    card = (FOLDER / "README.md").read_text("utf-8")
    front = card.split("---")[1]
    for key in ("license:", "language:", "tags:", "library_name:", "pipeline_tag:"):
        assert key in front
    for word in ("Limits", "must not", "CC-BY", "tokens", "限制"):
        assert word in card
    header = read_gguf(GGUF)
    assert f"{header.parameters:,}" in card


def test_every_attributed_work_has_an_open_licence():
    lines = (FOLDER / "ATTRIBUTION").read_text("utf-8").splitlines()
    works = [line.split(" | ") for line in lines if line.count(" | ") == 3]
    assert len(works) > 500
    assert {work[-2] for work in works[0:]} - {"licence"} <= {
        "CC-BY-4.0",
        "CC-BY-3.0",
        "LicenseRef-Public-Domain",
    }


def test_prompts_are_three_a_language():
    prompts = json.loads((FOLDER / "prompts.json").read_text("utf-8"))
    card = (FOLDER / "README.md").read_text("utf-8")
    assert {"en", "ru"} <= set(prompts) and len(prompts) >= 4
    for language, texts in prompts.items():
        assert re.search(rf"^- {language}$", card, re.MULTILINE)
        assert len(texts) == 3 and all(isinstance(text, str) and text for text in texts)


def test_the_engine_answers_and_stops():
    pytest.importorskip("xllamacpp")
    prompts = ["Who are you?", "Кто ты?", "Hello"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(GGUF), json.dumps(prompts)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    line = next((ln for ln in done.stdout.splitlines() if ln.startswith("RESULT")), None)
    assert line, done.stderr[-2000:]
    answers = json.loads(line.removeprefix("RESULT"))
    assert all(reason == "stop" and text.strip() for text, reason in answers)
    assert "Fust" in answers[0][0] and "Fust" in answers[1][0]


def test_transformers_loads_it_and_sees_the_same_tokens():
    transformers = pytest.importorskip("transformers", reason="needs fust[tune]")
    torch = pytest.importorskip("torch", reason="needs fust[tune]")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who are you?"}], add_generation_prompt=True, return_tensors="pt"
    )
    out = model.generate(**ids, max_new_tokens=80, do_sample=False, repetition_penalty=1.0)
    text = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Fust" in text
