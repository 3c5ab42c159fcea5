"""JSON schemas that an answer has to fit: which of their words the engine's grammar keeps, and schemas inside others.

llama.cpp turns a schema into a grammar and leaves out what a grammar cannot say, without a word of it (tried with
xllamacpp 2026.10.11549). A schema that is `strict` is a promise, so those words are refused by their place.
"""

from __future__ import annotations

from typing import Any, cast

from fust.core.errors import InvalidInput, Unsupported
from fust.wire.body import check_depth

_NOT_KEPT = frozenset(
    {
        "contains", "contentEncoding", "contentMediaType", "contentSchema", "dependencies", "dependentRequired",
        "dependentSchemas", "else", "if", "maxContains", "maxProperties", "minContains", "minProperties", "multipleOf", "not",
        "patternProperties", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
    }
)  # fmt: skip
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_FORMATS = frozenset({"date", "time", "date-time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5"})
_ONE = ("items", "additionalProperties")
_MANY = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions")


def check_schema(schema: dict[str, Any], path: str, *, strict: bool) -> None:
    """Refuses a schema that is too deep, or one whose words would not all be kept although it is strict.

    Raises:
        InvalidInput: nested too deeply, or `required` names what `properties` lacks while nothing else is allowed.
        Unsupported: a word that no grammar keeps; `param` is its place.
    """
    check_depth(schema, path)
    if strict:
        _check_kept(schema, path)


def _check_kept(schema: object, path: str) -> None:
    if not isinstance(schema, dict):
        return
    node = cast("dict[str, Any]", schema)
    for word, value in node.items():
        if (
            word in _NOT_KEPT
            or (word in _BOUNDS and node.get("type") != "integer")
            or (word == "format" and value not in _FORMATS)
        ):
            raise Unsupported(
                "A strict schema cannot use {word}: it would not be kept.",
                hint="Leave it out, or set strict to false.",
                word=word,
                param=f"{path}.{word}",
            )
    _check_required(node, path)
    for word in _ONE:
        _check_kept(node.get(word), f"{path}.{word}")
    for word in _MANY:
        parts = node.get(word)
        for index, part in enumerate(cast("list[object]", parts) if isinstance(parts, list) else ()):
            _check_kept(part, f"{path}.{word}[{index}]")
    for word in _NAMED:
        named = node.get(word)
        for name, part in (cast("dict[str, object]", named) if isinstance(named, dict) else {}).items():
            _check_kept(part, f"{path}.{word}.{name}")


def _check_required(node: dict[str, Any], path: str) -> None:
    required, properties = node.get("required"), node.get("properties")
    if not isinstance(required, list) or not isinstance(properties, dict | None):
        return
    known = cast("dict[str, Any]", properties or {})
    for name in cast("list[object]", required):
        if name not in known:
            raise InvalidInput(
                "A strict schema requires {name!r}, which is not among its properties.",
                name=str(name)[:100],
                param=f"{path}.required",
            )


def moved(schema: dict[str, Any], to: str) -> dict[str, Any]:
    """Returns a schema that can stand at the JSON pointer ``to`` of another: its references from the root follow it."""
    return cast("dict[str, Any]", _moved(schema, to))


def _moved(value: object, to: str) -> object:
    if isinstance(value, dict):
        found: dict[str, object] = {}
        for key, item in cast("dict[str, object]", value).items():
            if key == "$ref" and isinstance(item, str) and item.startswith("#"):
                found[key] = f"#{to}{item[1:]}"
            else:
                found[key] = _moved(item, to)
        return found
    if isinstance(value, list):
        return [_moved(item, to) for item in cast("list[object]", value)]
    return value
