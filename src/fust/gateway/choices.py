"""Several engine requests as one answer (`n`, lists of prompts), and the old form of completions' log-probabilities.

llama.cpp takes `n` and lists itself, but then counts the tokens of one choice only; so each choice is a request of its own.
"""

from __future__ import annotations

from typing import Any

from fust.gateway.echo import shown
from fust.gateway.translate import Plan
from fust.wire.openai import Usage


def number_choice(chunk: dict[str, Any], index: int) -> dict[str, Any]:
    """Gives a one-choice answer or chunk its place among the choices."""
    for choice in chunk.get("choices", ()):
        choice["index"] = index
    return chunk


def without_beginning(answer: dict[str, Any], begun: str) -> None:
    """Takes the caller's own beginning off an answer: llama.cpp repeats it, though not in a stream."""
    for choice in answer.get("choices", ()):
        message: dict[str, Any] = choice["message"]
        message["content"] = (message.get("content") or "").removeprefix(begun)


def add_usage(plan: Plan, parts: list[Usage]) -> Usage:
    """Returns what all choices took; a prompt counts once however many choices it has."""
    prompts = parts[:: plan.choices]
    total = Usage(
        prompt_tokens=sum(part.prompt_tokens for part in prompts),
        completion_tokens=sum(part.completion_tokens for part in parts),
    )
    total.total_tokens = total.prompt_tokens + total.completion_tokens
    total.prompt_tokens_details = {"cached_tokens": sum(part.cached_tokens for part in prompts)}
    thought = [part.reasoning_tokens for part in parts if part.reasoning_tokens is not None]
    if thought:
        total.completion_tokens_details = {"reasoning_tokens": sum(thought)}
    if any(part.estimated is True for part in parts):
        total.estimated = True
    return total


def merge_answers(answers: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    """Returns one answer with all choices in order."""
    whole = dict(answers[0])
    whole["choices"] = [
        choice for index, answer in enumerate(answers) for choice in number_choice(answer, index)["choices"]
    ]
    whole["usage"] = usage
    whole.pop("timings", None)
    return whole


def old_logprobs(answer: dict[str, Any], top: int, offset: int = 0) -> int:
    """Rewrites the log-probabilities of a completion (or chunk) to the form that `/v1/completions` has.

    Args:
        answer: as the engine gave it; changed in place.
        top: alternatives that are told of each token.
        offset: characters of text that came before.

    Returns:
        The offset after it.
    """
    for choice in answer.get("choices", ()):
        held: dict[str, Any] = choice.get("logprobs") or {}
        content: list[dict[str, Any]] | None = held.get("content")
        if content is None:
            if not top and held:  # of an engine that has this form already
                held["top_logprobs"] = [{} for _ in held.get("top_logprobs") or ()]
            continue
        offsets: list[int] = []
        for token in content:
            offsets.append(offset)
            offset += len(token["token"])
        choice["logprobs"] = {
            "tokens": [_shown(token) for token in content],
            "token_logprobs": [token["logprob"] for token in content],
            "top_logprobs": [
                {_shown(likely): likely["logprob"] for likely in token.get("top_logprobs", ())[:top]}
                for token in content
            ],
            "text_offset": offsets,
        }
    return offset


def _shown(token: dict[str, Any]) -> str:
    """Returns a token's text; engines write every piece of a character alike, so the bytes tell such pieces apart."""
    raw: list[int] | None = token.get("bytes")
    return token["token"] if raw is None else shown(bytes(raw))
