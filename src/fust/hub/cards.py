"""Model and dataset cards: the YAML between the first two `---` of README.md, read with care and bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import yaml

MAX_CARD_BYTES = 1_000_000
_MAX_YAML_BYTES = 200_000
_FRONT = re.compile(r"\A﻿?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


class _NoAliases(yaml.SafeLoader):
    """A safe loader without aliases: ten lines of them can stand for a billion values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):  # pyright: ignore[reportUnknownMemberType]
            raise yaml.YAMLError("aliases are not allowed in a card")
        return super().compose_node(parent, index)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


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
    error: str
    """Why the YAML could not be read; empty when it could."""


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
                loaded: object = yaml.load(match[1], _NoAliases)
                if loaded is not None and not isinstance(loaded, dict):
                    error = "the YAML block is not a mapping"
                elif loaded:
                    data = cast("dict[str, Any]", _plain(cast("object", loaded), 0))
            except (yaml.YAMLError, ValueError, RecursionError) as problem:
                error = str(problem)[:500]
    body = text[match.end() :] if match else text
    return Card(
        data=data,
        licence=_word(data.get("license")),
        languages=_words(data.get("language")),
        task=_word(data.get("pipeline_tag")) or next(iter(_words(data.get("task_categories"))), ""),
        library=_word(data.get("library_name")),
        tags=_words(data.get("tags")),
        description=_first_paragraph(body),
        error=error,
    )


def _plain(value: object, depth: int) -> object:
    """Returns the value with JSON types only (dates become text)."""
    if depth > 30:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        items = cast("dict[object, object]", value)
        return {str(k): _plain(v, depth + 1) for k, v in items.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(v, depth + 1) for v in cast("list[object]", value)]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


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
