"""What is wrong with a card: errors for values of the wrong shape, warnings for words that nobody will find.

Keys and words as in huggingface.co/docs/hub/model-cards and datasets-cards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, cast

from fust.core.i18n import Language, fill
from fust.hub.cards import parse_card

LICENCES = frozenset(
    [
        "apache-2.0",
        "mit",
        "openrail",
        "openrail++",
        "bigscience-openrail-m",
        "creativeml-openrail-m",
        "bigscience-bloom-rail-1.0",
        "bigcode-openrail-m",
        "afl-3.0",
        "artistic-2.0",
        "bsl-1.0",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "c-uda",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cdla-sharing-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "wtfpl",
        "ecl-2.0",
        "epl-1.0",
        "epl-2.0",
        "etalab-2.0",
        "eupl-1.1",
        "eupl-1.2",
        "agpl-3.0",
        "gfdl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "lgpl-lr",
        "isc",
        "h-research",
        "intel-research",
        "lppl-1.3c",
        "ms-pl",
        "apple-ascl",
        "apple-amlr",
        "mpl-2.0",
        "odc-by",
        "odbl",
        "openmdw-1.0",
        "osl-3.0",
        "postgresql",
        "ofl-1.1",
        "ncsa",
        "unlicense",
        "zlib",
        "pddl",
        "deepfloyd-if-license",
        "fair-noncommercial-research-license",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "llama4",
        "grok2-community",
        "gemma",
        "unknown",
        "other",
    ]
)
_TEXTS = (
    "license",
    "license_name",
    "license_link",
    "library_name",
    "pipeline_tag",
    "thumbnail",
    "pretty_name",
)
_LISTS = (
    "language",
    "tags",
    "datasets",
    "base_model",
    "metrics",
    "task_categories",
    "task_ids",
    "size_categories",
)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MAX_TOLD = 20


@dataclass(slots=True)
class Findings:
    """Sentences about a card, in the reader's language."""

    errors: list[str] = field(default_factory=lambda: [])
    warnings: list[str] = field(default_factory=lambda: [])


def check_card(text: str, language: Language) -> Findings:
    """Returns what is wrong with a README; a card without errors may be uploaded."""
    card = parse_card(text)
    found = Findings()
    if card.error:
        found.errors.append(fill("The YAML block cannot be read: {why}.", {"why": card.error}, language))
        return found
    if not card.data:
        found.warnings.append(fill("empty or missing yaml metadata", {}, language))
        return found
    _check_shapes(card.data, found, language)
    if not found.errors:
        _check_words(card.data, found, language)
        _check_results(card.data.get("model-index"), found, language)
    del found.errors[_MAX_TOLD:], found.warnings[_MAX_TOLD:]
    return found


def _check_shapes(data: dict[str, Any], found: Findings, language: Language) -> None:
    for key in _TEXTS:
        value: object = data.get(key)
        several = isinstance(value, list) and key == "license"
        if several and all(isinstance(word, str) for word in cast("list[object]", value)):
            continue
        if value is not None and not isinstance(value, str):
            found.errors.append(fill('"{key}" must be a text.', {"key": key}, language))
    for key in _LISTS:
        value = data.get(key)
        if value is None or isinstance(value, str):
            continue
        words = cast("list[object]", value) if isinstance(value, list) else [None]
        for i, word in enumerate(words):
            if not isinstance(word, str):
                hint = fill(
                    '"{key}[{i}]" must be a text; write no in quotes: "no".', {"key": key, "i": i}, language
                )
                found.errors.append(hint)


def _words(value: object) -> list[str]:
    return cast("list[str]", value) if isinstance(value, list) else [value] if isinstance(value, str) else []


def _check_words(data: dict[str, Any], found: Findings, language: Language) -> None:
    for word in _words(data.get("license")):
        if word.lower() not in LICENCES:
            found.warnings.append(
                fill(
                    'Nobody searches for the licence "{word}"; use its SPDX id in lower case, or other.',
                    {"word": word[:100]},
                    language,
                )
            )
    if data.get("license") == "other" and not data.get("license_name"):
        found.warnings.append(
            fill('A licence "other" needs "license_name" and "license_link".', {}, language)
        )
    for word in _words(data.get("language")):
        if not _LANGUAGE.fullmatch(word) and word not in ("code", "multilingual"):
            found.warnings.append(
                fill(
                    '"{word}" is not the code of a language (ISO 639, as en or zh).',
                    {"word": word[:100]},
                    language,
                )
            )
    for key in ("base_model", "datasets"):
        for word in _words(data.get(key)):
            if not _ID.fullmatch(word):
                found.errors.append(
                    fill(
                        '"{key}": "{word}" is not a repo id (owner/name).',
                        {"key": key, "word": word[:100]},
                        language,
                    )
                )


def _check_results(value: object, found: Findings, language: Language) -> None:
    if value is None:
        return
    for i, model in enumerate(cast("list[object]", value) if isinstance(value, list) else [None]):
        entry = cast("dict[str, object]", model) if isinstance(model, dict) else {}
        if not isinstance(entry.get("name"), str) or not isinstance(entry.get("results"), list):
            found.errors.append(
                fill('"model-index[{i}]" needs "name" and a list "results".', {"i": i}, language)
            )
