"""What a sequence writes, as text that is ready to be sent, and as the answers and chunks of OpenAI's API."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fust.core.ids import new_id
from fust.serve.engines.child_http import Refused
from fust.serve.engines.tf_batch import Sequence, Written
from fust.serve.engines.tf_text import Decoder, Parts, Stops, Thoughts

_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is ready, the tokens that came since the last piece, and why it is the last one."""

    parts: Parts
    tokens: list[Written]
    end: str = ""
    stop: str | None = None
    """The stop word that ended it."""


class Reading:
    """The text of one sequence as it comes."""

    def __init__(self, sequence: Sequence, decoder: Decoder, stops: Stops, thoughts: Thoughts | None, is_there: Callable[[], bool]) -> None:  # fmt: skip
        self._sequence, self._decoder = sequence, decoder
        self._stops, self._thoughts = stops, thoughts
        self._is_there = is_there
        self._count = 0

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens that were read and written."""
        prompt = len(self._sequence.prompt)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._count,
            "total_tokens": prompt + self._count,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def pieces(self) -> Iterator[Piece]:
        """Yields pieces that have text, and the last one in any case.

        Raises:
            InterruptedError: the client left.
            Refused: the model failed.
        """
        waiting: list[Written] = []
        while True:
            written = self._next()
            if written.end == "error":
                raise Refused(500, "server_error", written.fault)
            text = ""
            if written.token >= 0:
                self._count += 1
                waiting.append(written)
                text = self._decoder.put(written.token)
            if written.end:
                text += self._decoder.end()
            text = self._stops.put(text)
            end = "stop" if self._stops.found else written.end
            if end:
                yield Piece(self._last(text), waiting, end, self._stops.found)
                return
            parts = self._thoughts.put(text) if self._thoughts else Parts(content=text)
            if parts.content or parts.thought:
                yield Piece(parts, waiting)
                waiting = []

    def _next(self) -> Written:
        while True:
            if not self._is_there():
                raise InterruptedError
            try:
                return self._sequence.out.get(timeout=_LOOK_S)
            except queue.Empty:
                continue

    def _last(self, text: str) -> Parts:
        text += "" if self._stops.found else self._stops.end()
        if self._thoughts is None:
            return Parts(content=text)
        parts, rest = self._thoughts.put(text), self._thoughts.end()
        return Parts(parts.thought + rest.thought, parts.content + rest.content)


class Form:
    """Answers of one request in the form of chats or of plain completions."""

    def __init__(self, kind: Literal["chat", "text"], model: str, piece_of: Callable[[int], bytes]) -> None:
        self._is_chat = kind == "chat"
        self._piece_of = piece_of
        self.prompt_tokens: int | None = None
        """Told with every chunk when it is set, in llama.cpp's words."""
        self._head = {
            "id": new_id("chatcmpl-" if self._is_chat else "cmpl-"),
            "created": int(time.time()),
            "model": model,
        }

    def first(self) -> dict[str, Any] | None:
        """Returns the chunk that comes before any text; completions have none."""
        return self._chunk({"delta": {"role": "assistant", "content": None}}, "") if self._is_chat else None

    def chunk(self, piece: Piece, *, told: bool) -> dict[str, Any]:
        """Returns a piece as a chunk; `told`: with log-probabilities."""
        if not self._is_chat:
            choice: dict[str, Any] = {"text": piece.parts.content}
        else:
            named = {"reasoning_content": piece.parts.thought, "content": piece.parts.content}
            choice = {"delta": {name: text for name, text in named.items() if text}}
        if told:
            choice["logprobs"] = {"content": [self._told(written) for written in piece.tokens]}
        if piece.stop is not None:
            choice["stop_reason"] = piece.stop
        timings = {"timings": {"prompt_n": self.prompt_tokens, "cache_n": 0}} if self.prompt_tokens else {}
        return {**self._chunk(choice, piece.end), **timings}

    def last(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Returns the chunk that tells the usage."""
        return {**self._chunk({}, ""), "choices": [], "usage": usage}

    def whole(self, pieces: list[Piece], usage: dict[str, Any], *, told: bool) -> dict[str, Any]:
        """Returns the answer at once."""
        content = "".join(piece.parts.content for piece in pieces)
        thought = "".join(piece.parts.thought for piece in pieces)
        choice: dict[str, Any] = {"index": 0, "finish_reason": pieces[-1].end}
        if pieces[-1].stop is not None:
            choice["stop_reason"] = pieces[-1].stop
        if self._is_chat:
            message = {"role": "assistant", "content": content}
            choice["message"] = message | ({"reasoning_content": thought} if thought else {})
        else:
            choice["text"] = content
        entries = [self._told(written) for piece in pieces for written in piece.tokens] if told else None
        choice["logprobs"] = {"content": entries} if told else None
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": usage}

    def _chunk(self, choice: dict[str, Any], end: str) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return {
            **self._head,
            "object": kind,
            "choices": [{"index": 0, "finish_reason": end or None, **choice}],
        }

    def _told(self, written: Written) -> dict[str, Any]:
        """Returns a token's log-probability as llama.cpp's server tells it."""
        top = [self._entry(likely.token, likely.logprob) for likely in written.top]
        return self._entry(written.token, written.logprob) | {"top_logprobs": top}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._piece_of(token)
        return {"id": token, "token": raw.decode("utf-8", "replace"), "bytes": list(raw), "logprob": logprob}
