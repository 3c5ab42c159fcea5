"""What the packaged llama.cpp makes of texts and token ids: in a process of its own, for it may abort."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

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


def in_engine(
    gguf: Path, texts: Sequence[str], prefixes: Sequence[list[int]] = (), letter: int = 0, vocab: int = 512
) -> dict:
    """Returns the ids of the texts, and the log-probabilities of every token that may follow each prefix.

    Args:
        gguf: the model.
        texts: to tokenize; special tokens in them count as such.
        prefixes: token ids.
        letter: a token that is a whole character.
        vocab: how many tokens the model has.

    """
    pytest.importorskip("xllamacpp")
    asked = {
        "model": str(gguf),
        "texts": list(texts),
        "prefixes": list(prefixes),
        "vocab": vocab,
        "letter": letter,
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(asked), capture_output=True, text=True, timeout=120
    )
    line = next((ln for ln in done.stdout.splitlines() if ln.startswith("RESULT")), None)
    assert line, done.stderr[-2000:]
    return json.loads(line.removeprefix("RESULT"))
