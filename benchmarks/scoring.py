"""Scoring four-choice questions: prompts with `echo` through Fust beside a plain transformers loop over the same weights.

The peer reads each question's four rows (200 tokens of context, 8 of choice) as one batch in float32, as evaluation scripts
do; Fust gets them as four prompts of one request, through its gateway. One thread each, in turns.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from _common import Result, Server, fust_server, options, show

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from gateway_overhead import deploy
from small_models import write_llama

MODEL = "admin/bench-120m"
CONTEXT, CHOICE, VOCABULARY = 200, 8, 32_000


def questions(count: int) -> list[list[list[int]]]:
    """Returns (questions, 4 choices, 208 tokens) of random ids."""
    dice = random.Random(1)
    ids = range(400, VOCABULARY)
    stems = [[1, *dice.choices(ids, k=CONTEXT - 1)] for _ in range(count)]
    return [[stem + dice.choices(ids, k=CHOICE) for _ in range(4)] for stem in stems]


def by_fust(server: Server, rows: list[list[int]]) -> list[float]:
    """Returns the choices' log-likelihoods of one question."""
    body = {"model": MODEL, "prompt": rows, "echo": True, "max_tokens": 0, "logprobs": 1}
    request = urllib.request.Request(
        f"{server.url}/v1/completions",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {server.token}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        choices = json.load(answer)["choices"]
    return [sum(choice["logprobs"]["token_logprobs"][CONTEXT:]) for choice in choices]


def by_transformers(model: object, rows: list[list[int]]) -> list[float]:
    """Returns the same by one batch."""
    import torch

    ids = torch.tensor(rows)
    with torch.inference_mode():
        logits = model(ids).logits[:, CONTEXT - 1 : -1]  # type: ignore[operator]
    taken = torch.log_softmax(logits, -1).gather(2, ids[:, CONTEXT:, None])
    return taken.sum((1, 2)).tolist()


def main() -> int:
    """Runs the benchmark."""
    given = options(__doc__.split("\n")[0])
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        fust_server(serve__threads=1, serve__context=1024) as server,
    ):
        file = Path(folder) / "bench-120m.gguf"
        write_llama(file, layers=14, width=768, heads=12, feed_forward=2048, vocabulary=VOCABULARY, half=True)
        deploy(server, MODEL, file)
        peer = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32).eval()
        warm, *asked = questions(4 if given.quick else 13)
        by_fust(server, warm), by_transformers(peer, warm)
        fust_s = peer_s = worst = 0.0
        for rows in asked:
            began = time.perf_counter()
            ours = by_fust(server, rows)
            middle = time.perf_counter()
            theirs = by_transformers(peer, rows)
            fust_s += middle - began
            peer_s += time.perf_counter() - middle
            worst = max(worst, *(abs(a - b) / CHOICE for a, b in zip(ours, theirs, strict=True)))
    ratio = peer_s / fust_s
    detail = {
        "questions_per_s": round(len(asked) / fust_s, 2),
        "peer_questions_per_s": round(len(asked) / peer_s, 2),
        "worst_difference_per_token": f"{worst:.1e}",
    }
    result = Result(
        "scoring",
        "a transformers loop's pace",
        round(ratio, 3),
        "at least 2 times the pace",
        ratio >= 2,
        detail,
    )
    return show([result], as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
