"""Measures a finished model: bits per byte on held-out stories, and what 100 answers a language look like.

    python -m examples.starter.measure --corpus DIR --model DIR

The answers come from the shipped GGUF through the engine that serves it, at the sampling of generation_config.json.
Counted are answers that end by themselves, that stay in the language of the prompt (py3langid, all its languages
allowed), and that share a run of 20 tokens with a training story.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from examples.starter.chat import Phrases
from examples.starter.corpus import Corpus, read_corpus
from examples.starter.export import GGUF_NAME, write_json
from examples.starter.sources import LANGUAGES
from tokenizers import Tokenizer

RUN_TOKENS = 20
MAX_TOKENS = 700
SLOTS = 4

ENGINE = """
import sys, xllamacpp as x
p = x.CommonParams()
p.model.path = sys.argv[1]; p.n_parallel = int(sys.argv[2]); p.n_ctx = 1024 * p.n_parallel
p.verbosity = -1; p.hostnames = ["127.0.0.1"]; p.port = 0
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(sys.argv[3])
server = x.Server(p)
print("READY", server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def engine(gguf: Path, threads: int = 1) -> Iterator[str]:
    """Runs the engine in a process of its own and gives its address."""
    with subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(gguf), str(SLOTS), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            address = next((line.split()[1] for line in child.stdout if line.startswith("READY")), None)
            if address is None:
                raise RuntimeError(f"the engine could not load {gguf}")
            yield address
        finally:
            child.kill()


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer."""

    prompt: str
    text: str
    ended: bool


def ask(address: str, prompt: str, seed: int, sampling: dict[str, float]) -> Answer:
    """Returns the model's answer to one message."""
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": MAX_TOKENS,
        "seed": seed,
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "repeat_penalty": sampling["repetition_penalty"],
    }
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        choice = json.load(response)["choices"][0]
    return Answer(prompt, choice["message"]["content"] or "", choice["finish_reason"] == "stop")


def runs_of(ids: list[int] | npt.NDArray[np.int64], length: int = RUN_TOKENS) -> npt.NDArray[np.uint64]:
    """Returns a 64-bit hash of every run of ``length`` tokens."""
    array = np.asarray(ids, dtype=np.uint64)
    n = len(array) - length + 1
    if n <= 0:
        return np.empty(0, np.uint64)
    out = np.zeros(n, np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        for j in range(length):
            out = out * factor + array[j : j + n] + np.uint64(1)
    return out


def training_runs(corpus: Corpus, tokenizer: Tokenizer, language: str) -> npt.NDArray[np.uint64]:
    """Returns the sorted hashes of all runs in the training stories of a language."""
    encoded = tokenizer.encode_batch([s.text for s in corpus.of(language, "train")])
    parts = [runs_of(e.ids) for e in encoded]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)


def copies(text: str, tokenizer: Tokenizer, known: npt.NDArray[np.uint64]) -> bool:
    """Returns whether the text shares a run of 20 tokens with the training stories."""
    own = runs_of(tokenizer.encode(text).ids)
    if not len(own) or not len(known):
        return False
    return bool((known[np.minimum(np.searchsorted(known, own), len(known) - 1)] == own).any())


def language_of(text: str) -> str:
    """Returns the language that py3langid sees."""
    import py3langid

    return str(py3langid.classify(text)[0])


def prompts_for(language: str, count: int, seed: int) -> list[str]:
    """Returns wishes for stories: half of them with a topic."""
    order = random.Random(f"{seed}{language}")
    return [Phrases().wish(language, order, with_topic=i % 2 == 0) for i in range(count)]


def measure_answers(
    corpus: Corpus, folder: Path, count: int = 100, seed: int = 7
) -> dict[str, dict[str, object]]:
    """Returns the counts per language, and three samples of each."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    sampling = json.loads((folder / "generation_config.json").read_text())
    figures: dict[str, dict[str, object]] = {}
    with engine(folder / GGUF_NAME) as address, ThreadPoolExecutor(SLOTS) as pool:
        for language in LANGUAGES:
            prompts = prompts_for(language, count, seed)
            jobs = [pool.submit(ask, address, prompt, seed + i, sampling) for i, prompt in enumerate(prompts)]
            answers = [job.result() for job in jobs]
            known = training_runs(corpus, tokenizer, language)
            figures[language] = {
                "samples": len(answers),
                "ended": sum(a.ended for a in answers),
                "in_language": sum(language_of(a.text) == language for a in answers),
                "copied_20_tokens": sum(copies(a.text, tokenizer, known) for a in answers),
                "mean_characters": round(sum(len(a.text) for a in answers) / max(1, len(answers))),
                "examples": [{"prompt": a.prompt, "text": a.text} for a in answers[:3]],
            }
    return figures


def main() -> None:
    """Measures and prints; writes JSON beside the model when asked."""
    parser = argparse.ArgumentParser(prog="python -m examples.starter.measure")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    asked = parser.parse_args()
    figures = measure_answers(read_corpus(asked.corpus), asked.model, asked.count)
    if asked.json:
        write_json(asked.json, figures)
    for language, row in figures.items():
        print(language, {k: v for k, v in row.items() if k != "examples"})


if __name__ == "__main__":
    main()
