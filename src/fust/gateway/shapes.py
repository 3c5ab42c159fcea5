"""How an answer is drawn for the client that asked: the engine's chat answer, or its chunks, in another API's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from fust.wire.openai import Usage


class Shape(Protocol):
    """The form of one answer. Each request has its own, which may count and remember."""

    def whole(self, answer: dict[str, Any], usage: Usage) -> bytes:
        """Returns the body of an answer that is not streamed."""
        ...

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """Returns the events that a chunk of the engine's stream makes; none at all is fine."""
        ...

    def end(self, usage: Usage) -> bytes:
        """Returns the events that end the stream."""
        ...


class Whole:
    """The form of answers that are never streamed."""

    def whole(self, answer: dict[str, Any], usage: Usage) -> bytes:
        """See `Shape.whole`."""
        raise NotImplementedError

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """See `Shape.chunk`."""
        raise AssertionError("this answer is not streamed")

    def end(self, usage: Usage) -> bytes:
        """See `Shape.end`."""
        raise AssertionError("this answer is not streamed")


def event(name: str, body: dict[str, Any]) -> bytes:
    """Returns a server-sent event with a name, which its data repeats as `type`."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode({"type": name, **body}) + b"\n\n"


def choice_of(answer: dict[str, Any]) -> dict[str, Any]:
    """Returns the only choice of an answer or chunk; empty when it has none (the chunk of the usage)."""
    choices: Sequence[dict[str, Any]] = answer.get("choices") or ({},)
    return choices[0]


def thought_of(answer: dict[str, Any], part: str) -> str:
    """Returns what an answer (part `message`) or a chunk (`delta`) has of a thought."""
    said: dict[str, Any] = choice_of(answer).get(part) or {}
    return said.get("reasoning_content") or ""
