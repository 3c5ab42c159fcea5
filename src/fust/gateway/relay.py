"""Answers of engines on their way to the client: whole ones, and streams of server-sent events.

With one choice the engine's bytes pass as they are, but for the model's name, which becomes the client's own word. In
JSON a quote inside a string is escaped, so the pattern `"model":"…"` can only be the field itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from fust.core.errors import UpstreamFailed
from fust.gateway.upstream import explain_fault, lost, no_answer, no_numbers
from fust.wire.openai import Answer, Usage
from fust.wire.targets import Target

_ANSWER = msgspec.json.Decoder(Answer)
DONE = b"data: [DONE]\n\n"
_NAN = b'"logprob":null'
"""llama.cpp writes so of what is no number."""
_NAN_VECTOR = re.compile(
    rb'"embedding":\s*(?:\[+\s*null|"(?:AADAfwAAwH8AAMB/|AADA/wAAwP8AAMD/))|_score":\s*null'
)
"""The same of embeddings, of which each number is none then: in digits, and in base64; and of ranks."""
_EMPTY_CHOICES = re.compile(rb'"choices":\s*\[\]')
_MAX_EVENT_BYTES = 8 * 1024 * 1024


class Names:
    """Puts the client's name for a model in the place of the engine's."""

    def __init__(self, target: Target) -> None:
        self._old = b'"model":' + msgspec.json.encode(target.alias)
        self._new = b'"model":' + msgspec.json.encode(target.model)

    def put(self, data: bytes) -> bytes:
        """Returns the bytes with the client's name."""
        return data.replace(self._old, self._new)


def decode_answer(data: bytes, target: Target) -> dict[str, Any]:
    """Returns an answer or a chunk; raises UpstreamFailed for what is none."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise no_answer(target) from None


def check_numbers(data: bytes, target: Target) -> None:
    """Raises UpstreamFailed for an answer whose numbers are none."""
    if _NAN in data or (target.mode == "embed" and _NAN_VECTOR.search(data)):
        raise no_numbers(target)


def usage_of_answer(data: bytes, target: Target) -> Usage:
    """Returns the usage that a whole answer tells; raises UpstreamFailed for what is no answer."""
    try:
        return _ANSWER.decode(data).usage or Usage()
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise no_answer(target) from None


def usage_of(data: bytes) -> Usage | None:
    """Returns the usage that an event tells, or None."""
    try:
        return _ANSWER.decode(data).usage
    except msgspec.DecodeError:
        return None


class EventStream:
    """An engine's stream, event by event or in the pieces in which it came, counting on the way."""

    def __init__(self, response: aiohttp.ClientResponse, target: Target, *, include_usage: bool) -> None:
        self._response = response
        self._target = target
        self._names = Names(target)
        self._include_usage = include_usage
        self.usage: Usage | None = None
        self.first_token_s: float | None = None
        self.done = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields whole events, several at once when they came so, and the end mark last.

        Raises:
            FustError: the engine told of an error, or ended before the end mark.
        """
        if self._response.content_type != "text/event-stream":
            raise no_answer(self._target)
        rest = b""
        async for data in self._response.content.iter_any():
            if rest:
                data = rest + data
                rest = b""
            if not data.endswith(b"\n\n"):
                cut = data.rfind(b"\n\n") + 2
                if cut < 2:
                    rest = data
                    if len(rest) > _MAX_EVENT_BYTES:
                        raise UpstreamFailed("The engine sent an event without an end.")
                    continue
                data, rest = data[:cut], data[cut:]
            if _NAN in data:
                raise no_numbers(self._target)
            piece = self._names.put(data)
            if (
                self.first_token_s is None
                or b'"usage":' in piece
                or b"[DONE]" in piece
                or b'"error":' in piece
                or piece.count(b"\n\ndata: ") + piece.startswith(b"data: ") != piece.count(b"\n\n")
            ):
                piece = self._look(piece)
            if piece:
                yield piece
        if not self.done:
            raise lost(self._target)

    def _look(self, piece: bytes) -> bytes:
        """Reads events that say more than a token: the first, the last, the usage, an error, what is no event."""
        kept: list[bytes] = []
        for event in piece.split(b"\n\n"):
            line = event.strip()
            if not line:
                continue
            if line.startswith((b'data: {"error"', b'error: {"')):
                raise explain_fault(_error_body(line), 500, self._target)
            if line == b"data: [DONE]":
                self.done = True
            elif b'"usage":' in line and line.startswith(b"data: "):
                usage = usage_of(line[6:])
                if usage is not None:
                    self.usage = usage
                    if not self._include_usage and _EMPTY_CHOICES.search(line):
                        continue
            elif self.first_token_s is None and line.startswith(b"data: ") and b'"content":null' not in line:
                self.first_token_s = time.perf_counter()
            elif not line.startswith((b"data:", b":", b"event:", b"error:")):
                raise no_answer(self._target)
            kept.append(line)
        return b"".join(line + b"\n\n" for line in kept)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Yields the decoded chunks, without the end mark."""
        async for piece in self.pieces():
            for event in piece.split(b"\n\n"):
                line = event.strip()
                if line.startswith(b"data: {"):
                    yield decode_answer(line[6:], self._target)


def _error_body(line: bytes) -> bytes:
    if line.startswith(b"error: "):
        return b'{"error":' + line[7:] + b"}"
    return line[6:]
