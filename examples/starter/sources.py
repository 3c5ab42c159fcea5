"""Where the stories come from, under which licence each may be used, and how often each language is read.

Two kinds of source. A *per story* source states the licence at the end of each story, and only that line counts.
A *whole* source is licensed as one work, by the licence in this table.

Nothing is downloaded by the recipe: fetch each repository at the named commit into ``CORPUS/<folder>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Source:
    """One public repository of stories."""

    folder: str
    repo: str
    commit: str
    kind: Literal["per_story", "jsonl", "book"]
    licence: str
    """SPDX id of a whole source; empty where each story has its own."""
    holder: str
    languages: tuple[str, ...]
    title: str = ""


SOURCES = (
    Source(
        "african-storybook",
        "global-asp/asp-source",
        "99e022369a980bd52bce8c6f86d5f24e9a4ada9d",
        "per_story",
        "",
        "African Storybook (Saide) and the named authors",
        ("en", "sw"),
    ),
    Source(
        "pratham-books",
        "global-asp/pb-source",
        "9ea530dfb0011dd1cbaf42e6ffe74aa3ef5733ed",
        "per_story",
        "",
        "Pratham Books StoryWeaver and the named authors",
        ("en", "hi"),
    ),
    Source(
        "tinystories-ru",
        "MichaelMonashev/TinyStories-ru",
        "61e8fcd5c6947b1f0dcf4c11432bacdd5066358f",
        "jsonl",
        "Apache-2.0",
        "Michael Monashev; written by language models",
        ("ru",),
    ),
    Source(
        "books/aesop",
        "GITenberg/Aesop-s-Fables--a-new-translation_11339",
        "03c35d1456140f2918222edb9f1ca10992a7f7e8",
        "book",
        "LicenseRef-Public-Domain",
        "Aesop, translated by V. S. Vernon Jones (1912)",
        ("en",),
        "Aesop's Fables",
    ),
    Source(
        "books/english-fairy-tales",
        "GITenberg/English-Fairy-Tales_7439",
        "3194dc00b8f7b4e3d364ee5b3d7625b47a6be9d1",
        "book",
        "LicenseRef-Public-Domain",
        "Joseph Jacobs (1890)",
        ("en",),
        "English Fairy Tales",
    ),
    Source(
        "books/stories-to-tell",
        "GITenberg/Stories-to-Tell-to-Children_473",
        "ed8132ab76df8b6123f982b471b068bb4e81aa56",
        "book",
        "LicenseRef-Public-Domain",
        "Sara Cone Bryant (1907)",
        ("en",),
        "Stories to Tell to Children",
    ),
    Source(
        "books/west-wind",
        "GITenberg/Old-Mother-West-Wind_2557",
        "c360fe58e1aa659f153e9e19b1203301cd0300cd",
        "book",
        "LicenseRef-Public-Domain",
        "Thornton W. Burgess (1910)",
        ("en",),
        "Old Mother West Wind",
    ),
)

LANGUAGES = ("en", "ru", "hi", "sw")
"""English, Russian, Hindi, Swahili."""

REPEATS = {"en": 9, "ru": 3, "hi": 11, "sw": 12}
"""How often pre-training reads each language: small languages more often, but not until they are known by heart."""


def accepted_licence(line: str) -> str | None:
    """Returns the SPDX id for a story's own licence line, or None: refused.

    Accepted are CC-BY, CC-BY-SA and public domain, with or without a version. Refused is all else: NonCommercial,
    NoDerivatives, an empty line, and any wording that leaves room for doubt (two licences, "or", a question mark).
    """
    text = re.sub(r"[\[\]*_`]", "", line).strip().rstrip(".").strip().lower()
    text = re.sub(r"[\s_]+", "-", text)
    found = re.fullmatch(r"(?:cc-)?(by(?:-sa)?)(?:-(\d\.\d))?", text) if text.startswith("cc") else None
    if found:
        version = found[2] or "4.0"
        return f"CC-{found[1].upper()}-{version}" if version in ("1.0", "2.0", "2.5", "3.0", "4.0") else None
    if text in ("public-domain", "cc0", "cc0-1.0", "cc-0", "pd"):
        return "CC0-1.0" if text.startswith("cc") else "LicenseRef-Public-Domain"
    return None
