"""Which rows are held out: by a hash of their question, so that the same ones are when others come to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

LEAST_ROWS = 10
"""Of fewer nothing is held out; of as many or more at least one row is."""
_MOST = 5
"""A question that more than every so many-th row asks is not held out: with it would go too much, or all."""


def held_out_questions(questions: Iterable[int], share: float) -> frozenset[int]:
    """Returns the hashes (64 bit) of the questions that are held out, of those of all rows; none for a share of 0.

    Those below the share of all hashes; where there is none, the smallest: added rows can only bring a smaller one.
    """
    counts = Counter(questions)
    rows = counts.total()
    if rows < LEAST_ROWS or share <= 0:
        return frozenset()
    rare = [question for question, count in counts.items() if count * _MOST <= rows]
    chosen = frozenset(question for question in rare if is_within(question, share))
    return chosen or frozenset(sorted(rare)[:1])


def is_within(question: int, share: float) -> bool:
    """Returns whether a hash is among that share of all hashes."""
    return question / 2**64 < share
