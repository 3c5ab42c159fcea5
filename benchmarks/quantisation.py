"""What a quantisation saves: size, memory and pace of one model in five types, each beside the same model in F16.

Weights are random, 350 million of them, so that reading them is what an answer costs; llama.cpp's server out of the wheel, in
turns, the best of some rounds. How far a quantisation moves log-probabilities is in `scoring_truth.py`.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from _common import Result, options, show

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
import psutil
from small_models import write_llama

from fust.core.ids import new_id
from fust.core.settings import ServeSettings
from fust.formats.ggml_types import FileType
from fust.formats.gguf_quantise import quantise_gguf
from fust.serve.engines.base import EngineSpec
from fust.serve.engines.llamacpp import LlamaCppEngine
from fust.serve.engines.native import WHEEL
from fust.serve.measure import ask

TYPES: tuple[FileType, ...] = ("F16", "Q8_0", "Q6_K", "Q4_K_M")
PROMPT = [400 + (i * 31) % 30_000 for i in range(256)]


@dataclass
class Found:
    """One type's figures."""

    size: int
    prompt: float = 0.0
    decode: float = 0.0
    pss: int = 0


def files_in(folder: Path) -> dict[FileType, Path]:
    """Writes the model in every type."""
    half = folder / "F16.gguf"
    write_llama(half, layers=20, width=1024, heads=16, feed_forward=3584, vocabulary=32_000, half=True)
    files: dict[FileType, Path] = {"F16": half}
    for kind in TYPES[1:]:
        files[kind] = folder / f"{kind}.gguf"
        quantise_gguf(half, files[kind], kind, threads=2)
    return files


def measure(rounds: int) -> dict[FileType, Found]:
    """Returns the figures of every type."""
    with tempfile.TemporaryDirectory(prefix="fust-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        engines, found = {}, {}
        for kind, file in files_in(folder).items():
            spec = EngineSpec(
                new_id("e"),
                file,
                "bench",
                "generate",
                1024,
                1,
                1,
                settings=ServeSettings(llama_server=WHEEL),
                log_name=kind.lower(),
            )
            engine = LlamaCppEngine(spec, folder)
            engines[kind] = engine.start(120, lambda _, reason: sys.exit(reason))
            stack.callback(engine.stop)
            found[kind] = Found(file.stat().st_size)
        for turn in range(rounds):
            for kind, info in engines.items():
                speed = ask(info.base_url, info.api_key, [token + turn for token in PROMPT])
                found[kind].prompt = max(found[kind].prompt, speed.prompt)
                found[kind].decode = max(found[kind].decode, speed.decode)
        for kind, info in engines.items():
            found[kind].pss = int(psutil.Process(info.pid).memory_full_info().pss)
    return found


def main() -> int:
    """Runs the benchmark; no figure of it is a promise."""
    given = options(__doc__.split("\n")[0])
    found = measure(2 if given.quick else 6)
    half = found["F16"]
    results = [
        Result(
            f"quantisation_{kind}",
            "F16's answer",
            round(it.decode / half.decode, 2),
            "none",
            True,
            {
                "size": round(it.size / half.size, 2),
                "memory": round(it.pss / half.pss, 2),
                "prompt": round(it.prompt / half.prompt, 2),
                "decode_tokens_per_s": round(it.decode, 1),
            },
        )
        for kind, it in found.items()
    ]
    return show(results, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
