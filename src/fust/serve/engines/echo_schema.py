"""The plainest value that fits a JSON schema: what the echo engine answers where JSON of a form is asked for."""

from __future__ import annotations

import math
from typing import Any, cast

_DEEPEST = 32
_MOST_ITEMS = 1000
_EXAMPLES = {
    "date": "2026-01-01", "time": "12:00:00Z", "date-time": "2026-01-01T12:00:00Z", "email": "a@example.org",
    "uuid": "00000000-0000-4000-8000-000000000000", "uri": "https://example.org/", "ipv4": "192.0.2.1",
}  # fmt: skip

Node = dict[str, Any]


def instance_of(schema: Node) -> Any:
    """Returns the first of an enum, the least number, no more than is required; None where it knows no example.

    Words that a value without extras hardly breaks (`uniqueItems`, `not`, `pattern` and their like) are not read.
    """
    return _Maker(schema).make(schema, _DEEPEST)


class _Maker:
    def __init__(self, root: Node) -> None:
        self._root = root

    def make(self, node: Any, depth: int) -> Any:
        if not isinstance(node, dict) or depth == 0:
            return None
        schema = self._flat(cast(Node, node), depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        match _kind(schema):
            case "object":
                properties: Node = schema.get("properties") or {}
                names: list[str] = schema.get("required") or []
                return {name: self.make(properties.get(name), depth - 1) for name in names}
            case "array":
                return self._items(schema, depth)
            case "integer":
                return _number(schema, whole=True)
            case "number":
                return _number(schema, whole=False)
            case "boolean":
                return True
            case "string":
                return _text(schema)
            case _:
                return None

    def _flat(self, schema: Node, depth: int) -> Node:
        """Returns a schema with its reference followed, its parts put together and its first choice taken."""
        for _ in range(depth):
            parts: list[Node] = []
            if isinstance(schema.get("$ref"), str):
                parts = [self._pointed(schema["$ref"])]
            for word in ("anyOf", "oneOf"):
                if schema.get(word):
                    parts.append(schema[word][0])
            parts += schema.get("allOf") or []
            if not parts:
                return schema
            rest = {k: v for k, v in schema.items() if k not in ("$ref", "anyOf", "oneOf", "allOf")}
            schema = _merged([rest, *parts])
        return {}

    def _pointed(self, reference: str) -> Node:
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = cast(Node, found).get(name) if isinstance(found, dict) else None
        return cast(Node, found) if isinstance(found, dict) else {}

    def _items(self, schema: Node, depth: int) -> list[Any]:
        fixed: list[Any] = schema.get("prefixItems") or []
        made = [self.make(part, depth - 1) for part in fixed]
        more = min(int(schema.get("minItems", 0)) - len(made), _MOST_ITEMS)
        return made + [self.make(schema.get("items"), depth - 1) for _ in range(max(0, more))]


def _merged(parts: list[Node]) -> Node:
    merged: Node = {}
    for part in parts:
        for key, value in part.items():
            held = merged.get(key)
            if isinstance(held, dict) and isinstance(value, dict):
                merged[key] = {**cast(Node, held), **cast(Node, value)}
            elif isinstance(held, list) and isinstance(value, list):
                merged[key] = [*cast("list[Any]", held), *cast("list[Any]", value)]
            else:
                merged[key] = value
    return merged


def _kind(schema: Node) -> str:
    kind: Any = schema.get("type")
    if isinstance(kind, list):
        kind = cast("list[Any]", kind)[0] if kind else None
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "null"
    return str(kind)


def _number(schema: Node, *, whole: bool) -> float:
    """Returns the least number that is allowed; 0 when nothing forbids it."""
    step: float = schema.get("multipleOf") or (1 if whole else 0.5)
    low: float = schema.get("minimum", -math.inf)
    high: float = schema.get("maximum", math.inf)
    if "exclusiveMinimum" in schema:
        low = max(low, schema["exclusiveMinimum"] + step)
    if "exclusiveMaximum" in schema:
        high = min(high, schema["exclusiveMaximum"] - step)
    found = 0 if low <= 0 <= high else low if low > 0 else high
    if "multipleOf" in schema:
        found = (math.ceil if low > 0 else math.floor)(found / step) * step
    return (math.ceil if low > 0 else math.floor)(found) if whole else found


def _text(schema: Node) -> str:
    text = _EXAMPLES.get(str(schema.get("format", "")), "echo")
    least = min(int(schema.get("minLength", 0)), 1 << 20)
    while len(text) < least:
        text += text
    return text[: max(least, 1)] if least > len("echo") else text[: schema.get("maxLength", len(text))]
