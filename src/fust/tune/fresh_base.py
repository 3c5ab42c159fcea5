"""A base model that has learned nothing: a tokenizer made of the texts, a shape that suits them, random weights; as a folder.

From then on it is tuned like any other base, on documents.
"""

# torch and transformers type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
)

from fust.core.errors import InvalidInput
from fust.core.files import fsync_folder, full_disk_is_clear, write_atomic
from fust.tune.fresh import BYTES_PER_TOKEN, choose_context, choose_shape, choose_vocabulary
from fust.tune.prepare import Text
from fust.tune.recipe import Reasoned, Wish
from fust.tune.shape import Shape
from fust.tune.vocabulary import DOCUMENT, SPECIAL, TURN_END, fertility, new_tokenizer, save_tokenizer

PADDING = "<|padding|>"
_READ_BYTES = 64 * 10**6
"""Of training texts, whose merges the tokenizer takes; of more an even part."""
_ASKED_TEXTS, _ASKED_BYTES = 200, 10**6
"""On which the fertility is measured."""
_SHARE_OF_PEAK = 0.4
"""Of a matrix product's speed that training reaches; a dry run measures the real one."""
_MEASURE_S = 0.3


class Fresh(msgspec.Struct, frozen=True):
    """What was made, and why so."""

    shape: Shape
    reasons: list[Reasoned]


@dataclass(slots=True)
class Texts:
    """The texts of a data set: those that the tokenizer learns from, some that it is tried on, and how large all are."""

    share: float
    """Of the training texts that are kept here."""
    train: list[str] = field(default_factory=lambda: list[str]())
    held_out: list[str] = field(default_factory=lambda: list[str]())
    size_bytes: int = 0
    longest_bytes: int = 0
    tried_bytes: int = 0

    @classmethod
    def read(cls, texts: Iterable[Text], files_bytes: int) -> Texts:
        """Reads them once; held-out ones count for nothing but the trial.

        Raises:
            InvalidInput: there is no text to train on.

        """
        found = cls(min(1.0, _READ_BYTES / max(1, files_bytes)))
        for text in texts:
            found._add(text)
        if not found.train:
            raise InvalidInput(
                "The data holds no text to train on.",
                hint="Give rows with `text`, or .txt files; see the rows with --dry-run and another method.",
                code="nothing_to_train_on",
            )
        return found

    def _add(self, text: Text) -> None:
        data = text.text.encode()
        if text.held_out:
            if len(self.held_out) < _ASKED_TEXTS and self.tried_bytes < _ASKED_BYTES:
                self.held_out.append(text.text)
                self.tried_bytes += len(data)
            return
        self.size_bytes += len(data)
        self.longest_bytes = max(self.longest_bytes, len(data))
        if int.from_bytes(hashlib.sha256(data).digest()[:8], "big") < self.share * 2**64:
            self.train.append(text.text)


def make_base(
    folder: Path, texts: Texts, wish: Wish, *, threads: int, precision: str, room_bytes: int
) -> Fresh:
    """Writes the base and returns what it is; a folder that is there is whole.

    Raises:
        InvalidInput: a size that was asked for cannot be.
        StorageFull: no room.

    """
    vocabulary = choose_vocabulary(texts.size_bytes, wish.model)
    tokenizer = new_tokenizer(texts.train, int(vocabulary.value), special=(*SPECIAL, PADDING))
    reasons = [vocabulary, *_fertility(tokenizer, texts)]
    per_token = next((float(it.params["bytes"]) for it in reasons[1:]), BYTES_PER_TOKEN)
    context = choose_context(round(texts.longest_bytes / per_token) + 1, wish.row_tokens)
    torch.set_num_threads(threads)
    shape, why = choose_shape(
        wish.model,
        tokenizer.get_vocab_size(),
        context,
        round(texts.size_bytes / per_token),
        epochs=wish.fresh_epochs(round(texts.size_bytes / per_token)),
        budget_s=wish.budget_s,
        flops_per_s=measure_flops(torch.bfloat16 if precision == "bf16" else torch.float32) * _SHARE_OF_PEAK,
        room_bytes=room_bytes,
    )
    if tokenizer.get_vocab_size() < int(vocabulary.value):
        reasons[0] = Reasoned(
            "vocab_size",
            str(tokenizer.get_vocab_size()),
            "The texts have no more pieces that come twice; {wanted} were wanted.",
            {"wanted": vocabulary.value},
        )
    fresh = Fresh(shape, [*reasons, why])
    part = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with full_disk_is_clear(part):
        save_tokenizer(tokenizer, part, context, end=DOCUMENT, padding=PADDING)
        fresh_model(shape, tokenizer, wish.seed).save_pretrained(part)
    write_atomic(folder.with_name("fresh.json"), msgspec.json.encode(fresh))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    fsync_folder(folder.parent)
    return fresh


def find_fresh(folder: Path) -> Fresh | None:
    """Returns what ``make_base`` made of a folder; None when it did not get to its end."""
    if not folder.exists():
        return None
    return msgspec.json.decode(folder.with_name("fresh.json").read_bytes(), type=Fresh)


def fresh_model(shape: Shape, tokenizer: Tokenizer, seed: int) -> Any:
    """Returns a model of a shape with random weights, which follow from the seed."""
    fields = {name: value for name, value in msgspec.to_builtins(shape).items() if name != "family"}
    end, padding = tokenizer.token_to_id(DOCUMENT), tokenizer.token_to_id(PADDING)
    config = AutoConfig.for_model(
        shape.family,
        **fields,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=padding,
    )
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    spread_weights(model)
    ends = [end, tokenizer.token_to_id(TURN_END)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=padding)
    return model.to(torch.bfloat16)  # as it is published


def spread_weights(model: torch.nn.Module) -> None:
    """Draws the matrices of the layers by their width: 0.02, which suits large models, starts narrow ones too slowly."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "embed" not in name:
            outward = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5 * (0.3 if outward else 1.0))


def measure_flops(dtype: torch.dtype) -> float:
    """Returns floating-point operations a second of a matrix product on the threads that are set."""
    left, right = torch.randn(2048, 512).to(dtype), torch.randn(1536, 512).to(dtype)
    F.linear(left, right)
    began, done = time.monotonic(), 0
    while time.monotonic() - began < _MEASURE_S:
        F.linear(left, right)
        done += 1
    return 2.0 * 2048 * 512 * 1536 * done / (time.monotonic() - began)


def _fertility(tokenizer: Tokenizer, texts: Texts) -> list[Reasoned]:
    tried = texts.held_out or texts.train[:_ASKED_TEXTS]
    found = fertility(tokenizer, tried)
    if found is None:
        return []
    why = (
        "{bytes} bytes a token; measured on {count} held-out texts."
        if texts.held_out
        else "{bytes} bytes a token; measured on {count} training texts, as nothing is held out."
    )
    fields: dict[str, str | int | float] = {"bytes": found.bytes_per_token, "count": len(tried)}
    return [Reasoned("tokens_per_word", f"{found.tokens_per_word:.2f}", why, fields)]
