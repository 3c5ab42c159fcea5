"""Tokens as text while they come: no half characters, nothing of a stop word, and thoughts apart from the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_TAIL = 5
"""Tokens of the prompt that the first new one is decoded with: some tokenizers drop a space at the beginning."""
_OPEN, _CLOSE = "<think>", "</think>"


class Decoder:
    """Text of tokens that come one by one."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt[-_TAIL:])
        self._told = len(self._tokens)
        self._from = 0

    def put(self, token: int) -> str:
        """Returns what is new and whole with this token; the rest of a character waits for its other tokens."""
        self._tokens.append(token)
        text, whole = self._text(self._told), self._text(len(self._tokens))
        if len(whole) <= len(text) or whole.endswith("\ufffd"):
            return ""
        self._from, self._told = self._told, len(self._tokens)
        return whole[len(text) :]

    def end(self) -> str:
        """Returns what was held back."""
        return self._text(len(self._tokens))[len(self._text(self._told)) :]

    def _text(self, end: int) -> str:
        return self._tokenizer.decode(
            self._tokens[self._from : end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


class Stops:
    """Ends a text before the first stop word; what may be the beginning of one waits."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = [word for word in words if word]
        self._held = ""
        self.found: str | None = None
        """The word that was met."""

    def put(self, text: str) -> str:
        """Returns what is surely not part of a stop word."""
        self._held += text
        cuts = [(at, word) for word in self._words if (at := self._held.find(word)) >= 0]
        if cuts:
            at, self.found = min(cuts, key=lambda cut: cut[0])
            text, self._held = self._held[:at], ""
            return text
        keep = max((_begun(self._held, word) for word in self._words), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def end(self) -> str:
        """Returns what waited."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, word: str) -> int:
    """Returns how many characters at the end of a text are the beginning of a word."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)


@dataclass(slots=True)
class Parts:
    """A piece of an answer."""

    thought: str = ""
    content: str = ""


class Thoughts:
    """Takes apart `<think>…</think>` at the beginning of an answer and what follows it.

    Some templates open the thought in the prompt; then the answer is inside it from its first token.
    """

    def __init__(self, *, inside: bool) -> None:
        self._state = "inside" if inside else "before"
        self._held = ""

    def put(self, text: str) -> Parts:
        """Returns the parts that are sure."""
        self._held += text
        parts = Parts()
        if self._state == "before":
            begun = self._held.lstrip()
            if begun.startswith(_OPEN):
                self._state, self._held = "inside", begun[len(_OPEN) :]
            elif not _OPEN.startswith(begun):
                self._state = "after"
        if self._state == "inside":
            thought, closed, rest = self._held.partition(_CLOSE)
            if closed:
                self._state, self._held = "between", rest
                parts.thought = thought
            else:
                keep = _begun(self._held, _CLOSE)
                parts.thought = self._held[: len(self._held) - keep]
                self._held = self._held[len(self._held) - keep :]
        if self._state == "between":  # the lines between thought and answer belong to neither
            self._held = self._held.lstrip()
            self._state = "after" if self._held else "between"
        if self._state == "after":
            parts.content, self._held = self._held, ""
        return parts

    def end(self) -> Parts:
        """Returns what waited."""
        held, self._held = self._held, ""
        return Parts(thought=held) if self._state == "inside" else Parts(content=held)
