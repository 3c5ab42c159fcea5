"""What engines that score share: rows that are wanted, what is noted at each place, rows that begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from fust.serve.engines.child_http import Refused
from fust.wire.scoring import MOST_ROWS, MOST_TOP, Likely, ScoredRow, ScoreRequest, ScoreRow

BRANCHES = 8
"""Ends of one beginning that go into one batch."""


class BadRow(Refused):
    """A row cannot be scored: empty, a token that the model does not have, or longer than the context."""

    def __init__(self, message: str, kind: str = "invalid_request_error", **more: int) -> None:
        super().__init__(400, kind, message, **more)


class TooLong(BadRow):
    """A row has more tokens than the context."""

    def __init__(self, tokens: int, context: int) -> None:
        self.tokens, self.context = tokens, context
        message = f"the request has {tokens} tokens, and the context size is {context}"
        super().__init__(message, "exceed_context_size_error", n_prompt_tokens=tokens, n_ctx=context)


class StartTooLate(BadRow):
    """A row has fewer tokens than are to go without a log-probability."""

    def __init__(self, start: int, tokens: int) -> None:
        message = f"log-probabilities are wanted from token {start} on, and the prompt has {tokens}"
        super().__init__(message, "start_too_late_error", n_prompt_tokens=tokens)


NO_NUMBERS = "what the model says are no numbers: its weights are damaged"


class NoNumbers(Refused):
    """The model's answer is NaN or infinite."""

    def __init__(self) -> None:
        super().__init__(500, "server_error", NO_NUMBERS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row to score: its tokens, and the first of them whose log-probability is wanted."""

    tokens: list[int]
    start: int

    @classmethod
    def of(cls, row: ScoreRow, tokens: list[int]) -> Wanted:
        """Returns what is wanted of a row whose text has these tokens.

        Raises:
            StartTooLate: it has fewer of them than it says.
        """
        if row.start is None:
            return cls(tokens, len(tokens))
        if row.start > max(1, len(tokens)):
            raise StartTooLate(row.start, len(tokens))
        return cls(tokens, max(1, row.start))


@dataclass(slots=True)
class Place:
    """What the model says after some token: of the token that really follows, and which are likeliest."""

    logprob: float
    greedy: bool
    top: list[Likely]


@dataclass(frozen=True, slots=True)
class Read:
    """One token of a batch, and where to note what the model says after it."""

    sequence: int
    at: int
    row: list[int]
    places: dict[int, Place]
    is_wanted: bool


def check_row(row: Wanted, context: int, vocabulary: int) -> None:
    """Raises BadRow, TooLong when a model cannot score a row."""
    if not row.tokens:
        raise BadRow("a row has no tokens")
    if len(row.tokens) > context:
        raise TooLong(len(row.tokens), context)
    odd = next((token for token in row.tokens if not 0 <= token < vocabulary), None)
    if odd is not None:
        raise BadRow(f"there is no token {odd}; the model has 0 to {vocabulary - 1}")


def read_score_request(body: bytes) -> ScoreRequest:
    """Returns the request for scores.

    Raises:
        BadRow, msgspec.DecodeError: it is none, or asks for too much.
    """
    request = msgspec.json.decode(body, type=ScoreRequest)
    if not 0 <= request.top <= MOST_TOP or not 0 < len(request.rows) <= MOST_ROWS:
        raise BadRow(f"top goes from 0 to {MOST_TOP}, and 1 to {MOST_ROWS} rows are scored at once")
    return request


def named_tokens(rows: Sequence[ScoredRow]) -> set[int]:
    """Returns every token that an answer names."""
    named = {token for row in rows for token in row.tokens}
    for row in rows:
        for places in (*row.top, row.next):
            named |= {likely.token for likely in places or ()}
    return named


def is_noted(at: int, tokens: list[int], start: int) -> bool:
    """Returns whether what the model says after token `at` is part of a row's answer."""
    return at + 1 >= start or at + 1 == len(tokens)


def note_places(logits: npt.NDArray[np.float32], reads: Sequence[Read], top: int) -> None:
    """Turns logits (reads, vocabulary) into places; the sum of the softmax is taken in 64 bits.

    Raises:
        NoNumbers: they are none.
    """
    best = logits.argmax(axis=1)
    high = np.take_along_axis(logits, best[:, None], axis=1)
    with np.errstate(invalid="ignore"):
        norms = high[:, 0] + np.log(np.exp(logits - high).sum(axis=1, dtype=np.float64))
    if not np.isfinite(norms).all():
        raise NoNumbers
    for line, norm, first, read in zip(logits, norms, best, reads, strict=True):
        if top > 1:
            likeliest = np.argpartition(line, -top)[-top:]
            likeliest = likeliest[np.lexsort((likeliest, -line[likeliest]))]
        else:
            likeliest = [first]
        listed = [Likely(int(i), float(line[i] - norm)) for i in likeliest]
        follows = read.row[read.at + 1] if read.at + 1 < len(read.row) else int(first)
        read.places[read.at] = Place(float(line[follows] - norm), bool(line[follows] >= line[first]), listed)


def drawn(row: Wanted, places: dict[int, Place], top: int) -> ScoredRow:
    """Returns a row's answer from what was noted at its places."""
    found = [places[at - 1] if at >= row.start and at else None for at in range(len(row.tokens))]
    return ScoredRow(
        row.tokens,
        [place.logprob if place else None for place in found],
        [place.greedy if place else None for place in found],
        places[len(row.tokens) - 1].top[: max(1, top)],
        [place.top[:top] if place else None for place in found] if top else [],
    )


def common(one: list[int], other: list[int]) -> int:
    """Returns how many tokens two rows begin with in common."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def groups(rows: Sequence[Wanted], room: int) -> list[tuple[list[Wanted], int]]:
    """Puts neighbours together whose ends after a long common beginning fit one batch of `room` tokens.

    Returns:
        (rows, tokens that they have in common) of each group.
    """
    found: list[tuple[list[Wanted], int]] = []
    for row in rows:
        if found and room:
            members, shared = found[-1]
            both = min(shared, common(members[0].tokens, row.tokens), len(row.tokens), len(members[0].tokens))
            ends = sum(len(m.tokens) - both + 1 for m in [*members, row])
            if len(members) < BRANCHES and both > len(row.tokens) // 2 and ends <= room:
                found[-1] = ([*members, row], both)
                continue
        found.append(([row], len(row.tokens)))
    return found
