"""Sentences that are kept now and drawn later in the reader's language."""

from __future__ import annotations

import msgspec

from fust.core.i18n import Language, fill


class Note(msgspec.Struct, frozen=True):
    """A template with its fields; the Chinese form is looked up when it is drawn."""

    template: str
    params: dict[str, str | int | float] = {}

    def draw(self, language: Language = "en") -> str:
        """Returns the sentence in the language."""
        return fill(self.template, dict(self.params), language)


def note(template: str, /, **params: str | int | float) -> Note:
    """Returns a sentence for later; `template` is a literal, as in `FustError`."""
    return Note(template, params)
