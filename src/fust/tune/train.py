"""From rows to weights: the whole loop on one page.

    model = load_model(recipe, folder)              the base, and the adapter on it
    for step in range(steps):
        for batch in batches.of_step(step):         a pure function of (seed, step)
            loss of the learned tokens, backward
        clip, move, now and then evaluate and save

What makes it quick on a CPU: bf16 where the processor has instructions for it, samples packed into rows without
padding, the output matrix applied to learned tokens only, and a malloc that keeps its pages. What makes it exact: the
rows and all random numbers of a step follow from the seed and the step's number, so a run that goes on from a
checkpoint does what it would have done.
"""

# torch, transformers and peft type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from fust.core.errors import FustError, StorageFull
from fust.core.files import full_disk_is_clear
from fust.tune.checkpoints import Checkpoint, State, Tensors, disk_errors, find_checkpoint, save_checkpoint
from fust.tune.packing import pack, rows_of_step
from fust.tune.prepare import Prepared
from fust.tune.progress import Point, Trained, Watcher
from fust.tune.recipe import Recipe

IGNORED = -100
CHECKPOINT_EVERY_S = 60.0
_HEAD_VALUES = 2**26
"""Logits that are made at once; more are made in parts, each again for the backward pass."""
_FROZEN_FP32_PARAMETERS = 300_000_000
_HELD_OUT_ROWS = 64
_MEASURE_S = 5.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows: token ids, what follows each (IGNORED where nothing is learned), places in the samples; (B, T)."""

    ids: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    tokens: int
    """Places that are not padding."""

    @property
    def learned(self) -> int:
        """Returns the number of learned tokens."""
        return int((self.targets != IGNORED).sum())


class Diverged(FustError):
    """The loss broke twice."""

    status = 500
    code = "diverged"


def keep_malloc_pages() -> None:
    """Tells glibc to keep the pages of freed tensors (1.5 to 2.3 times faster training); elsewhere nothing happens.

    Every large block is else mapped and unmapped again, and page faults dominate. To be called before tensors exist.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


# Data


