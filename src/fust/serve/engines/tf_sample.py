"""Choosing the next token of one sequence: bias, penalties, grammar, temperature, and the cuts of the distribution.

In this order, as vLLM and transformers have it (llama.cpp cuts before it applies the temperature). Log-probabilities
that are told are those of the model itself, before all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fust.wire.scoring import Likely

Floats = npt.NDArray[np.float32]
_LEAST = -np.inf


class Grammar(Protocol):
    """A matcher of llguidance."""

    def compute_bitmask(self) -> bytes:
        """Returns a bit for each token: whether it may come next."""
        ...

    def consume_token(self, sampled_token: int) -> bool:
        """Takes the token that came."""
        ...

    def is_stopped(self) -> bool:
        """Returns whether nothing may follow."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a request says about choosing tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    repeat: float = 1.0
    repeat_last: int = 64
    """Tokens that `repeat` looks back on, -1 for all."""
    bias: dict[int, float] = field(default_factory=lambda: {})
    seed: int | None = None
    ignore_eos: bool = False


class ThoughtLimit:
    """Ends a thought that has had its tokens: what ends it is then written in the model's place.

    Args:
        tokens: how many a thought may have.
        marks: the tokens that open and close one; an answer that does not begin with the first has no thought.
        ending: what is written: the second mark, and what stands around it.
        inside: whether the prompt has opened it.
    """

    def __init__(self, tokens: int, marks: tuple[int, int], ending: Sequence[int], *, inside: bool) -> None:
        self._left, self._ending = tokens, list(ending)
        self._open, self._close = marks
        self._state = "inside" if inside else "before"

    def instead(self) -> int | None:
        """Returns the token that has to come next, or None when the model may choose."""
        if self._state == "inside" and self._left <= 0:
            self._state = "ending"
        return self._ending.pop(0) if self._state == "ending" and self._ending else None

    def put(self, token: int) -> None:
        """Takes the token that came."""
        if self._state == "before":
            self._state = "inside" if token == self._open else "after"
        elif self._state == "inside":
            self._left -= 1
            if token == self._close:
                self._state = "after"


class Sampler:
    """The choices of one sequence."""

    def __init__(
        self,
        wanted: Sampling,
        prompt: Sequence[int],
        eos: frozenset[int],
        grammar: Grammar | None = None,
        limit: ThoughtLimit | None = None,
    ) -> None:
        self._wanted = wanted
        self._seen = list(prompt)
        self._written: Counter[int] = Counter()
        self._eos = eos
        self._grammar = grammar
        self._limit = limit
        self._random = np.random.default_rng(wanted.seed)

    @property
    def is_over(self) -> bool:
        """Whether the grammar lets nothing follow."""
        return self._grammar is not None and self._grammar.is_stopped()

    def pick(self, logits: Floats) -> int:
        """Returns the next token, and remembers it.

        Args:
            logits: (V,) of the model; not changed.
        """
        token = self._limit.instead() if self._limit is not None else None
        if token is None:
            line = self._weighed(logits)
            token = int(line.argmax()) if self._wanted.temperature <= 0 else self._drawn(line)
        if self._limit is not None:
            self._limit.put(token)
        self._seen.append(token)
        self._written[token] += 1
        if self._grammar is not None and token not in self._eos:
            self._grammar.consume_token(token)
        return token

    def _weighed(self, logits: Floats) -> Floats:
        wanted, line = self._wanted, logits
        penal = wanted.presence or wanted.frequency or wanted.repeat != 1
        if wanted.bias or penal or wanted.ignore_eos or self._grammar is not None:
            line = logits.copy()
        for token, bias in wanted.bias.items():
            if 0 <= token < len(line):
                line[token] += bias if bias > -100 else _LEAST
        if wanted.repeat != 1 and wanted.repeat_last:
            near = list(set(self._seen if wanted.repeat_last < 0 else self._seen[-wanted.repeat_last :]))
            found = line[near]
            line[near] = np.where(found > 0, found / wanted.repeat, found * wanted.repeat).astype(np.float32)
        if (wanted.presence or wanted.frequency) and self._written:
            tokens = list(self._written)
            counts = np.array([self._written[token] for token in tokens], np.float32)
            line[tokens] -= wanted.presence + wanted.frequency * counts
        if wanted.ignore_eos:
            line[list(self._eos)] = _LEAST
        if self._grammar is not None:
            bits = np.frombuffer(self._grammar.compute_bitmask(), np.uint8)
            allowed = np.unpackbits(bits, bitorder="little")[: len(line)].astype(bool)
            line[: len(allowed)][~allowed] = _LEAST
            line[len(allowed) :] = _LEAST
        return line

    def _drawn(self, line: Floats) -> int:
        wanted = self._wanted
        order = np.arange(len(line))
        if 0 < wanted.top_k < len(line):
            order = np.argpartition(line, -wanted.top_k)[-wanted.top_k :]
        scaled = line[order].astype(np.float64) / wanted.temperature
        chances = np.exp(scaled - scaled.max())
        chances /= chances.sum()
        down = np.argsort(-chances, kind="stable")
        order, chances = order[down], chances[down]
        keep = np.ones(len(chances), bool)
        if wanted.top_p < 1:
            keep &= np.cumsum(chances) - chances < wanted.top_p
        if wanted.min_p > 0:
            keep &= chances >= wanted.min_p * chances[0]
        if wanted.typical_p < 1:
            keep &= _typical(chances, wanted.typical_p)
        keep[0] |= not keep.any()
        order, chances = order[keep], chances[keep]
        sums = np.cumsum(chances)
        at = int(np.count_nonzero(sums <= self._random.random() * sums[-1]))
        return int(order[min(at, len(order) - 1)].item())


def _typical(chances: npt.NDArray[np.float64], mass: float) -> npt.NDArray[np.bool_]:
    """Returns which tokens are typical (arXiv:2202.00666): nearest to the entropy, until their mass is reached."""
    surprise = -np.log(np.maximum(chances, 1e-300))
    order = np.argsort(np.abs(surprise - (chances * surprise).sum()), kind="stable")
    sums = np.cumsum(chances[order])
    keep = np.zeros(len(chances), bool)
    keep[order[: int((sums < mass).sum()) + 1]] = True
    return keep


def likely(logits: Floats, token: int, top: int) -> tuple[float, list[Likely]]:
    """Returns a token's log-probability, and the `top` likeliest with theirs."""
    high = logits.max()
    norm = float(high) + float(np.log(np.exp(logits - high).sum(dtype=np.float64)))
    listed: list[Likely] = []
    if top:
        order: Any = np.argpartition(logits, -top)[-top:]
        order = order[np.lexsort((order, -logits[order]))]
        listed = [Likely(int(i), float(logits[i]) - norm) for i in order]
    return float(logits[token]) - norm, listed
