"""Requests and answers of an upstream in the words of the other side, and what they took where it does not say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec

_OURS = ("cache_prompt", "timings_per_token", "lora", "add_generation_prompt", "verbose")
_BYTES_PER_TOKEN = 4
_MOST_EVENT_BYTES = 8 << 20


class Broken(Exception):
    """An event stream that is none."""


async def events_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yields the data of server-sent events (HTML standard, 9.2.6), whatever ends their lines.

    Raises:
        Broken: an event of more than 8 MiB.
    """
    rest = b""
    data: list[bytes] = []
    async for piece in pieces:
        rest += piece
        if len(rest) > _MOST_EVENT_BYTES or sum(map(len, data)) > _MOST_EVENT_BYTES:
            raise Broken("an event of more than 8 MiB")
        *lines, rest = rest.replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []
    if rest.startswith(b"data:"):
        data.append(rest[5:].strip())
    if data:
        yield b"\n".join(data)


def request_of(
    body: dict[str, Any], model: str, *, newer_limit: bool, no_stream_options: bool
) -> dict[str, Any]:
    """Returns the request in OpenAI's words: the gateway's own are taken out or said as the vendor does.

    Args:
        body: as the gateway sent it.
        model: what the upstream calls it.
        newer_limit: whether it wants `max_completion_tokens` in the place of `max_tokens`.
        no_stream_options: whether it refuses `stream_options`.
    """
    made = {name: value for name, value in body.items() if name not in _OURS}
    made["model"] = model
    given: dict[str, Any] = dict(made.get("chat_template_kwargs") or {})
    effort = given.pop("reasoning_effort", None)
    if effort is not None:
        made["reasoning_effort"] = effort
        if given == {"enable_thinking": False}:
            given = {}
        made.pop("chat_template_kwargs")
        if given:
            made["chat_template_kwargs"] = given
    if newer_limit and "max_tokens" in made:
        made["max_completion_tokens"] = made.pop("max_tokens")
    if no_stream_options:
        made.pop("stream_options", None)
    return made


def usage_in_words(given: object) -> dict[str, Any] | None:
    """Returns a usage whose counts are whole numbers, or None for what is none."""
    if not isinstance(given, dict):
        return None
    usage = cast("dict[str, Any]", given)
    made: dict[str, Any] = {}
    for name, value in usage.items():
        if isinstance(value, dict):
            counts = cast("dict[str, Any]", value)
            made[name] = {key: count for key, count in counts.items() if type(count) is int and count >= 0}
        elif name.endswith("_tokens"):
            made[name] = max(0, value) if type(value) is int else 0
        elif isinstance(value, int | float):
            made[name] = value
    return made if made.get("prompt_tokens") or made.get("completion_tokens") else None


class Estimate:
    """What a request took, by the length of its text, for upstreams that do not tell."""

    def __init__(self, body: dict[str, Any]) -> None:
        asked = body.get("messages") or body.get("prompt") or body.get("input") or ""
        self._prompt = len(msgspec.json.encode(asked)) // _BYTES_PER_TOKEN + 1
        self._written = 0

    def add(self, answer: dict[str, Any]) -> None:
        """Counts what an answer or a chunk says."""
        for choice in answer.get("choices") or ():
            said: dict[str, Any] = (
                choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            )
            for name in ("content", "reasoning_content", "reasoning"):
                if isinstance(said.get(name), str):
                    self._written += len(said[name].encode("utf-8", "replace"))
            calls: list[dict[str, Any]] = said.get("tool_calls") or []
            for call in calls:
                function: dict[str, Any] = call.get("function") or {}
                self._written += len(str(function.get("arguments") or ""))

    def usage(self) -> dict[str, Any]:
        """Returns it in the form of `usage`, marked."""
        written = -(-self._written // _BYTES_PER_TOKEN)
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": written,
            "total_tokens": self._prompt + written,
            "estimated": True,
        }
