"""How near the estimate of a model's memory comes to what its engine takes after requests that fill every slot's context.

Random models of more than 100 million parameters in several architectures and quantisations, each with an engine, a context, a
number of slots, a way of being used and adapters. PSS is measured, so mapped weights count in full. An engine of transformers
answers for everything that its model can, so each of its routes is asked with as much as it takes.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from _common import Result, options, path_given, show
from _fit_models import write_adapters, write_folder

from fust.formats.gguf_write import write_gguf
from fust.serve.engines.base import EngineSpec, HeldAdapters
from fust.serve.engines.child_engine import ChildEngine
from fust.serve.engines.kinds import get_kind
from fust.serve.engines.safetensors import EMBED_TOKENS
from fust.serve.facts import ModelFacts
from fust.serve.swap import largest_of, size_of

WITHIN = 0.15
_TEXT = "%"  # a token of its own in every tokenizer here
_SMALL = {"vocab_size": 512, "num_hidden_layers": 15}
"""A table of words that a text does not touch would not be in memory."""
Body = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A model, and how its engine is started."""

    kind: str
    """As transformers calls the architecture."""
    file_type: str
    """Of a GGUF file; for the transformers engine the type of its safetensors."""
    context: int
    slots: int
    mode: Literal["generate", "embed", "score"] = "generate"
    shape: dict[str, Any] = field(default_factory=dict)
    adapters: int = 0
    rank: int = 16
    engine: Literal["llamacpp", "transformers"] = "llamacpp"

    @property
    def name(self) -> str:
        """Returns what it is called in the table."""
        beside = f", {self.adapters} adapters of rank {self.rank}" if self.adapters else ""
        used = self.mode if self.engine == "llamacpp" else "transformers"
        return f"{self.kind} {self.file_type}, {self.slots} x {self.context}, {used}{beside}"


CASES = [
    Case("Llama", "F16", 2048, 4),
    Case("Llama", "Q8_0", 4096, 1),
    Case("Llama", "Q4_K_M", 1024, 8),
    Case("Llama", "Q8_0", 2048, 1, "score"),
    Case("Llama", "F16", 2048, 1, "embed"),
    Case("Qwen3", "Q8_0", 1024, 1, "embed"),
    Case("Qwen2", "F32", 512, 8),
    Case("Qwen3", "Q8_0", 2048, 2),
    Case("Qwen3", "Q4_K_M", 4096, 1, shape={"vocab_size": 100_000}),
    Case("Qwen3", "F16", 1024, 1, "score", shape={"vocab_size": 100_000}),
    Case("Gemma3Text", "Q8_0", 4096, 2),
    Case("Gemma3Text", "Q8_0", 4096, 1, "score"),
    Case("Phi3", "Q4_K_M", 2048, 2),
    Case("Llama", "F16", 1024, 4, adapters=4),
    Case("Llama", "Q8_0", 2048, 2, adapters=2, rank=64),
    Case("Qwen3", "Q4_K_M", 1024, 4, adapters=4, rank=64),
    Case("Qwen2", "Q8_0", 2048, 1, "score", adapters=2, rank=64),
    Case("Llama", "bfloat16", 2048, 4, engine="transformers"),
    Case("Qwen3", "float32", 1024, 8, engine="transformers"),
    Case("Qwen2", "bfloat16", 4096, 1, engine="transformers", shape={"vocab_size": 100_000}),
    Case("Gemma3Text", "bfloat16", 2048, 2, engine="transformers"),
    Case("GPT2", "float32", 1024, 4, engine="transformers"),
    Case("BertModel", "float32", 512, 1, engine="transformers", shape=_SMALL),
    Case("BertForSequenceClassification", "float32", 512, 1, engine="transformers", shape=_SMALL),
]


