"""How an engine is asked for log-likelihoods: `POST /score` at its base URL."""

from __future__ import annotations

import msgspec

MOST_ROWS = 2048
"""As many as a plain completion has prompts."""
MOST_TOP = 20


class ScoreRow(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One text, as token ids or as it is written."""

    tokens: list[int] | None = None
    text: str | None = None
    """Tokenised by the engine, special tokens read, the model's own first token added."""
    start: int | None = 1
    """First token (counted from 0) whose log-probability is wanted; earlier ones are None in the answer.

    At most as many as there are tokens; None: of no token at all, only of what may follow the last.
    """


class ScoreRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Texts to score; those that follow one another and begin alike cost their common beginning once."""

    rows: list[ScoreRow]
    top: int = 0
    """How many of the likeliest tokens to tell at every place, 0 to 20."""
    pieces: bool = False
    """Whether the text of every token is wanted."""
    adapter: str = ""
    """What the engine calls the LoRA adapter to score with (a path of a GGUF file, an id); empty for none."""


class Likely(msgspec.Struct, array_like=True):
    """A token that the model finds likely at some place."""

    token: int
    logprob: float


class ScoredRow(msgspec.Struct, omit_defaults=True):
    """What the model makes of a row."""

    tokens: list[int]
    logprobs: list[float | None]
    """Of each token given those before it, natural logarithm; None before `start`."""
    greedy: list[bool | None]
    """Whether the token is the likeliest one at its place."""
    next: list[Likely]
    """The likeliest tokens after the row's end; at least one."""
    top: list[list[Likely] | None] = []
    """For each token the likeliest ones at its place; empty when none were asked for."""


class ScoreAnswer(msgspec.Struct, omit_defaults=True):
    """The rows in the order of the request."""

    rows: list[ScoredRow]
    pieces: dict[int, bytes] = {}
    """Text of every token that the answer names, by id; maybe only a piece of a character, hence bytes (base64)."""
