"""Our GGUF files against transformers: the same token ids, and log-probabilities within 5e-3 in F32."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fust.core.errors import InvalidInput
from fust.formats import read_gguf
from fust.formats.gguf_write import encode, write_gguf
from fust.formats.hf_tokenizer import PRE_TOKENIZERS

torch = pytest.importorskip("torch", reason="needs fust[tune]")
transformers = pytest.importorskip("transformers", reason="needs fust[tune]")
pytest.importorskip("tokenizers", reason="needs fust[tune]")
from tests.support.hf_models import PROBE, model_in, tokenizer_of  # noqa: E402

CHILD = """
import json, sys, xllamacpp as x
asked = json.load(sys.stdin)
p = x.CommonParams()
p.model.path = asked["model"]; p.n_ctx = 256; p.n_parallel = 1; p.verbosity = -1; p.warmup = False
p.hostnames = ["127.0.0.1"]; p.port = 0
p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
import urllib.request
server = x.Server(p)
def post(path, body):
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))
out = {"ids": [post("/tokenize", {"content": t, "parse_special": True})["tokens"] for t in asked["texts"]], "logprobs": []}
for ids in asked["prefixes"]:
    got = post("/completion", {"prompt": ids, "n_predict": 1, "n_probs": asked["vocab"],
                               "logit_bias": [[asked["letter"], 1000.0]]})  # a whole character, or nothing is sent
    top = got["completion_probabilities"][0]["top_logprobs"]
    out["logprobs"].append({t["id"]: t["logprob"] for t in top})
print("RESULT" + json.dumps(out))
"""


def in_engine(gguf: Path, prefixes: list[list[int]], letter: int) -> dict:
    pytest.importorskip("xllamacpp")
    asked = {"model": str(gguf), "texts": PROBE, "prefixes": prefixes, "vocab": 512, "letter": letter}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(asked), capture_output=True, text=True, timeout=120
    )
    line = next((ln for ln in done.stdout.splitlines() if ln.startswith("RESULT")), None)
    assert line, done.stderr[-2000:]
    return json.loads(line.removeprefix("RESULT"))


@pytest.mark.parametrize(
    ("kind", "tied", "pre"),
    [
        ("Llama", True, "qwen35"),
        ("Llama", False, "llama-bpe"),
        ("Qwen3", True, "qwen2"),
        ("Qwen2", False, "gpt-2"),
    ],
)
def test_engine_and_transformers_agree(tmp_path, kind, tied, pre):
    rule = next((rule for rule, name in PRE_TOKENIZERS.items() if name == pre), None)
    tokenizer = tokenizer_of(rule, tmp_path)
    model = model_in(tmp_path, kind, tied)
    target = tmp_path / "m.gguf"
    write_gguf(tmp_path, target, "F32", name="test")
    assert read_gguf(target).values["tokenizer.ggml.pre"] == pre

    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in PROBE]
    prefixes = [ids[i][:n] for i, n in ((0, 4), (0, 16), (1, 9), (2, 12), (3, 7), (4, 20))]
    got = in_engine(target, prefixes, tokenizer.token_to_id("a"))
    assert got["ids"] == ids
    differences = []
    for prefix, found in zip(prefixes, got["logprobs"], strict=True):
        with torch.inference_mode():
            wanted = torch.log_softmax(model(torch.tensor([prefix])).logits[0, -1].double(), -1)
        differences += [abs(value - wanted[int(token)].item()) for token, value in found.items()]
    assert len(differences) > 1000
    assert float(np.mean(differences)) < 5e-3


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_smaller_types_hold_the_weights_to_their_precision(tmp_path, kind):
    gguf = pytest.importorskip("gguf", reason="the reference reader")
    tokenizer_of(None, tmp_path)
    model = model_in(tmp_path, "Qwen3", True)
    write_gguf(tmp_path, tmp_path / "m.gguf", kind, name="test", licence="mit")
    header = read_gguf(tmp_path / "m.gguf")
    assert (header.architecture, header.file_type, header.context_length) == ("qwen3", kind, 256)
    assert header.text("general.license") == "mit"
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tensor = next(t for t in reader.tensors if t.name == "blk.1.ffn_up.weight")
    back = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    wanted = model.model.layers[1].mlp.up_proj.weight.detach().numpy()
    assert np.abs(back - wanted).max() < np.abs(wanted).max() / {"F16": 1000, "BF16": 200, "Q8_0": 100}[kind]


@pytest.mark.parametrize("kind", ["BF16", "Q8_0"])
def test_values_are_encoded_as_the_reference_does(kind):
    gguf = pytest.importorskip("gguf", reason="the reference quantiser")
    values = np.random.default_rng(3).normal(size=(64, 96)).astype(np.float32)
    values[0, :32] = 0
    wanted = gguf.quants.quantize(values, getattr(gguf.GGMLQuantizationType, kind))
    assert encode(values, kind) == wanted.tobytes()


def changed(folder: Path, name: str, change) -> None:
    path = folder / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


REFUSALS = {
    "architecture": ("config.json", lambda c: c.update(architectures=["MambaForCausalLM"])),
    "rope": ("config.json", lambda c: c.update(rope_parameters={"rope_type": "yarn", "factor": 4.0})),
    "activation": ("config.json", lambda c: c.update(hidden_act="gelu")),
    "layers": ("config.json", lambda c: c.update(num_hidden_layers=3)),
    "rule": ("tokenizer.json", lambda t: t.update(pre_tokenizer={"type": "Whitespace"})),
    "normalizer": ("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"})),
    "unigram": ("tokenizer.json", lambda t: t.update(model={"type": "Unigram", "vocab": [["a", 0.0]]})),
    "merges": ("tokenizer.json", lambda t: t["model"].update(ignore_merges=True)),
    "size": ("config.json", lambda c: c.update(vocab_size=100)),
    "type": ("config.json", lambda c: c.update(hidden_size="large")),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_not_certain_is_refused(tmp_path, what):
    tokenizer_of(None, tmp_path)
    model_in(tmp_path, "Llama", True)
    changed(tmp_path, *REFUSALS[what])
    with pytest.raises(InvalidInput):
        write_gguf(tmp_path, tmp_path / "m.gguf", "F32", name="test")
    assert not list(tmp_path.glob("*.gguf*"))
