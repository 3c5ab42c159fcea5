"""Tuning beside TRL: tokens a second, memory, loss after the same tokens, the time to the first step, the cost of checkpoints.

Real chat rows (Alpaca and GSM8K), Llamas with random weights, two threads; every figure comes from a process of its own, by
turns. TRL's defaults are its own (checkpointing on, no packing); TRL's best is the quickest of those tried, with the same
malloc.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _common import Result, Server, fust_server, options, show
from _tune_child import SKIPPED, Found, Job

from fust.tune.job import SPINS

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("FUST_BENCH_DATA", HERE.parents[1] / "shared" / "data"))
"""Folder with `llamafactory-demos/alpaca_en_demo.json` and `gsm8k/train.jsonl`."""
STARTER = HERE.parent / "src" / "fust" / "app" / "starter"
VOCABULARY = 32_000
SHAPES = {
    "16m": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 7, "num_attention_heads": 4},
    "120m": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 13,
        "num_attention_heads": 12,
    },
}
ROWS = 4000
LONGEST = 512
"""Tokens; the few longer rows are left out, so that nobody cuts any."""
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Nothing stands behind the end of an answer, so that both learn exactly the same tokens."""
BEST = [
    Job("trl", rows=8, packed=True, row_tokens=256),
    Job("trl", rows=4, packed=True, row_tokens=512),
    Job("trl", rows=8, packed=False, by_length=True),
]
"""What is tried for TRL's best; 256 cuts some answers, which costs it nothing here."""
DEFAULTS = Job("trl", checkpointing=True, pages_kept=False, packed=False)
OURS = Job("fust", rows=4, row_tokens=512)
BUSY = {"busy": True, "threads": 1}
TWIN = BEST[1]
"""The same pass as ours, in TRL."""


def read_rows() -> list[dict[str, object]]:
    """Returns conversations; exits with the reason where the data is not here."""
    alpaca, gsm = DATA / "llamafactory-demos" / "alpaca_en_demo.json", DATA / "gsm8k" / "train.jsonl"
    for path in (alpaca, gsm):
        if not path.exists():
            print(f"skipped: {path} is not here (FUST_BENCH_DATA names the folder of the rows)")
            raise SystemExit(0)
    pairs = [
        (f"{row['instruction']}\n{row['input']}".strip(), row["output"])
        for row in json.loads(alpaca.read_text())
    ]
    pairs += [(row["question"], row["answer"]) for row in map(json.loads, gsm.read_text().splitlines())]
    random.Random(1).shuffle(pairs)
    return [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}
        for asked, answered in pairs
    ]


