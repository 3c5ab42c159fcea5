"""Model and dataset cards: the YAML between the first two `---` of README.md, read with care and bounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import yaml

MAX_CARD_BYTES = 1_000_000
_MAX_YAML_BYTES = 200_000
_FRONT = re.compile(r"\A﻿?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


_Loader = cast("type[yaml.SafeLoader]", getattr(yaml, "CSafeLoader", yaml.SafeLoader))
"""libyaml's where the wheel has it: thirty times faster, and no pile of brackets makes it slow."""
_MAX_DEPTH = 40
_OPENS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_CLOSES = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def _load(text: str) -> object:
    """Returns what YAML says, by safe types only.

    Raises:
        yaml.YAMLError: not YAML, nested too deep, or with aliases: ten lines of them can stand for a billion values.

    """
    depth = 0
    parse = cast("Callable[..., Iterator[object]]", yaml.parse)  # pyright: ignore[reportUnknownMemberType]
    for event in parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed in a card")
        depth += isinstance(event, _OPENS) - isinstance(event, _CLOSES)
        if depth > _MAX_DEPTH:
            raise yaml.YAMLError("nested too deep")
    return cast("object", yaml.load(text, Loader=_Loader))


_UNREADABLE = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""PyYAML's constructors raise what Python raises on odd values (`!!bool maybe` is a KeyError)."""
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Card:
    """What a README says about its repo."""

    data: dict[str, Any]
    """JSON values only."""
    licence: str
    languages: list[str]
    task: str
    library: str
    tags: list[str]
    description: str
    sdk: str
    """Of a space: what runs it."""
    error: str
    """Why the YAML could not be read; empty when it could."""


_TAG_KEYS = (
    ("datasets", "dataset"),
    ("base_model", "base_model"),
    ("models", "model"),
    ("task_categories", "task_categories"),
    ("task_ids", "task_ids"),
    ("size_categories", "size_categories"),
    ("source_datasets", "source_datasets"),
)
"""Keys of a card whose values the Hub lists as tags, each after a word and a colon."""


def all_tags(card: Card) -> list[str]:
    """Returns the tags that a card names, and those that the Hub makes of its other keys (`base_model:owner/name`)."""
    made = [f"{word}:{value}" for key, word in _TAG_KEYS for value in _words(card.data.get(key))]
    return list(dict.fromkeys([*card.tags, *made]))[:300]


def parse_card(text: str) -> Card:
    """Returns what a card says; never raises, an unreadable one says so in ``error``."""
    match = _FRONT.match(text)
    data: dict[str, Any] = {}
    error = ""
    if match:
        if len(match[1]) > _MAX_YAML_BYTES:
            error = "the YAML block is too long"
        else:
            try:
                loaded = _load(match[1])
                if loaded is not None and not isinstance(loaded, dict):
                    error = "the YAML block is not a mapping"
                elif loaded:
                    data = cast("dict[str, Any]", _plain(cast("object", loaded), 0))
            except _UNREADABLE as problem:
                error = _text(str(problem))[:500] or "it cannot be read"
    body = text[match.end() :] if match else text
    return Card(
        data=data,
        licence=_word(data.get("license")),
        languages=_words(data.get("language")),
        task=_word(data.get("pipeline_tag")) or next(iter(_words(data.get("task_categories"))), ""),
        library=_word(data.get("library_name")),
        tags=_words(data.get("tags")),
        description=_first_paragraph(body),
        sdk=_word(data.get("sdk"))[:50],
        error=error,
    )


def _plain(value: object, depth: int) -> object:
    """Returns the value with JSON types only: dates, numbers beyond 64 bits and what is no number become text."""
    if depth > 30:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        items = cast("dict[object, object]", value)
        return {_text(str(k)): _plain(v, depth + 1) for k, v in items.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v, depth + 1) for v in cast("list[object]", value)]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, int) and abs(value) > _LARGEST:
        return hex(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text(str(value))


def _text(value: str) -> str:
    """Returns the text without halves of surrogate pairs, which UTF-8 cannot hold."""
    return value.encode("utf-8", "replace").decode()


def _word(value: object) -> str:
    if isinstance(value, list):
        value = cast("list[object]", value)[0] if value else ""
    return str(cast("object", value))[:200] if isinstance(value, str | int | float | bool) else ""


def _words(value: object) -> list[str]:
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    return [_word(item) for item in items if _word(item)][:200]


def _first_paragraph(body: str) -> str:
    for block in re.split(r"\n\s*\n", body[:20_000]):
        lines = [line.strip() for line in block.strip().splitlines()]
        plain = " ".join(
            line for line in lines if line and not line.startswith(("#", "<", "!", "[!", "|", "```", "---"))
        )
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        plain = re.sub(r"[*_`]", "", plain).strip()
        if plain:
            return plain[:300]
    return ""
