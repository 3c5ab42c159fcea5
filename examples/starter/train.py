"""Pre-training on stories, then a chat tuning: one process, the CPU is enough.

The learning rate warms up and stays; it falls to zero during the chat tuning, most of whose words are stories too
(warm-up, plateau, decay with the tuning rows in the decay: MiniCPM, arXiv 2404.06395).

What makes it quick on two cores: bf16 autocast (AVX512-BF16 or AMX), a malloc that keeps its pages (1.5 times), rows
of one fixed length, loss only where there is a target. The order of the rows is a pure function of the seed, so a
resumed run needs no loader state: it goes on at the row where its newest checkpoint stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from examples.starter.corpus import Corpus
from examples.starter.sources import LANGUAGES, REPEATS
from examples.starter.tokenizer import DOCUMENT, TURN_END
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from fust.tune.fresh_base import spread_weights

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Recipe:
    """The dials. Everything else follows from them and from the corpus."""

    d_model: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_kv_head: int = 2
    d_ff: int = 672
    context: int = 1024
    rows_per_step: int = 2
    matrix_rate: float = 0.02
    """Learning rate of Muon (Keller Jordan, 2024), which moves the matrices."""
    vector_rate: float = 3e-3
    """Learning rate of AdamW, which moves embeddings and norms."""
    chat_epochs: int = 2
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_steps: int = 2000
    """Stop after so many steps; 0 reads the whole plan of REPEATS (7,489 steps). More of them lower the bits per byte and
    leave the answers as they are (README), and 2,000 leave time for the chat tuning within 75 minutes of two cores."""
    checkpoint_every: int = 100
    evaluate_every: int = 400
    threads: int = 2
    compiled: bool = True
    seed: int = 1455


def build_model(recipe: Recipe, vocab_size: int, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """Returns a Llama of the recipe's size with fresh weights and tied embeddings."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_ff,
        num_hidden_layers=recipe.n_layer,
        num_attention_heads=recipe.n_head,
        num_key_value_heads=recipe.n_kv_head,
        head_dim=recipe.d_model // recipe.n_head,
        max_position_embeddings=recipe.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(TURN_END),
        pad_token_id=tokenizer.token_to_id(DOCUMENT),
    )
    model = LlamaForCausalLM(config)
    spread_weights(model)
    return model


