"""Sentences that are kept now and drawn later in the reader's language."""

from __future__ import annotations

from typing import Any

import msgspec

from fust.core.i18n import Language, Words, fill


class Note(msgspec.Struct, frozen=True):
    """A template with its fields; the Chinese form is looked up when it is drawn."""

    template: str
    params: dict[str, Any] = {}
    """Text, numbers and `Words`; only a note without the last is kept beyond this process."""

    def draw(self, language: Language = "en") -> str:
        """Returns the sentence in the language."""
        return fill(self.template, dict(self.params), language)


def note(template: str, /, **params: str | int | float | Words) -> Note:
    """Returns a sentence for later; `template` is a literal, as in `FustError`."""
    return Note(template, params)
