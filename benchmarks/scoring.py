"""Scoring four-choice questions: prompts with `echo` through Fust beside a plain transformers loop over the same weights.

The peer reads each question's four rows (200 tokens of context, 8 of choice) as one batch in float32, as evaluation scripts
do; Fust gets them as four prompts of one request, through its gateway: as a GGUF in 16 bits, which llama.cpp reads, and as
safetensors, which the transformers engine reads. `echo` tells every token of a prompt; with `logprob_start_len` it tells the
choices alone, which is what an evaluation needs. One thread each, in turns. With `--native FOLDER` llama.cpp is the one that
`fust engines build` left in that folder (`engines/native` of a home) in the place of the wheel's.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import Result, Server, fust_server, options, path_given, show

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from gateway_overhead import deploy
from small_models import write_llama

from fust.serve.engines.native import find_library, folder_of

GGUF, SAFETENSORS = "admin/bench-120m-gguf", "admin/bench-120m"
CONTEXT, CHOICE, VOCABULARY = 200, 8, 32_000


def questions(count: int) -> list[list[list[int]]]:
    """Returns (questions, 4 choices, 208 tokens) of random ids."""
    dice = random.Random(1)
    ids = range(400, VOCABULARY)
    stems = [[1, *dice.choices(ids, k=CONTEXT - 1)] for _ in range(count)]
    return [[stem + dice.choices(ids, k=CHOICE) for _ in range(4)] for stem in stems]


def by_fust(server: Server, model: str, rows: list[list[int]], **more: int) -> list[float]:
    """Returns the choices' log-likelihoods of one question."""
    body = {"model": model, "prompt": rows, "echo": True, "max_tokens": 0, "logprobs": 1, **more}
    request = urllib.request.Request(
        f"{server.url}/v1/completions",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {server.token}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        choices = json.load(answer)["choices"]
    return [sum(choice["logprobs"]["token_logprobs"][CONTEXT:]) for choice in choices]


def by_transformers(model: Any, rows: list[list[int]]) -> list[float]:
    """Returns the same by one batch."""
    import torch

    ids = torch.tensor(rows)
    with torch.inference_mode():
        logits = model(ids).logits[:, CONTEXT - 1 : -1]
    taken = torch.log_softmax(logits, -1).gather(2, ids[:, CONTEXT:, None])
    return taken.sum((1, 2)).tolist()


def save(peer: Any, folder: Path) -> Path:
    """Writes the peer's weights as safetensors, with a tokenizer of fewer words: rows are given as ids."""
    from transformers import AutoTokenizer

    starter = Path(__file__).resolve().parent.parent / "src/fust/app/starter"
    AutoTokenizer.from_pretrained(starter).save_pretrained(folder)
    plain = type(peer)(peer.config)  # what was read from a GGUF does not let itself be saved
    plain.load_state_dict(peer.state_dict())
    del plain.config.quantization_config
    plain.save_pretrained(folder)
    return folder


def result_of(name: str, found: list[tuple[float, float, float]]) -> Result:
    """Returns the promise from (Fust's seconds, the loop's, worst difference) of each question."""
    ours, theirs, apart = zip(*found, strict=True)
    ratio = statistics.median(theirs) / statistics.median(ours)
    detail = {
        "questions_per_s": round(1 / statistics.median(ours), 2),
        "peer_questions_per_s": round(1 / statistics.median(theirs), 2),
        "worst_difference_per_token": f"{max(apart):.1e}",
    }
    return Result(
        name, "a transformers loop's pace", round(ratio, 3), "at least 2 times the pace", ratio >= 2, detail
    )


def main() -> int:
    """Runs the benchmark."""
    native = path_given("--native")
    given = options(__doc__.split("\n")[0] + " [--native FOLDER]")
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        fust_server(serve__threads=1, serve__context=1024) as server,
    ):
        if native:
            shutil.copytree(native, folder_of(server.home))
            assert find_library("", server.home), "that build is not used here: see `fust engines`"
        file = Path(folder) / "bench-120m.gguf"
        write_llama(file, layers=14, width=768, heads=12, feed_forward=2048, vocabulary=VOCABULARY, half=True)
        peer = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32).eval()
        deploy(server, GGUF, file)
        deploy(server, SAFETENSORS, save(peer, Path(folder) / "safetensors"), "transformers")
        warm, *asked = questions(4 if given.quick else 13)
        ways: dict[str, Callable[[list[list[int]]], list[float]]] = {
            "scoring_safetensors": lambda rows: by_fust(server, SAFETENSORS, rows),
            "scoring_safetensors_choices": lambda rows: by_fust(
                server, SAFETENSORS, rows, logprob_start_len=CONTEXT
            ),
            "scoring_gguf": lambda rows: by_fust(server, GGUF, rows),
            "scoring_gguf_choices": lambda rows: by_fust(server, GGUF, rows, logprob_start_len=CONTEXT),
        }
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for rows in [warm, *asked]:
            times = {}
            for name, ask in ways.items():
                by_fust(
                    server, GGUF, [[1, 2]]
                )  # the engine remembers its last row, and every way is asked the same
                began = time.perf_counter()
                answer = ask(rows)
                times[name] = (answer, time.perf_counter() - began)
            began = time.perf_counter()
            truth = by_transformers(peer, rows)
            peer_s = time.perf_counter() - began
            for name, (answer, seconds) in times.items():
                apart = max(abs(a - b) / CHOICE for a, b in zip(answer, truth, strict=True))
                found[name].append((seconds, peer_s, apart))
    return show([result_of(name, each[1:]) for name, each in found.items()], as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