def pack_stories(corpus: Corpus, tokenizer: Tokenizer, recipe: Recipe) -> npt.NDArray[np.uint16]:
    """Returns (rows, context + 1) token ids: every language as often as REPEATS says, evenly mixed.

    Each story follows a DOCUMENT token; in every other reading its title stands above it.
    """
    order = random.Random(recipe.seed)
    document = tokenizer.token_to_id(DOCUMENT)
    placed: list[tuple[float, list[int]]] = []
    for language in LANGUAGES:
        stories = corpus.of(language, "train")
        plain = [e.ids for e in tokenizer.encode_batch([s.text for s in stories])]
        titled = [e.ids for e in tokenizer.encode_batch([f"{s.title}\n\n{s.text}".strip() for s in stories])]
        for reading in range(REPEATS[language]):
            chosen = titled if reading % 2 else plain
            placed += [((reading + order.random()) / REPEATS[language], [document, *ids]) for ids in chosen]
    placed.sort(key=lambda pair: pair[0])
    stream = np.fromiter((i for _, ids in placed for i in ids), dtype=np.uint16)
    rows = max(1, (len(stream) - 1) // recipe.context)
    index = np.arange(rows)[:, None] * recipe.context + np.arange(recipe.context + 1)[None, :]
    return stream[np.minimum(index, len(stream) - 1)]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a stage read, how long it took over all its starts, and its last mean loss in nats per token."""

    tokens: int
    seconds: float
    loss: float


def train_stories(
    model: LlamaForCausalLM,
    rows: npt.NDArray[np.uint16],
    recipe: Recipe,
    out: Path,
    evaluate: Callable[[LlamaForCausalLM], dict[str, float]],
    say: Callable[[str], None] = print,
) -> Trained:
    """Trains on the rows once, writing checkpoints; goes on from the newest one when there is one."""
    steps = len(rows) // recipe.rows_per_step
    steps = min(steps, recipe.max_steps) if recipe.max_steps else steps
    optimizer = Optimizers(model, recipe)
    first, spent_s, mean = load_checkpoint(out, model, optimizer)
    loss_of = maybe_compiled(model, recipe.compiled)
    say(f"pre-training: {steps} steps of {recipe.rows_per_step * recipe.context} tokens, from step {first}")
    began = time.monotonic() - spent_s
    recent: list[float] = []
    for step in range(first, steps):
        batch = rows[step * recipe.rows_per_step : (step + 1) * recipe.rows_per_step]
        ids = torch.from_numpy(batch.astype(np.int64))
        loss = optimizer_step(
            loss_of, optimizer, min(1.0, (step + 1) / recipe.warmup_steps), ids[:, :-1], ids[:, 1:]
        )
        recent.append(loss)
        done = step + 1
        if done % 50 == 0 or done == steps:
            mean = sum(recent) / len(recent)
            speed = (done - first) * ids[:, 1:].numel() / max(1e-9, time.monotonic() - began - spent_s)
            say(f"step {done}/{steps} loss {mean:.4f} tokens/s {speed:.0f}")
            recent.clear()
        if done % recipe.evaluate_every == 0 or done == steps:
            say(f"step {done} held-out bits per byte {json.dumps(evaluate(model))}")
        if done % recipe.checkpoint_every == 0 or done == steps:
            save_checkpoint(out, done, time.monotonic() - began, mean, model, optimizer, recipe)
    return Trained(steps * recipe.rows_per_step * recipe.context, time.monotonic() - began, round(mean, 4))


class Optimizers:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms; about 1.5 times AdamW's progress."""

    def __init__(self, model: LlamaForCausalLM, recipe: Recipe) -> None:
        inner = [p for n, p in model.named_parameters() if p.dim() > 1 and "embed" not in n]
        outer = [p for n, p in model.named_parameters() if p.dim() <= 1 or "embed" in n]
        self.parameters = [*inner, *outer]
        self._both: list[tuple[torch.optim.Optimizer, float]] = [
            (
                torch.optim.Muon(
                    inner, lr=recipe.matrix_rate, momentum=0.95, weight_decay=recipe.weight_decay
                ),
                recipe.matrix_rate,
            ),
            (
                torch.optim.AdamW(
                    outer, lr=recipe.vector_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
                ),
                recipe.vector_rate,
            ),
        ]

    def step(self, scale: float) -> None:
        """Clips, moves by ``scale`` times the peak rates, and forgets the gradients."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, rate in self._both:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """Returns both states, for a checkpoint."""
        return {str(i): optimizer.state_dict() for i, (optimizer, _) in enumerate(self._both)}

    def load_state_dict(self, state: dict[str, dict[str, object]]) -> None:
        """Takes both states from a checkpoint."""
        for i, (optimizer, _) in enumerate(self._both):
            optimizer.load_state_dict(state[str(i)])


LossOf = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def maybe_compiled(model: LlamaForCausalLM, compiled: bool) -> LossOf:
    """Returns the loss function; compiled where a C++ compiler is at hand (1.2 times), else as it is."""

    def loss_of(ids: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            # use_cache=False and no mask: only so does transformers part packed sequences by their positions.
            hidden = model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
            keep = targets.flatten() != IGNORED if positions is not None else None
            flat, wanted = hidden.flatten(0, 1), targets.flatten()
            if keep is not None:
                flat, wanted = flat[keep], wanted[keep]
            logits = F.linear(flat, model.lm_head.weight)
        return F.cross_entropy(logits.float(), wanted)

    if compiled and (shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")):
        return torch.compile(loss_of)  # pyright: ignore
    return loss_of


def optimizer_step(
    loss_of: LossOf,
    optimizer: Optimizers,
    scale: float,
    ids: torch.Tensor,
    targets: torch.Tensor,
    positions: torch.Tensor | None = None,
) -> float:
    """Does one step and returns its loss in nats per token."""
    loss = loss_of(ids, targets, positions)
    loss.backward()
    optimizer.step(scale)
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError("the loss is not a number; lower the learning rates")
    return value


# Checkpoints: written beside, synced, then renamed, so that a folder without `.tmp` is always whole.


def save_checkpoint(
    out: Path,
    step: int,
    spent_s: float,
    loss: float,
    model: LlamaForCausalLM,
    optimizer: Optimizers,
    recipe: Recipe,
) -> Path:
    """Writes ``out/step-N`` in one move and removes all but the newest two."""
    final = out / f"step-{step:06d}"
    part = out / f"step-{step:06d}.tmp"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in _weights(model).items()}, part / "model.safetensors")
    torch.save(optimizer.state_dict(), part / "optimizer.pt")
    (part / "state.json").write_text(
        json.dumps({"step": step, "spent_s": spent_s, "loss": loss, "recipe": asdict(recipe)})
    )
    for path in part.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    for old in checkpoints(out)[:-2]:
        shutil.rmtree(old)
    return final


def checkpoints(out: Path) -> list[Path]:
    """Returns whole checkpoints, oldest first."""
    return sorted(p for p in out.glob("step-*") if p.is_dir() and not p.name.endswith(".tmp"))


def load_checkpoint(
    out: Path, model: LlamaForCausalLM, optimizer: Optimizers | None = None
) -> tuple[int, float, float]:
    """Fills model and optimizer from the newest checkpoint; returns its step, seconds spent and loss, else zeros."""
    found = checkpoints(out)
    if not found:
        return 0, 0.0, 0.0
    load_weights(model, found[-1] / "model.safetensors")
    if optimizer is not None:
        optimizer.load_state_dict(torch.load(found[-1] / "optimizer.pt", weights_only=True))
    state = json.loads((found[-1] / "state.json").read_text())
    return int(state["step"]), float(state["spent_s"]), float(state["loss"])


def load_weights(model: LlamaForCausalLM, path: Path) -> None:
    """Fills the model from a safetensors file that has no ``lm_head`` (it is tied to the embeddings)."""
    missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()


def _weights(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}


# Chat tuning: (prompt ids, answer ids) packed into rows; positions start again at each conversation.


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids and, for each, whether the model should learn to say it."""

    ids: list[int]
    learned: list[bool]


def pack_conversations(
    rows: Iterable[Conversation], context: int, pad: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Returns ids, targets and positions, each (rows, context), filled first-fit without cutting a conversation."""
    bins: list[list[Conversation]] = []
    room: list[int] = []
    for row in rows:
        if len(row.ids) - 1 > context:
            continue
        n = len(row.ids) - 1
        place = next((i for i in range(max(0, len(bins) - 50), len(bins)) if room[i] >= n), None)
        if place is None:
            bins.append([])
            room.append(context)
            place = len(bins) - 1
        bins[place].append(row)
        room[place] -= n
    shape = (len(bins), context)
    ids, targets = np.full(shape, pad, np.int64), np.full(shape, IGNORED, np.int64)
    positions = np.zeros(shape, np.int64)
    for i, members in enumerate(bins):
        at = 0
        for row in members:
            n = len(row.ids) - 1
            ids[i, at : at + n] = row.ids[:-1]
            targets[i, at : at + n] = np.where(row.learned[1:], row.ids[1:], IGNORED)
            positions[i, at : at + n] = np.arange(n)
            at += n
        positions[i, at:] = np.arange(context - at)
    return {"ids": ids, "targets": targets, "positions": positions}


def train_chat(
    model: LlamaForCausalLM,
    conversations_of: Callable[[int], list[Conversation]],
    recipe: Recipe,
    pad: int,
    say: Callable[[str], None],
) -> Trained:
    """Tunes on each epoch's conversations; only the assistant's words and its end-of-turn token are learned."""
    optimizer = Optimizers(model, recipe)
    loss_of = maybe_compiled(model, False)
    epochs = [pack_conversations(conversations_of(i), recipe.context, pad) for i in range(recipe.chat_epochs)]
    n = recipe.rows_per_step
    batches = [{k: v[i : i + n] for k, v in e.items()} for e in epochs for i in range(0, len(e["ids"]), n)]
    say(f"chat tuning: {len(batches)} steps")
    began = time.monotonic()
    recent: list[float] = []
    mean = math.nan
    for step, batch in enumerate(batches):
        scale = min((step + 1) / 20, (len(batches) - step) / len(batches))
        tensors = {k: torch.from_numpy(v) for k, v in batch.items()}
        loss = optimizer_step(
            loss_of, optimizer, scale, tensors["ids"], tensors["targets"], tensors["positions"]
        )
        recent.append(loss)
        if (step + 1) % 25 == 0 or step + 1 == len(batches):
            mean = sum(recent) / len(recent)
            say(f"chat step {step + 1}/{len(batches)} loss {mean:.4f}")
            recent.clear()
    tokens = sum(int((batch["targets"] != IGNORED).sum()) for batch in batches)
    return Trained(tokens, time.monotonic() - began, round(mean, 4))


def bits_per_byte(
    model: LlamaForCausalLM, tokenizer: Tokenizer, corpus: Corpus, limit: int = 60
) -> dict[str, float]:
    """Returns bits per UTF-8 byte of held-out stories per language; at most ``limit`` stories each.

    Long stories are cut to one context; the bytes counted are those of the tokens that were scored.
    """
    document = tokenizer.token_to_id(DOCUMENT)
    context = model.config.max_position_embeddings
    figures: dict[str, float] = {}
    model.eval()
    with torch.inference_mode(), contextlib.suppress(ZeroDivisionError):
        for language in LANGUAGES:
            nats, n_bytes = 0.0, 0
            for story in corpus.of(language, "held_out")[:limit]:
                ids = tokenizer.encode(story.text).ids[:context]
                tokens = torch.tensor([[document, *ids[:-1]]])
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits = model(input_ids=tokens, use_cache=False).logits
                nats += F.cross_entropy(logits[0].float(), torch.tensor(ids), reduction="sum").item()
                n_bytes += len(tokenizer.decode(ids).encode())
            if n_bytes:
                figures[language] = round(nats / n_bytes / math.log(2), 4)
    model.train()
    return figures
