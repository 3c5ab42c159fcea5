"""Log-likelihoods of given tokens by transformers: what rows of a request begin with in common is read once."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Rows

import torch

from fust.serve.engines.base import SCORE_LOGITS
from fust.serve.engines.safetensors import CHUNK
from fust.serve.engines.scored import Place, Read, Wanted, check_row, drawn, groups, is_noted, note_places
from fust.serve.engines.tf_batch import forward
from fust.serve.engines.tf_cache import own_cache
from fust.serve.engines.tf_model import Loaded
from fust.wire.scoring import ScoredRow

_NOTED = 32
"""Places whose logits are looked at together."""


def score(loaded: Loaded, rows: Rows[Wanted], top: int, *, shares: bool) -> Iterator[list[ScoredRow]]:
    """Yields the rows that were scored so far, after each pass of the model; the last has them all.

    Args:
        loaded: the model.
        rows: what to score.
        top: how many of the likeliest tokens to tell at each place.
        shares: whether a cache of plain layers goes with the model; else each row has one pass.

    Raises:
        BadRow, TooLong: a row cannot be scored; none was.
    """
    for row in rows:
        check_row(row, loaded.context, loaded.vocabulary)
    size = max(16, min(CHUNK, SCORE_LOGITS // loaded.vocabulary))
    found: list[ScoredRow] = []
    for group, shared in groups(rows, size if shares else 0):
        places: list[dict[int, Place]] = [{} for _ in group]
        # The last common token is read once more by each row: what follows it differs.
        begin = shared - 1 if len(group) > 1 else len(group[0].tokens)
        cache = own_cache(loaded.model, shared=shares)
        first = Wanted(group[0].tokens, min(row.start for row in group))
        step = size if shares else begin
        for at in range(0, begin, step):
            _pass(loaded, [first], places[:1], range(at, min(begin, at + step)), cache, top)
            yield found
        if len(group) > 1:
            for known in places[1:]:
                known.update(places[0])
            cache.batch_repeat_interleave(len(group))
            longest = max(len(row.tokens) for row in group)
            _pass(loaded, group, places, range(begin, longest), cache, top)
            yield found
        found += [drawn(row, known, top) for row, known in zip(group, places, strict=True)]
    yield found


def _pass(loaded: Loaded, rows: Rows[Wanted], places: Rows[dict[int, Place]], part: range, cache: object, top: int) -> None:  # fmt: skip
    """Reads one part of rows, those that end sooner filled up on the right, and notes what is wanted of it."""
    ids = torch.tensor([[row.tokens[i] if i < len(row.tokens) else 0 for i in part] for row in rows])
    wanted = [[i for i in part if i < len(row.tokens) and is_noted(i, row.tokens, row.start)] for row in rows]
    least = min((found[0] for found in wanted if found), default=part.stop - 1)
    logits = forward(loaded, ids, cache, keep=part.stop - least)
    for line, row, known, found in zip(logits, rows, places, wanted, strict=True):
        for at in range(
            0, len(found), _NOTED
        ):  # all at once, what is made of the logits would be thrice as large
            some = found[at : at + _NOTED]
            reads = [Read(0, i, row.tokens, known, True) for i in some]
            note_places(line[[i - least for i in some]].float().numpy(), reads, top)