def write_base(folder: Path, size: str) -> Path:
    """Writes a Llama with random weights, the starter's tokenizer and a template; returns its folder."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(1)
    shape = SHAPES[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY, tie_word_embeddings=True, max_position_embeddings=1024, bos_token_id=None, eos_token_id=2,
        pad_token_id=0, num_key_value_heads=shape["num_attention_heads"], **shape,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(STARTER / name, folder / name)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def make_world(folder: Path, sizes: list[str]) -> Path:
    """Fills a folder with bases, and rows as text (for TRL) and prepared (for Fust): the same ones, held-out ones apart."""
    from transformers import AutoTokenizer

    from fust.tune.files import DataFile
    from fust.tune.masks import Masker
    from fust.tune.prepare import DataWish, prepare

    for size in sizes:
        write_base(folder / size, size)
    tokenizer = AutoTokenizer.from_pretrained(folder / sizes[0])
    rows = read_rows()[: ROWS + 400]
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    short = [row for row, ids in zip(rows, tokenizer(texts)["input_ids"], strict=True) if len(ids) <= LONGEST]
    for name, part in (("rows.jsonl", short[:ROWS]), ("test.jsonl", short[ROWS : ROWS + 120])):
        (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part))
    (folder / "rows").mkdir()
    shutil.copyfile(folder / "rows.jsonl", folder / "rows" / "rows.jsonl")
    files = [DataFile(name, folder / name) for name in ("rows.jsonl", "test.jsonl")]
    prepare(files, Masker(tokenizer), DataWish(LONGEST + 1), folder / "data")
    return folder


def measure(world: Path, job: Job, **changes: object) -> Found:
    """Returns what a process of its own finds."""
    job = Job(**(asdict(job) | changes | (BUSY if "--busy" in sys.argv else {})))
    environ = os.environ | {
        "OMP_NUM_THREADS": str(job.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
    }
    if job.who == "fust":
        environ["GOMP_SPINCOUNT"] = SPINS  # as a run has it
    done = subprocess.run(
        [sys.executable, str(HERE / "_tune_child.py"), str(world), json.dumps(asdict(job))],
        capture_output=True, text=True, env=environ, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    if job.options.get("profile"):
        print(done.stderr)
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def speed(world: Path, size: str, rounds: int, bars: tuple[float, float]) -> list[Result]:
    """LoRA beside TRL as it comes and TRL at its best, by turns; and memory beside the same pass of TRL."""
    steps = {"16m": 12, "120m": 6}[size]
    tried = [(measure(world, job, size=size, steps=steps), job) for job in BEST]
    best = max(tried, key=lambda it: it[0].tokens_per_s)[1]
    ours, theirs, defaults = [], [], []
    for _ in range(rounds):
        ours.append(measure(world, OURS, size=size, steps=steps))
        theirs.append(measure(world, best, size=size, steps=steps))
        defaults.append(measure(world, DEFAULTS, size=size, steps=5))
    paces = [statistics.median(it.tokens_per_s for it in found) for found in (ours, theirs, defaults)]
    twin = next(found for found, job in tried if job == TWIN)
    memory = statistics.median(it.memory_bytes for it in ours) / twin.memory_bytes
    told = {
        "tokens_per_s": round(paces[0]),
        "peer_tokens_per_s": round(paces[1]),
        "peer": "packed" if best.packed else "by length",
        "tried": [round(it.tokens_per_s) for it, _ in tried],
    }
    return [
        compared(f"tune.{size}.defaults", "TRL's pace as it comes", paces[0] / paces[2], bars[0], {"peer_tokens_per_s": round(paces[2])}),
        compared(f"tune.{size}.best", "TRL's best pace", paces[0] / paces[1], bars[1], told),
        Result(
            f"tune.{size}.memory", "TRL's, same pass, malloc and checkpointing", round(memory, 2), "at most 0.7", memory <= 0.7,
            {"GB": round(statistics.median(it.memory_bytes for it in ours) / 1e9, 2), "peer_GB": round(twin.memory_bytes / 1e9, 2)},
        ),
    ]  # fmt: skip


def compared(name: str, peer: str, ratio: float, bar: float, detail: dict[str, object]) -> Result:
    """Returns a result that is met from a ratio on."""
    return Result(name, peer, round(ratio, 2), f"at least {bar:g}", ratio >= bar, detail)


def same_loss(world: Path, steps: int) -> list[Result]:
    """The same rows, packing, rate and number of tokens through both; what each then says of held-out rows."""
    job = {"steps": steps, "judged": True, "learning_rate": 3e-3}
    ours, theirs, before = (
        measure(world, OURS, **job),
        measure(world, TWIN, **job),
        measure(world, OURS, **(job | {"steps": SKIPPED + 1, "learning_rate": 0.0})),
    )
    ratio = ours.held_out_loss / theirs.held_out_loss
    detail = {
        "loss": round(ours.held_out_loss, 4), "peer_loss": round(theirs.held_out_loss, 4), "untrained": round(before.held_out_loss, 2),
        "tokens": ours.tokens, "peer_tokens": theirs.tokens,
    }  # fmt: skip
    return [
        Result(
            "tune.loss", "TRL's after the same tokens", round(ratio, 4), "0.99 to 1.01", abs(ratio - 1) <= 0.01, detail
        )
    ]  # fmt: skip


def whole(world: Path, rounds: int) -> list[Result]:
    """All weights of 120M: the share of the pace of bf16 matrix products."""
    shares, pace, peak, saved = [], 0.0, 0.0, []
    for _ in range(rounds):
        before, found, after = (
            measure(world, Job("peak")),
            measure(world, OURS, size="120m", method="full", steps=4, passes=4, learning_rate=1e-5),
            measure(world, Job("peak")),
        )
        peak = max(before.flops_per_s, after.flops_per_s)
        pace = found.tokens_per_s
        shares.append(found.flops_per_s / peak)
        saved.append(found.save_s)
    share = statistics.median(shares)
    return [
        compared(
            "tune.120m.full", "the bf16 matrix products' pace", share, 0.55,
            {"GFLOP_per_s": round(peak / 1e9), "tokens_per_s": round(pace), "checkpoint_s": round(statistics.median(saved), 2)},
        )
    ]  # fmt: skip


def saves(world: Path, minutes: int) -> list[Result]:
    """What a checkpoint a minute costs the training of all weights of 120M: minutes with one and without, by turns."""
    job = Job(
        "fust", rows=4, row_tokens=512, size="120m", method="full", passes=4, steps=10**6, learning_rate=1e-5
    )
    paces = measure(world, job, options={"minutes": minutes}).paces
    without, with_one = statistics.fmean(paces[::2]), statistics.fmean(paces[1::2])
    cost = 1 - with_one / without
    detail = {"tokens_per_s": [round(pace) for pace in paces]}
    return [
        Result("tune.checkpoints", "the time to train", round(cost, 4), "at most 0.03", cost <= 0.03, detail)
    ]


def ask(server: Server, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Returns what a server answers."""
    request = urllib.request.Request(
        server.url + path,
        json.dumps(body or {}).encode() if method == "POST" else None,
        {"authorization": f"Bearer {server.token}", "content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def first_step(world: Path) -> list[Result]:
    """From the request to the first step's line, on a server: 4,000 rows, 16M."""
    with fust_server() as server:
        for folder, repo, more in (
            (world / "16m", "admin/base", []),
            (world / "rows", "admin/rows", ["--type", "dataset"]),
        ):
            command = [sys.executable, "-m", "fust.cli.main", "push", str(folder), repo, *more]
            environ = os.environ | {"FUST_URL": server.url, "FUST_TOKEN": server.token}
            subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        params = {"base": "admin/base", "data": "admin/rows", "to": "admin/tuned"}
        run = ask(server, "POST", "/fust/v1/runs", {"kind": "tune", "params": params})["id"]
        while True:
            state = ask(server, "GET", f"/fust/v1/runs/{run}")
            if state["state"] not in ("queued", "running"):
                raise SystemExit(f"the run is {state['state']}: {state['error']}")
            if (progress := state["progress"]) and progress["unit"] == "steps" and progress["done"] >= 1:
                break
            time.sleep(0.05)
        took = time.perf_counter() - began
        ask(server, "POST", f"/fust/v1/runs/{run}/cancel")
        while ask(server, "GET", f"/fust/v1/runs/{run}")["state"] == "running":
            time.sleep(0.2)
    return [
        Result(
            "tune.first_step", "15 s", round(took / 15, 2), "under 1", took < 15, {"s": round(took, 1), "rows": ROWS}
        )
    ]  # fmt: skip


PARTS: dict[str, Callable[[Path], list[Result]]] = {
    "first": first_step,
    "loss": lambda world: same_loss(world, 40),
    "small": lambda world: speed(world, "16m", 2, (10, 2)),
    "large": lambda world: speed(world, "120m", 2, (2, 1.1)),
    "whole": lambda world: whole(world, 2),
    "saves": lambda world: saves(world, 5),
}
"""Each takes less than ten minutes of a quiet machine."""


def main() -> int:
    """Runs the benchmark."""
    given = options(
        __doc__.split("\n")[0],
        busy="one thread, and the processor's time: for a machine that others use",
        **dict.fromkeys(PARTS, "this part only"),
    )
    named = [name for name in PARTS if getattr(given, name)]
    missed = 0
    with tempfile.TemporaryDirectory(prefix="fust-tune-") as folder:
        world = make_world(Path(folder), ["16m", "120m"])
        if given.quick:
            missed |= show([*same_loss(world, 10), *speed(world, "16m", 1, (10, 2))], as_json=given.json)
            return missed
        for name in named or PARTS:
            if not (given.busy and name == "first"):
                missed |= show(PARTS[name](world), as_json=given.json)
    return missed


if __name__ == "__main__":
    sys.exit(main())
