"""One measurement of `benchmarks/tune.py`, in a process of its own: trains with Fust's loop or with TRL and prints a JSON line.

python _tune_child.py WORLD '{"who": "fust", ...}'       (fields: `Job`)
"""

# torch, transformers, peft and trl type their functions only in part.
# pyright: basic

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SKIPPED = 2
"""Steps that are not timed: the first ones take memory from the system and fill caches."""


@dataclass(frozen=True)
class Job:
    """What a child measures."""

    who: str
    """`fust`, `trl` or `peak`."""
    size: str = "16m"
    method: str = "lora"
    steps: int = 6
    checkpointing: bool = False
    pages_kept: bool = True
    """Whether malloc keeps the pages of freed tensors."""
    packed: bool = True
    by_length: bool = False
    rows: int = 8
    """Rows of a pass."""
    row_tokens: int = 256
    passes: int = 1
    threads: int = 2
    learning_rate: float = 1e-3
    busy: bool = False
    """Whether the processor's time counts and not the clock's: what others do on the machine then changes little."""
    judged: bool = False
    """Whether the held-out loss is computed when all is done, by transformers alone and in fp32."""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Found:
    """What came of it."""

    tokens_per_s: float = 0.0
    """Of those that are not padding."""
    tokens: int = 0
    """All that were read, those of the skipped steps too."""
    learned_share: float = 0.0
    memory_bytes: int = 0
    held_out_loss: float = 0.0
    flops_per_s: float = 0.0
    save_s: float = 0.0
    """Of one checkpoint, where training stands still meanwhile."""
    paces: list[float] = field(default_factory=list)
    """Tokens a second of one minute after the other, at the beginning of every second of which a checkpoint is begun."""


def main() -> None:
    """Measures and prints."""
    world, job = Path(sys.argv[1]), Job(**json.loads(sys.argv[2]))
    warnings.simplefilter("ignore")
    if job.pages_kept:
        from fust.tune.set_up import keep_malloc_pages

        keep_malloc_pages()
    do = {"fust": by_fust, "trl": by_trl, "peak": peak}[job.who]
    with contextlib.redirect_stdout(sys.stderr):
        found = do(world, job)
    found.memory_bytes = found.memory_bytes or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(asdict(found)))


def clock(job: Job) -> float:
    """Returns seconds."""
    return time.process_time() if job.busy else time.perf_counter()


def timed(marks: list[tuple[float, int]]) -> float:
    """Returns tokens a second from (time, tokens so far) after each step."""
    (began, before), (ended, after) = marks[SKIPPED - 1], marks[-1]
    return (after - before) / (ended - began)


def by_fust(world: Path, job: Job) -> Found:
    """Fust's loop as a run has it: rows, packing, steps, checkpoints."""
    from fust.tune.batches import Batches
    from fust.tune.model import Tuned
    from fust.tune.prepare import Prepared
    from fust.tune.recipe import Recipe
    from fust.tune.set_up import set_up_torch
    from fust.tune.train import Training

    recipe = Recipe(
        method="lora" if job.method == "lora" else "full", base="bench/base", base_revision="", data="bench/rows", data_revision="",
        data_key="", seed=1, precision=job.options.get("precision", "bf16"), threads=job.threads, row_tokens=job.row_tokens, rows_per_pass=job.rows,
        passes_per_step=job.passes, steps=job.steps, warmup_steps=max(1, job.steps // 20), learning_rate=job.learning_rate,
        weight_decay=0.0, betas=(0.9, 0.999), clip_norm=1.0, lora_rank=16 if job.method == "lora" else 0, lora_alpha=32, beta=0.0,
        checkpointing=job.checkpointing, evaluate_every=10**9, versions={}, **job.options.get("recipe", {}),
    )  # fmt: skip
    set_up_torch(recipe)
    batches = Batches(Prepared.open(world / "data"), job.row_tokens)
    tuned = Tuned(recipe, world / job.size)
    marks: list[tuple[float, int]] = []

    class Watcher:
        def point(self, point: Any, steps: int) -> None:
            marks.append((clock(job), point.tokens))

        def sampled(self, step: int, items: Any) -> None: ...
        def tell(self, done: int, total: int, template: str, /, **params: object) -> None: ...
        def say(self, template: str, /, **params: object) -> None: ...
        def wants_to_stop(self) -> bool:
            return False

    training = Training(
        tuned, recipe, "bench", batches, world / f"run-{os.getpid()}" / "checkpoints", Watcher()
    )
    batches.held_out.clear()  # what is measured is training
    if job.options.get("profile"):
        return profiled(training, job)
    if minutes := job.options.get("minutes"):
        return Found(paces=by_minutes(training, minutes))
    done = training.run()
    found = Found(timed(marks), done.tokens, done.learned_tokens / done.tokens)
    found.memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found.flops_per_s = found.tokens_per_s * flops_per_token(tuned.model, job, found.learned_share)
    began = time.perf_counter()
    training._save()
    training._saved()
    found.save_s = time.perf_counter() - began
    if job.judged:
        found.held_out_loss = judge(world, tuned.model)
    return found


def by_minutes(training: Any, minutes: int) -> list[float]:
    """Returns the tokens a second of each minute, in whole steps: the checkpoint of every second one is begun with it."""
    marks: list[tuple[float, int]] = []
    begun: list[int] = []
    """Where in `marks` the minutes begin."""

    class Watcher(type(training._watcher)):
        def point(self, point: Any, steps: int) -> None:
            marks.append((time.perf_counter(), point.tokens))
            if len(marks) > SKIPPED and (not begun or marks[-1][0] - marks[begun[-1]][0] > 60):
                begun.append(len(marks) - 1)

        def wants_to_stop(self) -> bool:
            return len(begun) > minutes

    training._watcher = Watcher()
    # Asked once behind each step.
    training._is_due = lambda: bool(begun) and begun[-1] == len(marks) - 1 and len(begun) % 2 == 0
    training.run()
    pairs = [(marks[a], marks[b]) for a, b in itertools.pairwise(begun)]
    return [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]


def profiled(training: Any, job: Job) -> Found:
    """Prints where the time of a step goes."""
    import torch

    for step in range(2):
        training._step(step)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for step in range(2, 2 + job.steps):
            training._step(step)
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45))
    return Found()


