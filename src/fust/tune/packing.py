"""Samples into rows of one length, and which rows a step takes: both pure functions, so that no loader has a state."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Returns the numbers of the samples in each row: best fit, longest first; none is cut.

    Raises:
        ValueError: a sample is longer than a row.

    """
    if lengths and max(lengths) > row_tokens:
        raise ValueError("a sample is longer than a row")
    rows: list[list[int]] = []
    rooms: list[int] = []
    """Distinct free rooms, ascending; ``with_room`` has the rows of each."""
    with_room: dict[int, list[int]] = {}
    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = lengths[sample]
        at = bisect.bisect_left(rooms, need)
        if at == len(rooms):
            row, room = len(rows), row_tokens
            rows.append([])
        else:
            room = rooms[at]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room]
                rooms.pop(at)
        rows[row].append(sample)
        left = room - need
        if left not in with_room:
            with_room[left] = []
            bisect.insort(rooms, left)
        with_room[left].append(row)
    return rows


def rows_of_step(count: int, per_step: int, step: int, seed: int) -> Ints:
    """Returns the numbers of the rows that step ``step`` (from 0) takes of ``count`` rows, in order.

    Every epoch is a permutation of its own; a step may reach over the end of one into the next. The same (count,
    per_step, step, seed) gives the same rows on every machine: Philox is a counter-based generator.
    """
    first = step * per_step
    taken: list[Ints] = []
    while per_step > 0:
        epoch, at = divmod(first, count)
        order = _order(count, epoch, seed)[at : at + per_step]
        taken.append(order)
        first += len(order)
        per_step -= len(order)
    return np.concatenate(taken)


def _order(count: int, epoch: int, seed: int) -> Ints:
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(count)
