"""Prepared samples as batches of packed rows: which rows a step takes is a pure function of (seed, step)."""

# torch types its functions only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fust.tune.packing import pack, rows_of_step
from fust.tune.prepare import Prepared
from fust.tune.recipe import Recipe

IGNORED = -100
_HELD_OUT_ROWS = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows: token ids, what follows each (IGNORED where nothing is learned), places in the samples; (B, T)."""

    ids: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    tokens: int
    """Places that are not padding."""
    owners: torch.Tensor
    """For each place the sample that it belongs to, counted in the batch; (B, T)."""
    samples: tuple[int, ...]
    """Numbers of the samples of the batch; of pairs, a better and a worse one by turns."""
    lengths: tuple[int, ...]
    """Places of each sample, and of the padding at the end of a row, through all rows; sums to B T."""

    @property
    def learned(self) -> int:
        """Returns the number of learned tokens."""
        return int((self.targets != IGNORED).sum())


class Batches:
    """The rows of prepared samples, train and held out, as batches."""

    def __init__(self, prepared: Prepared, row_tokens: int) -> None:
        self._prepared = prepared
        self._row_tokens = row_tokens
        self.train = self._pack(np.flatnonzero(~prepared.held_out))
        self.held_out = self._pack(np.flatnonzero(prepared.held_out))[:_HELD_OUT_ROWS]

    @property
    def count(self) -> int:
        """Returns the number of prepared samples."""
        return len(self._prepared.lengths)

    def _pack(self, samples: np.ndarray[Any, Any]) -> list[list[int]]:
        # A sample of n tokens has n - 1 places at which something follows. Two that are compared stay together.
        together = samples.reshape(-1, 2 if self._prepared.report.pairs else 1)
        lengths = (self._prepared.lengths[together] - 1).sum(axis=1).tolist()
        return [[int(i) for unit in row for i in together[unit]] for row in pack(lengths, self._row_tokens)]

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
        owners = np.zeros(shape, np.int64)
        lengths: list[int] = []
        tokens = count = 0
        for i, row in enumerate(rows):
            at = 0
            for sample in row:
                said, learned = self._prepared.sample(sample)
                n = len(said) - 1
                ids[i, at : at + n] = said[:-1]
                targets[i, at : at + n] = np.where(learned[1:] == 1, said[1:].astype(np.int64), IGNORED)
                positions[i, at : at + n] = np.arange(n)
                owners[i, at : at + n] = count
                lengths.append(n)
                count += 1
                at += n
            positions[i, at:] = np.arange(shape[1] - at)
            lengths += [shape[1] - at] if at < shape[1] else []
            tokens += at
        ids, targets, positions, owners = (torch.from_numpy(a) for a in (ids, targets, positions, owners))
        numbers = tuple(number for row in rows for number in row)
        return Batch(ids, targets, positions, tokens, owners, numbers, tuple(lengths))
