"""Reads tool calls out of what a model writes, token by token: the same reader serves whole answers and streams."""

from __future__ import annotations

import json
from typing import Any, Protocol, cast

from fust.core.ids import new_id

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_SPACE = " \t\r\n"


class CallReader(Protocol):
    """Mends one choice of an answer, or the chunks of one choice in their order."""

    def chunk(self, choice: dict[str, Any]) -> None:
        """Mends a chunk's choice in place."""
        ...

    def whole(self, choice: dict[str, Any]) -> None:
        """Mends an answer's choice in place."""
        ...


class FirstCall:
    """Lets only the first call pass: llama.cpp takes `parallel_tool_calls` for a hint."""

    def chunk(self, choice: dict[str, Any]) -> None:
        """See `CallReader.chunk`."""
        delta: dict[str, Any] = choice["delta"]
        calls: list[dict[str, Any]] | None = delta.get("tool_calls")
        if calls:
            kept = [call for call in calls if call.get("index", 0) == 0]
            if kept:
                delta["tool_calls"] = kept
            else:
                del delta["tool_calls"]

    def whole(self, choice: dict[str, Any]) -> None:
        """See `CallReader.whole`."""
        calls = choice["message"].get("tool_calls")
        if calls:
            choice["message"]["tool_calls"] = calls[:1]


class _Reader:
    """What both readers of text share: text in; text and pieces of calls out."""

    def __init__(self) -> None:
        self.called = 0

    def read(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """Returns the text that is none of a call, and the pieces of calls (as a stream has them)."""
        raise NotImplementedError

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """Returns what was held back until the end."""
        return "", []

    def chunk(self, choice: dict[str, Any]) -> None:
        """See `CallReader.chunk`."""
        delta: dict[str, Any] = choice["delta"]
        text, calls = self.read(delta.get("content") or "")
        if choice.get("finish_reason"):
            more, others = self.finish()
            text, calls = text + more, calls + others
            choice["finish_reason"] = self._reason(choice["finish_reason"])
        if delta.get("content") is not None:
            del delta["content"]
        if text:
            delta["content"] = text
        if calls:
            delta["tool_calls"] = calls

    def whole(self, choice: dict[str, Any]) -> None:
        """See `CallReader.whole`."""
        message: dict[str, Any] = choice["message"]
        text, pieces = self.read(message.get("content") or "")
        more, others = self.finish()
        message["content"] = (text + more) or None
        calls: list[dict[str, Any]] = []
        for piece in pieces + others:
            if piece["index"] == len(calls):
                calls.append(piece)
            else:
                calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
        for call in calls:
            del call["index"]
        if calls:
            message["tool_calls"] = calls
        elif message["content"] is None:
            message["content"] = ""
        choice["finish_reason"] = self._reason(choice["finish_reason"])

    def _reason(self, reason: str) -> str:
        return "tool_calls" if self.called and reason == "stop" else reason

    def _begin(self, name: str) -> dict[str, Any]:
        self.called += 1
        return {
            "index": self.called - 1,
            "id": new_id("call_"),
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }

    def _more(self, arguments: str) -> dict[str, Any]:
        return {"index": self.called - 1, "function": {"arguments": arguments}}


class ForcedCalls(_Reader):
    """Reads `{"name": …, "arguments": {…}}`, or a list of such, which a grammar has made sure of."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0
        self._call_depth = 1
        self._in_string = self._escaped = False
        self._key: str | None = None
        """The key whose value is being read, in an object that is a call."""
        self._word: list[str] = []
        self._is_value = False

    def read(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """See `_Reader.read`."""
        out: list[dict[str, Any]] = []
        for char in text:
            depth, was_string = self._depth, self._in_string
            inside = self._key == "arguments" and self._is_value and depth >= self._call_depth
            self._step(char, out)
            # White space around the value is none of it; the bracket or comma after it ends it.
            if inside and self._is_value and (was_string or depth > self._call_depth or char not in _SPACE):
                if not out:
                    out.append(self._more(""))
                out[-1]["function"]["arguments"] += char
        return "", out

    def _step(self, char: str, out: list[dict[str, Any]]) -> None:
        at_call = self._depth == self._call_depth
        if self._in_string:
            self._step_in_string(char, out, at_call=at_call)
        elif char == '"':
            self._in_string = True
            self._word = [char]
        elif char in "{[":
            if char == "[" and self._depth == 0:
                self._call_depth = 2
            self._depth += 1
        elif char in "}]":
            if at_call:
                self._is_value, self._key = False, None
            self._depth -= 1
        elif at_call and char == ":":
            self._is_value = True
        elif at_call and char == ",":
            self._is_value, self._key = False, None

    def _step_in_string(self, char: str, out: list[dict[str, Any]], *, at_call: bool) -> None:
        if at_call:
            self._word.append(char)
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            if at_call:
                word = cast(str, json.loads("".join(self._word)))
                if not self._is_value:
                    self._key = word
                elif self._key == "name":
                    out.append(self._begin(word))


class TaggedCalls(_Reader):
    """Reads `<tool_call>{…}</tool_call>` out of text; a call that is none of the tools stays text."""

    def __init__(self, names: set[str], *, single: bool) -> None:
        super().__init__()
        self._names, self._single = names, single
        self._held = ""

    def read(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """See `_Reader.read`."""
        self._held += text
        plain: list[str] = []
        calls: list[dict[str, Any]] = []
        while self._held:
            start = self._held.find(_OPEN)
            if start < 0:
                keep = _overlap(self._held, _OPEN)
                plain.append(self._held[: len(self._held) - keep])
                self._held = self._held[len(self._held) - keep :]
                break
            end = self._held.find(_CLOSE, start)
            plain.append(self._held[:start])
            self._held = self._held[start:]
            if end < 0:
                break
            inner = self._held[len(_OPEN) : end - start]
            whole = self._held[: end - start + len(_CLOSE)]
            self._held = self._held[len(whole) :].lstrip("\n")
            call = self._call(inner)
            if call is None:
                plain.append(whole)
            elif not (self._single and self.called > 1):
                calls.append(call)
        text = "".join(plain)
        return text if text.strip() or not self.called else "", calls

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """See `_Reader.finish`; models often end without the closing tag."""
        held, self._held = self._held, ""
        call = self._call(held.removeprefix(_OPEN)) if held.startswith(_OPEN) else None
        if call is not None and not (self._single and self.called > 1):
            return "", [call]
        return held, []

    def _call(self, text: str) -> dict[str, Any] | None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        body = cast("dict[str, Any]", found)
        arguments = body.get("arguments", {})
        if body.get("name") not in self._names or not isinstance(arguments, dict):
            return None
        call = self._begin(body["name"])
        call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
        return call


def _overlap(text: str, word: str) -> int:
    """Returns how many of the text's last characters begin the word."""
    return next((n for n in range(min(len(text), len(word) - 1), 0, -1) if word.startswith(text[-n:])), 0)
