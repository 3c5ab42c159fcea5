"""What a dry run foretells beside what the run then takes: memory and time, over methods, sizes and lengths.

Each combination is a process of its own that measures a step as a dry run does, foretells, and trains to the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import Result, options, show
from tune import make_world

from fust.tune.job import SPINS

COMBINATIONS = [
    ("16m", "lora", 512), ("16m", "full", 512), ("16m", "dpo", 1024), ("16m", "continue", 256),
    ("120m", "lora", 512), ("120m", "full", 512), ("120m", "dpo", 1024), ("120m", "continue", 256),
]  # fmt: skip


def prepare_all(world: Path) -> None:
    """Prepares pairs (the answer of another row is the worse one) and documents beside the conversations."""
    from transformers import AutoTokenizer

    from fust.tune.files import DataFile
    from fust.tune.masks import Masker
    from fust.tune.prepare import DataWish, prepare

    masker = Masker(AutoTokenizer.from_pretrained(world / "16m"))
    rows = [json.loads(line)["messages"] for line in (world / "rows.jsonl").read_text().splitlines()[:400]]
    pairs = [
        {"prompt": row[:1], "chosen": row[1:], "rejected": other[1:]}
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
    ]
    texts = [{"text": "\n".join(message["content"] for message in row)} for row in rows]
    for name, lines, wish in (
        ("lora", [{"messages": row} for row in rows], DataWish(513)),
        ("dpo", pairs, DataWish(512, pairs=True)),
        ("continue", texts, DataWish(257, documents=True)),
    ):
        path = world / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        prepare([DataFile(path.name, path)], masker, wish, world / f"data-{name}")


def foretell(world: Path, size: str, method: str, row_tokens: int, steps: int) -> dict[str, float]:
    """Returns what was foretold and what it was, of one run in this process."""
    from transformers import AutoTokenizer

    from fust.tune.batches import Batches
    from fust.tune.estimate import memory_taken, run_seconds
    from fust.tune.model import Tuned
    from fust.tune.prepare import Prepared
    from fust.tune.recipe import Recipe
    from fust.tune.samples import Sampler, choose_prompts
    from fust.tune.set_up import keep_malloc_pages, set_up_torch
    from fust.tune.train import Training

    class Silent:
        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: False

    keep_malloc_pages()
    adapts = method in ("lora", "dpo")
    recipe = Recipe(
        method=method, base="", base_revision="", data="", data_revision="", data_key="", seed=1, precision="bf16",  # type: ignore[arg-type]
        threads=int(os.environ["OMP_NUM_THREADS"]), row_tokens=row_tokens, rows_per_pass=2048 // row_tokens, passes_per_step=2,
        steps=steps, warmup_steps=1, learning_rate=1e-4, weight_decay=0.0, betas=(0.9, 0.999), clip_norm=1.0,
        lora_rank=16 if adapts else 0, lora_alpha=32, beta=0.1 if method == "dpo" else 0.0, checkpointing=False,
        evaluate_every=max(1, steps // 8), versions={},
    )  # fmt: skip
    set_up_torch(recipe)
    prepared = Prepared.open(world / f"data-{'lora' if method == 'full' else method}")
    batches = Batches(prepared, row_tokens)
    tuned = Tuned(recipe, world / size)
    sampler = Sampler(tuned, AutoTokenizer.from_pretrained(world / size), choose_prompts(prepared))
    folder = world / f"run-{os.getpid()}"
    training = Training(tuned, recipe, "bench", batches, folder / "checkpoints", Silent(), sampler)  # type: ignore[arg-type]
    step_s, samples_s = training.measure(), sampler.measure()
    time_s = run_seconds(recipe, step_s, len(batches.train), len(batches.held_out), samples_s)
    memory = memory_taken()
    began = time.monotonic()
    training.run()
    took_s = time.monotonic() - began
    (folder / "out").mkdir()
    tuned.write(folder / "out")
    return {
        "memory": memory / memory_taken(),
        "time": time_s / took_s,
        "GB": memory_taken() / 1e9,
        "s": took_s,
    }


def main() -> int:
    """Runs the benchmark."""
    if sys.argv[1:2] == ["--one"]:
        world, size, method, row_tokens, steps = sys.argv[2:]
        print(json.dumps(foretell(Path(world), size, method, int(row_tokens), int(steps))))
        return 0
    given = options(__doc__.split("\n")[0])
    missed = 0
    with tempfile.TemporaryDirectory(prefix="fust-estimate-") as folder:
        world = make_world(Path(folder), ["16m", "120m"])
        prepare_all(world)
        for size, method, row_tokens in COMBINATIONS[: 4 if given.quick else None]:
            steps = {"16m": 24, "120m": 8}[size]
            command = [sys.executable, __file__, "--one", *map(str, (world, size, method, row_tokens, steps))]
            environ = os.environ | {
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
                "GOMP_SPINCOUNT": SPINS,
            }
            done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            found = json.loads(done.stdout.splitlines()[-1])
            name = f"tune_estimate.{size}.{method}.{row_tokens}"
            rounded = {key: round(value, 2) for key, value in found.items()}
            results = [
                Result(f"{name}.{what}", "what it was", rounded[what], f"{1 - far:g} to {1 + far:g}", abs(found[what] - 1) <= far, rounded)
                for what, far in (("memory", 0.15), ("time", 0.3))
            ]  # fmt: skip
            missed |= show(results, as_json=given.json)
    return missed


if __name__ == "__main__":
    sys.exit(main())