class Batches:
    """The rows of prepared samples, train and held out, as batches."""

    def __init__(self, prepared: Prepared, row_tokens: int) -> None:
        self._prepared = prepared
        self._row_tokens = row_tokens
        self.train = self._pack(np.flatnonzero(~prepared.held_out))
        self.held_out = self._pack(np.flatnonzero(prepared.held_out))[:_HELD_OUT_ROWS]

    def _pack(self, samples: np.ndarray[Any, Any]) -> list[list[int]]:
        # A sample of n tokens has n - 1 places at which something follows.
        lengths = [int(self._prepared.lengths[i]) - 1 for i in samples]
        return [[int(samples[i]) for i in row] for row in pack(lengths, self._row_tokens)]

    def of_step(self, recipe: Recipe, step: int) -> Iterator[Batch]:
        """Yields the batches that make step ``step``."""
        rows = rows_of_step(len(self.train), recipe.rows_per_step, step, recipe.seed)
        for first in range(0, len(rows), recipe.rows_per_pass):
            yield self.build([self.train[int(i)] for i in rows[first : first + recipe.rows_per_pass]])

    def of_held_out(self, rows_per_pass: int) -> Iterator[Batch]:
        """Yields all that is held out (a part of it when there is much)."""
        for first in range(0, len(self.held_out), rows_per_pass):
            yield self.build(self.held_out[first : first + rows_per_pass])

    def build(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Returns rows of samples as a batch. Positions start again with each sample: so attention parts them."""
        shape = (len(rows), self._row_tokens)
        ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        targets = np.full(shape, IGNORED, np.int64)
        tokens = 0
        for i, row in enumerate(rows):
            at = 0
            for sample in row:
                said, learned = self._prepared.sample(sample)
                n = len(said) - 1
                ids[i, at : at + n] = said[:-1]
                targets[i, at : at + n] = np.where(learned[1:] == 1, said[1:].astype(np.int64), IGNORED)
                positions[i, at : at + n] = np.arange(n)
                at += n
            positions[i, at:] = np.arange(shape[1] - at)
            tokens += at
        return Batch(torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(positions), tokens)


# Model


class Tuned:
    """A base model and what of it is trained."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(recipe.seed)
        self._bf16 = recipe.precision == "bf16"
        self._stored = cast("torch.dtype", AutoConfig.from_pretrained(folder).dtype or torch.float32)
        self._base = recipe.base
        self._is_adapter = recipe.method == "lora"
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
        )
        if self._is_adapter:
            self._add_adapter(recipe)
        if recipe.checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()
        causal = self.model.get_base_model() if self._is_adapter else self.model
        self._backbone: Any = causal.base_model
        self._head: Any = causal.get_output_embeddings()
        self._soft_cap: float | None = getattr(causal.config, "final_logit_softcapping", None)
        self.trained: dict[str, torch.nn.Parameter] = {
            name: parameter
            for name, parameter in cast(
                "Iterator[tuple[str, torch.nn.Parameter]]", self.model.named_parameters()
            )
            if parameter.requires_grad
        }

    def _add_adapter(self, recipe: Recipe) -> None:
        from peft import LoraConfig, get_peft_model

        # What is frozen and large is kept as the matrix products take it; small models are exact in fp32.
        if self._bf16 and self.model.num_parameters() > _FROZEN_FP32_PARAMETERS:
            self.model.to(torch.bfloat16)
        wanted = LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            revision=recipe.base_revision,
        )
        torch.manual_seed(recipe.seed)
        self.model = get_peft_model(self.model, wanted)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Returns the sum of -log p over the learned tokens."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bf16):
            # No cache and no mask: only then does transformers part packed samples by their positions.
            hidden = self._backbone(
                input_ids=batch.ids, position_ids=batch.positions, use_cache=False
            ).last_hidden_state
            wanted = batch.targets.flatten()
            places = torch.nonzero(wanted != IGNORED).squeeze(1)
            hidden, wanted = hidden.flatten(0, 1).index_select(0, places), wanted[places]
            at_once = max(1, _HEAD_VALUES // self._head.weight.shape[0])
            if len(wanted) <= at_once:
                return self._head_loss(hidden, wanted)
            parts = zip(hidden.split(at_once), wanted.split(at_once), strict=True)
            sums = [
                cast("torch.Tensor", checkpoint(self._head_loss, h, w, use_reentrant=False)) for h, w in parts
            ]
            return torch.stack(sums).sum()

    def _head_loss(self, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = self._head(hidden).float()
        if self._soft_cap:
            logits = torch.tanh(logits / self._soft_cap) * self._soft_cap
        return F.cross_entropy(logits, wanted, reduction="sum")

    def weights(self) -> Tensors:
        """Returns what is trained, by name."""
        return {name: parameter.detach() for name, parameter in self.trained.items()}

    def write(self, folder: Path) -> None:
        """Writes what the hub gets: an adapter as PEFT has it, or whole weights in the base's own dtype."""
        if self._is_adapter:
            # peft names the folder that the base was read from, which nobody else has.
            self.model.peft_config["default"].base_model_name_or_path = self._base
        else:
            self.model.to(self._stored)
        with full_disk_is_clear(folder), disk_errors():
            self.model.save_pretrained(folder)

    def load(self, weights: Tensors) -> None:
        """Takes trained weights from a checkpoint."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(weights[name])


class Mover:
    """AdamW with the schedule: a linear rise, then a linear fall to nothing."""

    def __init__(self, tuned: Tuned, recipe: Recipe) -> None:
        self._recipe = recipe
        self._names = list(tuned.trained)
        self._parameters = list(tuned.trained.values())
        matrices = [p for p in self._parameters if p.dim() > 1]
        vectors = [p for p in self._parameters if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW([g for g in groups if g["params"]], betas=recipe.betas, fused=True)

    def rate(self, step: int, scale: float) -> float:
        """Returns the learning rate of step ``step`` (from 0)."""
        recipe = self._recipe
        rise = (step + 1) / recipe.warmup_steps
        fall = (recipe.steps - step) / max(1, recipe.steps - recipe.warmup_steps)
        return recipe.learning_rate * scale * max(0.0, min(1.0, rise, fall))

    def move(self, rate: float) -> float:
        """Clips, moves, forgets the gradients; returns their norm. Nothing moves when the norm is not a number."""
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_norm))
        if math.isfinite(norm):
            for group in self._adam.param_groups:
                group["lr"] = rate
            self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        return norm

    def forget(self) -> None:
        """Drops gradients."""
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> Tensors:
        """Returns moments and counts, by name."""
        found: Tensors = {}
        for name, parameter in zip(self._names, self._parameters, strict=True):
            for key, value in self._adam.state.get(parameter, {}).items():
                found[f"{key}.{name}"] = value
        return found

    def load(self, state: Tensors) -> None:
        """Takes them from a checkpoint; an empty state is that of step 0."""
        self._adam.state.clear()
        for key, value in state.items():
            kind, _, name = key.partition(".")
            self._adam.state[self._parameters[self._names.index(name)]][kind] = value.clone()


# The loop


def set_up_torch(recipe: Recipe) -> None:
    """Fixes threads and algorithms: with other ones sums come out in another order, and with them other bits."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Training:
    """One run, from its newest checkpoint or from the start."""

    def __init__(
        self, tuned: Tuned, recipe: Recipe, recipe_key: str, batches: Batches, folder: Path, watcher: Watcher
    ) -> None:
        self.tuned = tuned
        self._recipe = recipe
        self._key = recipe_key
        self._batches = batches
        self._folder = folder
        self._watcher = watcher
        self._mover = Mover(tuned, recipe)
        self.state = State()
        self._saved_at = time.monotonic()

    def run(self) -> Trained:
        """Trains to the end, or until the watcher wants to stop.

        Raises:
            Diverged: the loss broke a second time.

        """
        self._resume()
        while self.state.step < self._recipe.steps:
            if self._watcher.wants_to_stop():
                self._save()
                return self._ended(finished=False)
            began = time.monotonic()
            point = self._step(self.state.step)
            if point is None:
                self._roll_back()
                continue
            self._note(point, time.monotonic() - began)
            if time.monotonic() - self._saved_at >= CHECKPOINT_EVERY_S:
                self._save()
        self._save()
        return self._ended(finished=True)

    def measure(self) -> float:
        """Returns seconds for one step, from a few passes on the real rows; nothing is moved by it.

        All memory that training takes has been taken once after it.
        """
        torch.manual_seed(self._recipe.seed)
        took: list[float] = []
        for batch in self._batches.of_step(self._recipe, 0):
            began = time.monotonic()
            (self.tuned.loss(batch) / max(1, batch.learned)).backward()  # pyright: ignore[reportUnknownMemberType]
            took.append(time.monotonic() - began)
            if len(took) > 3 and sum(took) > _MEASURE_S:
                break
        began = time.monotonic()
        self._mover.move(0.0)
        self._mover.load({})
        moved_s = time.monotonic() - began
        if len(took) < 3:  # the first pass also fills caches and takes memory from the system
            again = time.monotonic()
            for batch in self._batches.of_step(self._recipe, 1):
                self.tuned.loss(batch).backward()  # pyright: ignore[reportUnknownMemberType]
            self._mover.forget()
            return time.monotonic() - again + moved_s
        return sorted(took[1:])[len(took[1:]) // 2] * self._recipe.passes_per_step + moved_s

    def _step(self, step: int) -> Point | None:
        """Does one step; None when the loss broke, and then nothing has moved."""
        torch.manual_seed(self._recipe.seed * 1_000_003 + step)
        batches = list(self._batches.of_step(self._recipe, step))
        learned = sum(batch.learned for batch in batches)
        total = 0.0
        for batch in batches:
            loss = self.tuned.loss(batch)
            (loss / learned).backward()  # pyright: ignore[reportUnknownMemberType]
            total += loss.item()
        mean = total / learned
        if not math.isfinite(mean) or self._is_diverging(mean):
            self._mover.forget()
            return None
        rate = self._mover.rate(step, self.state.rate_scale)
        norm = self._mover.move(rate)
        if not math.isfinite(norm):
            return None
        tokens = sum(batch.tokens for batch in batches)
        self.state.tokens += tokens
        self.state.learned_tokens += learned
        return Point(step + 1, mean, rate, norm, tokens, self.state.tokens)

    def _note(self, point: Point, took_s: float) -> None:
        state, recipe = self.state, self._recipe
        state.spent_s += took_s
        state.step = point.step
        state.mean_loss = point.loss if point.step == 1 else 0.9 * state.mean_loss + 0.1 * point.loss
        state.best_loss = state.mean_loss if point.step == 1 else min(state.best_loss, state.mean_loss)
        held_out = None
        if point.step % recipe.evaluate_every == 0 or point.step == recipe.steps:
            held_out = state.held_out_loss = self._evaluate()
        speed = point.tokens_per_s / max(took_s, 1e-9)
        known = msgspec.structs.replace(point, tokens_per_s=speed, held_out_loss=held_out)
        self._watcher.point(known, recipe.steps)

    def _is_diverging(self, loss: float) -> bool:
        """Returns whether the loss is far above the best that it was, beyond what one odd batch does."""
        state = self.state
        if state.step < max(20, self._recipe.warmup_steps):
            return False
        return 0.9 * state.mean_loss + 0.1 * loss > 1.5 * state.best_loss + 0.5

    def _roll_back(self) -> None:
        """Goes back to the newest checkpoint with half the learning rate, once."""
        broke_at = self.state.step + 1
        if self.state.rolled_back_at:
            raise Diverged(
                "The loss broke at step {step}, and again after half the learning rate from the checkpoint before it.",
                hint="Lower the learning rate (--set learning_rate=…), or look at the rows with --dry-run.",
                step=broke_at,
            )
        found, _ = find_checkpoint(self._folder, self._key)
        if found is None:
            raise Diverged(
                "The loss broke at step {step}, and there is no checkpoint to go back to.", step=broke_at
            )
        self._load(found)
        self.state.rate_scale *= 0.5
        self.state.rolled_back_at = broke_at
        self._watcher.say(
            "The loss broke at step {step}; going on from step {back} with half the learning rate.",
            step=broke_at,
            back=self.state.step,
        )
        self._save()

    @torch.no_grad()
    def _evaluate(self) -> float | None:
        """Returns the held-out loss, or None when nothing is held out."""
        total, learned = 0.0, 0
        self.tuned.model.eval()
        for batch in self._batches.of_held_out(self._recipe.rows_per_pass):
            total += self.tuned.loss(batch).item()
            learned += batch.learned
        self.tuned.model.train()
        return total / learned if learned else None

    # Checkpoints

    def _save(self) -> None:
        """Saves; a full disk costs the checkpoint and not the run."""
        self._saved_at = time.monotonic()
        try:
            save_checkpoint(self._folder, self._key, self.tuned.weights(), self._mover.state(), self.state)
        except StorageFull:
            self._watcher.say(
                "The disk is full: no checkpoint at step {step}. Training goes on.", step=self.state.step
            )
        else:
            self._watcher.say("Checkpoint at step {step}.", step=self.state.step)

    def _resume(self) -> None:
        found, damaged = find_checkpoint(self._folder, self._key)
        for name in damaged:
            self._watcher.say("Checkpoint {name} is damaged; using the one before it.", name=name)
        if found is not None:
            self._load(found)
            self._watcher.say("Going on from step {step}.", step=self.state.step)
        else:
            self.state.first_held_out_loss = self.state.held_out_loss = self._evaluate()
            self._save()  # where a loss that breaks early goes back to

    def _load(self, found: Checkpoint) -> None:
        self.tuned.load(found.weights())
        self._mover.load(found.optimizer())
        self.state = found.state

    def _ended(self, *, finished: bool) -> Trained:
        state = self.state
        return Trained(
            state.step,
            state.tokens,
            state.learned_tokens,
            state.spent_s,
            state.mean_loss,
            state.held_out_loss,
            state.first_held_out_loss,
            finished,
        )
