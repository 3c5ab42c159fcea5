"""What a model writes for a few fixed prompts while it is trained, so that one sees and does not only count.

The prompts are the questions of held-out rows (of documents: their first words). Answers are greedy and short, take no
random numbers and move nothing, so that a run with samples ends at the same weights as one without.
"""

# torch and transformers type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
import torch

from fust.tune.estimate import SAMPLES_SHARE
from fust.tune.masks import Tokenizer
from fust.tune.model import Tuned
from fust.tune.prepare import Prepared

_PROMPTS = 3
_MOST_PROMPT_TOKENS = 512
_DOCUMENT_TOKENS = 16
_ANSWER_TOKENS = 48
_MEASURED_TOKENS = 8
_ASKS, _ANSWERS = ("user",), ("assistant", "model")
"""Roles as templates write them on a line of their own, which stay when their marks are taken out."""


def choose_prompts(prepared: Prepared) -> list[list[int]]:
    """Returns the token ids of a few different prompts, held-out ones if there are."""
    by_turns = np.argsort(~prepared.held_out, kind="stable")
    if prepared.report.pairs:
        by_turns = by_turns[by_turns % 2 == 0]
    found: list[list[int]] = []
    for number in by_turns[:200].tolist():
        ids, learned = prepared.sample(number)
        first = int(np.argmax(learned))  # nothing before it is learned
        prompt = ids[: first or _DOCUMENT_TOKENS].tolist()
        if 0 < len(prompt) <= _MOST_PROMPT_TOKENS and prompt not in found:
            found.append(prompt)
        if len(found) == _PROMPTS:
            break
    return found


def without_roles(prompt: str) -> str:
    """Returns what was asked, without the role before it and that of the answer to come; turns before keep theirs."""
    lines = prompt.strip().split("\n")
    if lines[-1].strip() in _ANSWERS:
        lines.pop()
    if lines and lines[0].strip() in _ASKS and not any(line.strip() in _ANSWERS for line in lines):
        lines.pop(0)
    return "\n".join(lines).strip()


class Sampler:
    """Lets a model that is being trained answer the prompts now and then."""

    def __init__(self, tuned: Tuned, tokenizer: Tokenizer, prompts: list[list[int]]) -> None:
        self._tuned = tuned
        self._tokenizer = cast(Any, tokenizer)
        self._prompts = prompts
        self._began = time.monotonic()
        self._took_s = 0.0

    def measure(self) -> float:
        """Returns the seconds that all answers take, by their first few tokens."""
        if not self._prompts:
            return 0.0
        self._seconds_for(1)  # takes memory, and imports what writing needs
        first_s, some_s = self._seconds_for(1), self._seconds_for(1 + _MEASURED_TOKENS)
        return first_s + (_ANSWER_TOKENS - 1) * max(0.0, some_s - first_s) / _MEASURED_TOKENS

    def _seconds_for(self, tokens: int) -> float:
        began = time.monotonic()
        self._write(tokens)
        return time.monotonic() - began

    def take(self, *, always: bool) -> list[dict[str, str]]:
        """Returns prompts and answers; none when samples took too much of the time already and need not be.

        Args:
            always: before the first step and after the last.

        """
        began = time.monotonic()
        if not always and self._took_s > SAMPLES_SHARE * (began - self._began):
            return []
        texts = self._write(_ANSWER_TOKENS) if self._prompts else []
        self._took_s += time.monotonic() - began
        asked = (
            without_roles(self._tokenizer.decode(prompt, skip_special_tokens=True))
            for prompt in self._prompts
        )
        return [{"prompt": prompt, "text": text} for prompt, text in zip(asked, texts, strict=True)]

    def _write(self, tokens: int) -> list[str]:
        model = self._tuned.model
        model.eval()
        try:
            return self._answers(tokens)
        finally:
            model.train()

    @torch.no_grad()
    def _answers(self, tokens: int) -> list[str]:
        """Returns the answers to all prompts, of so many tokens at most, written side by side: shorter prompts begin later."""
        padding = self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0
        longest = max(map(len, self._prompts))
        ids = torch.full((len(self._prompts), longest), padding)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(self._prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            seen[row, longest - len(prompt) :] = 1
        with self._tuned.precision():
            written = self._tuned.model.generate(
                input_ids=ids,
                attention_mask=seen,
                max_new_tokens=tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=padding,
            )
        texts = self._tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
        return [str(text).strip() for text in texts]