def bodies(case: Case, facts: ModelFacts, adapters: HeldAdapters, *, quick: bool) -> Iterator[list[Body]]:
    """Yields what is sent at the same time: requests that fill every slot; a quick run sends one slot a batch."""
    length = min(600, case.context - 16) if quick else case.context - 16
    rows = [
        [300 + (number * 61 + slot * 13) % (facts.vocabulary - 300) for number in range(length)]
        for slot in range(1 if quick else case.slots)
    ]
    writes = [
        ("/v1/completions", {"prompt": row, "max_tokens": 8, "ignore_eos": True, **_adapters(case, number)})
        for number, row in enumerate(rows)
    ]
    with_each = [{"adapter": str(path)} for _, path in adapters] or [{}]
    scores = [("/score", {"rows": [{"tokens": rows[0]}], "top": 1, **adapter}) for adapter in with_each]
    several = max(1, EMBED_TOKENS // case.context) if case.engine == "transformers" else 1
    filling = _TEXT * length if facts.is_encoder else rows[0]
    embeds = [("/v1/embeddings", {"input": [filling] * several})]
    if case.engine == "llamacpp":
        yield {"generate": writes, "score": scores, "embed": embeds}[case.mode]
    elif "classify" in facts.known:
        yield [("/v1/classify", {"input": [_TEXT * (case.context - 16)]})]
    elif facts.is_encoder:
        yield embeds
    else:
        yield from (writes, scores, embeds)


def _adapters(case: Case, number: int) -> dict[str, Any]:
    """Returns which adapter a slot writes with, as the gateway says it."""
    chosen = number % case.adapters if case.adapters else -1
    return (
        {"lora": [{"id": i, "scale": float(i == chosen)} for i in range(case.adapters)]}
        if case.adapters
        else {}
    )


def send_all(engine: ChildEngine, batch: list[Body]) -> None:
    """Sends requests at the same time; returns when all are answered."""
    assert engine.info is not None
    info = engine.info
    failed: list[BaseException] = []

    def send(path: str, body: dict[str, Any]) -> None:
        headers = {"authorization": f"Bearer {info.api_key}", "content-type": "application/json"}
        request = urllib.request.Request(info.base_url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=900) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            failed.append(RuntimeError(error.read().decode()))
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=body) for body in batch]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def write_model(folder: Path, case: Case) -> tuple[Path, HeldAdapters]:
    """Writes a case's model and adapters; returns the file that its engine opens, and the adapters."""
    if case.engine == "transformers":
        write_folder(folder, case.kind, case.file_type, case.shape)
        return folder / "model.safetensors", ()
    write_folder(folder, case.kind, "bfloat16", case.shape)
    path = folder / "model.gguf"
    write_gguf(folder, path, case.file_type, name=case.name)  # type: ignore[arg-type]
    return path, write_adapters(folder, path, case.adapters, case.rank)


def measure(case: Case, home: Path, *, quick: bool) -> Result:
    """Returns estimate over measured memory of a case."""
    kind = get_kind(case.engine)
    path, adapters = write_model(home / "model", case)
    facts = kind.read_facts(path, path.stat().st_size)
    pooling = facts.embed_pooling() if case.mode == "embed" else ""
    is_scored = case.mode == "score"  # with one adapter at a time, which the request names
    held, taken = ((), largest_of(adapters)) if is_scored else (adapters, size_of(adapters))
    spec = EngineSpec(
        "fit", path, "fit", case.mode, case.context, case.slots, 1, pooling=pooling, adapters=held
    )
    engine = kind.make(spec, home)
    assert isinstance(engine, ChildEngine)
    engine.start(120, lambda _, why: None)
    after: list[int] = []
    try:
        idle = engine.memory_bytes()
        for batch in bodies(case, facts, adapters, quick=quick):
            send_all(engine, batch)
            after.append(engine.memory_bytes())
    finally:
        engine.stop()
    estimate = facts.memory_bytes(case.mode, case.context, case.slots) + taken
    ratio = estimate / max(after)
    detail = {
        "estimate_mb": estimate // 10**6,
        "measured_mb": max(after) // 10**6,
        "after_mb": [each // 10**6 for each in after],
        "loaded_mb": idle // 10**6,
        "file_mb": facts.weights_bytes // 10**6,
        "adapters_mb": taken // 10**6,
    }
    shutil.rmtree(path.parent)
    return Result(
        f"fit: {case.name}", "what it takes", round(ratio, 3), "0.85 to 1.15", abs(ratio - 1) <= WITHIN, detail
    )  # fmt: skip


def main() -> int:
    """Runs the benchmark; `--only WORD` runs the cases with a word in their names."""
    word = path_given("--only")
    given = options(__doc__.split("\n")[0])
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if word in case.name:
                failed |= show([measure(case, Path(folder), quick=given.quick)], as_json=given.json)
    return failed


if __name__ == "__main__":
    sys.exit(main())
