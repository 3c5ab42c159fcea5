"""Two languages for every message a person can meet.

A message is written in the code as a literal English template with ``{name}`` fields. Its Chinese form is looked
up by that template in ``locales/zh/*.json``; a test scans the source and fails when one is missing.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Literal

Language = Literal["en", "zh"]

_LOCALES = Path(__file__).parent / "locales"


@functools.cache
def _catalogue(language: Language) -> dict[str, str]:
    merged: dict[str, str] = {}
    folder = _LOCALES / language
    if folder.is_dir():
        for path in sorted(folder.glob("*.json")):
            merged.update(json.loads(path.read_text(encoding="utf-8")))
    return merged


class Words:
    """A template that is itself a field of another message, and is drawn in that one's language.

    No text by itself, so that what keeps fields as JSON makes a plain one of it (`str`).
    """

    def __init__(self, template: str, /, **params: object) -> None:
        self.template, self.params = template, params

    def __str__(self) -> str:
        return self.draw("en")

    def draw(self, language: Language) -> str:
        """Returns it in the language."""
        return fill(self.template, self.params, language)


class Clause(Words):
    """A sentence as a part of another: without its full stop."""

    def draw(self, language: Language) -> str:
        """Returns it in the language."""
        return super().draw(language).rstrip(".。")


def fill(template: str, params: dict[str, object], language: Language = "en") -> str:
    """Returns the template in the language, its fields filled from ``params``."""
    if language == "en":
        text = template
    else:
        text = _catalogue(language).get(template, template)
        params = {k: v.draw(language) if isinstance(v, Words) else v for k, v in params.items()}
    try:
        return text.format(**params)
    except (KeyError, IndexError, ValueError):
        return text


def t(template: str, /, **params: object) -> str:
    """Returns the template in the language of this process's terminal (``FUST_LANG``, ``LC_ALL``, ``LANG``)."""
    return fill(template, params, terminal_language())


def terminal_language() -> Language:
    """Returns the language that the environment asks for; English unless it names Chinese."""
    for key in ("FUST_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(key)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def accepted_language(header: str | None) -> Language:
    """Returns the better of our two languages for an ``Accept-Language`` value (RFC 9110, 12.5.4)."""
    best: Language = "en"
    best_q = 0.0
    for part in (header or "")[:500].split(","):
        tag, _, rest = part.strip().partition(";")
        language: Language | None = (
            "zh" if tag.lower().startswith("zh") else "en" if tag.lower().startswith("en") else None
        )
        if language is None:
            continue
        try:
            q = float(rest.strip().removeprefix("q=")) if rest.strip().startswith("q=") else 1.0
        except ValueError:
            q = 0.0
        if q > best_q:
            best, best_q = language, q
    return best
