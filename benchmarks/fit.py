"""How near the estimate of a model's memory comes to what its engine takes after requests that fill every slot's context.

Random models of more than 100 million parameters in several architectures and quantisations, each with a context, a number
of slots and a way of being used (which decides the type of its cache). PSS is measured, so mapped weights count in full.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from _common import Result, options, show

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support.hf_models import fallback_tokenizer, tokenizer_of

from fust.formats.gguf_write import write_gguf
from fust.serve.engines.base import EngineSpec
from fust.serve.engines.llamacpp import LlamaCppEngine
from fust.serve.facts import read_facts

WITHIN = 0.15


@dataclass(frozen=True)
class Case:
    """A model, and how its engine is started."""

    kind: str
    """As transformers calls the architecture."""
    file_type: str
    context: int
    slots: int
    mode: Literal["generate", "embed", "score"] = "generate"
    shape: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Returns what it is called in the table."""
        return f"{self.kind} {self.file_type}, {self.slots} x {self.context}, {self.mode}"


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
    Case("Phi3", "Q4_K_M", 2048, 2),
]


def write_model(folder: Path, case: Case) -> Path:
    """Writes a random model of the case's architecture; returns its GGUF file."""
    import torch
    import transformers

    shape: dict[str, Any] = {
        "vocab_size": 32_000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 14,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": case.kind in ("Qwen3", "Gemma3Text"),
    }
    if case.kind == "Gemma3Text":
        shape |= {"sliding_window": 512, "num_hidden_layers": 18, "query_pre_attn_scalar": 64}
    if case.kind == "Phi3":
        shape |= {"pad_token_id": 0, "num_key_value_heads": 12}
    folder.mkdir()
    if case.kind in ("Gemma3Text", "Phi3"):
        fallback_tokenizer(folder, prepends="" if case.kind == "Gemma3Text" else "normalizer")
    else:
        tokenizer_of(None, folder)
    torch.manual_seed(1)
    config = getattr(transformers, f"{case.kind}Config")(**shape | case.shape)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02) if parameter.dim() > 1 else parameter.data.fill_(1)
    model.tie_weights()
    model.save_pretrained(folder)
    target = folder / "model.gguf"
    write_gguf(folder, target, case.file_type, name=case.name)  # type: ignore[arg-type]
    return target


def fill(engine: LlamaCppEngine, case: Case, *, quick: bool) -> None:
    """Sends every slot a request that fills its context; a quick run sends one slot a batch."""
    assert engine.info is not None
    length = min(600, case.context - 16) if quick else case.context - 16
    bodies: list[tuple[str, dict[str, Any]]] = []
    for slot in range(1 if quick else case.slots):
        tokens = [300 + (number * 7 + slot * 13) % 150 for number in range(length)]
        if case.mode == "score":
            bodies.append(("/score", {"rows": [{"tokens": tokens}], "top": 1}))
        elif case.mode == "embed":
            bodies.append(("/v1/embeddings", {"input": tokens}))
        else:
            bodies.append(("/v1/completions", {"prompt": tokens, "max_tokens": 8, "ignore_eos": True}))
    failed: list[BaseException] = []

    def send(path: str, body: dict[str, Any]) -> None:
        assert engine.info is not None
        request = urllib.request.Request(
            engine.info.base_url + path,
            json.dumps(body).encode(),
            {"authorization": f"Bearer {engine.info.api_key}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=900) as answer:
                answer.read()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def measure(case: Case, home: Path, *, quick: bool) -> Result:
    """Returns estimate over measured memory of a case."""
    path = write_model(home / case.name.replace(" ", "-").replace(",", ""), case)
    facts = read_facts(path, path.stat().st_size)
    pooling = facts.embed_pooling() if case.mode == "embed" else ""
    spec = EngineSpec("fit", path, "fit", case.mode, case.context, case.slots, 1, pooling=pooling)
    engine = LlamaCppEngine(spec, home)
    engine.start(120, lambda _, why: None)
    try:
        idle = engine.memory_bytes()
        fill(engine, case, quick=quick)
        measured = engine.memory_bytes()
    finally:
        engine.stop()
    estimate = facts.memory_bytes(case.mode, case.context, case.slots)
    ratio = estimate / measured
    detail = {
        "estimate_mb": estimate // 10**6,
        "measured_mb": measured // 10**6,
        "loaded_mb": idle // 10**6,
        "file_mb": facts.weights_bytes // 10**6,
    }
    shutil.rmtree(path.parent)
    return Result(
        f"fit: {case.name}", "what it takes", round(ratio, 3), "0.85 to 1.15", abs(ratio - 1) <= WITHIN, detail
    )  # fmt: skip


def main() -> int:
    """Runs the benchmark."""
    given = options(__doc__.split("\n")[0])
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            failed |= show([measure(case, Path(folder), quick=given.quick)], as_json=given.json)
    return failed


if __name__ == "__main__":
    sys.exit(main())
