"""`echo` of plain completions: the prompt with its own log-probabilities, by the scoring engine, then what follows it.

API: https://platform.openai.com/docs/api-reference/completions (the form that lm-eval's `local-completions` reads).
"""

from __future__ import annotations

import codecs
from typing import Any

import msgspec

from fust.gateway.translate import Plan
from fust.wire.scoring import Likely, ScoreAnswer, ScoredRow, ScoreRequest, ScoreRow

_PLAIN = frozenset({"temperature", "max_tokens", "logprobs", "seed", "cache_prompt"})


def follows_greedily(plan: Plan) -> bool:
    """Returns whether the likeliest next token, or none, is all that is asked for after the prompt."""
    limit = plan.body.get("max_tokens")
    if limit == 0:
        return True
    return limit == 1 and plan.body.get("temperature") == 0 and plan.body.keys() <= _PLAIN


def score_request(plan: Plan, adapter: str) -> bytes:
    """Returns the body of the scoring engine's request; ``adapter`` is what it calls the one to use, empty for none."""
    starts: list[int] | list[None] = plan.starts if plan.logprobs else [None] * len(plan.prompts)
    rows = [
        ScoreRow(text=prompt, start=start)
        if isinstance(prompt, str)
        else ScoreRow(tokens=prompt, start=start)
        for prompt, start in zip(plan.prompts, starts or [1] * len(plan.prompts), strict=True)
    ]
    return msgspec.json.encode(
        ScoreRequest(rows, top=plan.body.get("logprobs", 0), pieces=True, adapter=adapter)
    )


def greedy_end(plan: Plan, row: ScoredRow, pieces: dict[int, bytes]) -> dict[str, Any]:
    """Returns the choice that follows a prompt when `follows_greedily`, in the form of `/v1/completions`."""
    choice: dict[str, Any] = {"text": "", "finish_reason": "length"}
    tokens = row.next[:1] if plan.body["max_tokens"] else []
    choice["text"] = "".join(pieces[likely.token].decode("utf-8", "replace") for likely in tokens)
    choice["logprobs"] = {
        "tokens": [shown(pieces[likely.token]) for likely in tokens],
        "token_logprobs": [likely.logprob for likely in tokens],
        "top_logprobs": [_by_text(row.next, pieces) for _ in tokens],
        "text_offset": [0 for _ in tokens],
    }
    return choice


def put_before(
    choice: dict[str, Any], prompt: str | list[int], row: ScoredRow, answer: ScoreAnswer, *, logprobs: bool
) -> dict[str, Any]:
    """Puts a prompt and its log-probabilities before the choice that follows it; returns the choice, changed.

    Args:
        choice: with `text` and, when asked for, `logprobs` in the form of `/v1/completions`.
        prompt: as the client sent it.
        row: what the engine made of it.
        answer: whose `pieces` name every token.
        logprobs: whether they were asked for.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets: list[int] = []
    text = ""
    for token in row.tokens:
        offsets.append(len(text))
        text += decoder.decode(answer.pieces[token])
    text += decoder.decode(b"", True)
    if isinstance(prompt, str) and text.endswith(prompt):
        lead = len(text) - len(prompt)  # a first token or a space that the model's tokenizer put there
        text, offsets = prompt, [max(0, offset - lead) for offset in offsets]
    follows: dict[str, Any] | None = choice.get("logprobs")
    choice["text"] = text + choice["text"]
    choice["logprobs"] = None
    if logprobs:
        follows = follows or {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        choice["logprobs"] = {
            "tokens": [shown(answer.pieces[token]) for token in row.tokens] + follows["tokens"],
            "token_logprobs": row.logprobs + follows["token_logprobs"],
            "top_logprobs": [
                None if places is None else _by_text(places, answer.pieces)
                for places in row.top or [None] * len(row.tokens)
            ]
            + follows["top_logprobs"],
            "text_offset": offsets + [len(text) + offset for offset in follows["text_offset"]],
        }
    return choice


def shown(piece: bytes) -> str:
    """Returns a token's text; a piece of a character is written as its bytes, as OpenAI's API does."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _by_text(places: list[Likely], pieces: dict[int, bytes]) -> dict[str, float]:
    found: dict[str, float] = {}
    for likely in places:
        found.setdefault(shown(pieces[likely.token]), likely.logprob)  # of two of one text the likelier
    return found