def flops_per_token(model: Any, job: Job, learned_share: float) -> float:
    """Returns the operations of the matrix products that are done for a token: 2 each forward, and of weights that learn 4 back.

    The output matrix is applied to learned tokens only; attention itself (T times smaller here) and padding are left out.
    """
    body = sum(
        p.numel()
        for n, p in model.named_parameters()
        if p.dim() == 2 and "embed" not in n and "lm_head" not in n
    )
    head = model.get_output_embeddings().weight.numel() * learned_share
    return (4 if job.method == "lora" else 6) * (body + head)


def by_trl(world: Path, job: Job) -> Found:
    """TRL's SFTTrainer on the same rows and model."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(job.threads)
    rows = [json.loads(line) for line in (world / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = Dataset.from_list(
        [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows]
    )
    more: dict[str, Any] = {"gradient_checkpointing": job.checkpointing}
    if job.packed:
        more |= {"packing": True, "max_length": job.row_tokens}
    if job.by_length:
        more |= {"train_sampling_strategy": "group_by_length"}
    config = SFTConfig(
        output_dir=str(world / "trl"), per_device_train_batch_size=job.rows, gradient_accumulation_steps=job.passes,
        max_steps=job.steps, learning_rate=job.learning_rate, warmup_steps=max(1, job.steps // 20), report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=1, **(more | job.options.get("trl", {})),
    )  # fmt: skip
    marks: list[tuple[float, int]] = []
    read = learned = 0

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append((clock(job), read))

    model = AutoModelForCausalLM.from_pretrained(world / job.size, dtype=torch.float32)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=asked,
        processing_class=AutoTokenizer.from_pretrained(world / job.size),
        peft_config=lora if job.method == "lora" else None,
        callbacks=[Clock()],
    )
    collate = trainer.data_collator

    def counted(examples: Any) -> Any:
        nonlocal read, learned
        batch = collate(examples)
        read += (
            int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
        )
        learned += int((batch["labels"] != -100).sum())
        return batch

    trainer.data_collator = counted
    trainer.train()
    found = Found(timed(marks), read, learned / read)
    found.memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if job.judged:
        found.held_out_loss = judge(world, trainer.model)
    return found


def judge(world: Path, model: Any) -> float:
    """Returns the mean loss of the held-out samples, one by one, by transformers' own forward pass in fp32."""
    import numpy as np
    import torch

    from fust.tune.prepare import Prepared

    model.eval().float()
    prepared = Prepared.open(world / "data")
    total, count = 0.0, 0
    with torch.no_grad():
        for number in np.flatnonzero(prepared.held_out)[:100].tolist():
            ids, learned = prepared.sample(number)
            said = torch.tensor(ids.astype(np.int64))[None]
            logits = model(input_ids=said[:, :-1], use_cache=False).logits.float()[0]
            loss = torch.nn.functional.cross_entropy(logits, said[0, 1:], reduction="none")
            wanted = torch.tensor(learned[1:] == 1)
            total += float(loss[wanted].sum())
            count += int(wanted.sum())
    return total / count


def peak(_: Path, job: Job) -> Found:
    """The pace of bf16 matrix products of the shapes of the model's layers: the best of many."""
    import torch

    torch.set_num_threads(job.threads)
    width = 768
    best = 0.0
    for inner, outer in ((width, width), (width, 2048), (2048, width)):
        left, right = torch.randn(2048, inner).bfloat16(), torch.randn(outer, inner).bfloat16()
        for _ in range(60):
            began = clock(job)
            for _ in range(4):
                torch.nn.functional.linear(left, right)
            best = max(best, 4 * 2 * 2048 * inner * outer / (clock(job) - began))
    return Found(flops_per_s=best)


if __name__ == "__main__":
    main()
