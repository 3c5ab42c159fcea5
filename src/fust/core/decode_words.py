"""What msgspec says of JSON that cannot be read, or of a value that does not fit, and tomllib of TOML, in either language.

Its sentences are English ones with a path behind them: "Expected `int`, got `str` - at `$.max_tokens`". Each becomes a
template with fields, so that a message in Chinese has no English inside. A sentence that is not known stays as it is.
Source: the format strings of msgspec 0.22's `_core.c` and of CPython's `tomllib/_parser.py`; the test compares them with
those of the libraries that are installed.
"""

from __future__ import annotations

import functools
import re
import string
import tomllib
from collections.abc import Iterable

import msgspec

from fust.core.i18n import Words

_MOST = 200
"""Letters of one field; a value that does not fit may be as long as the whole body."""

SENTENCES = (
    "Expected `{type}` with a timezone component",
    "Expected `{type}` with no timezone component",
    "Expected `{type}` matching regex {pattern}",
    "Expected `{type}` that's a multiple of {number}",
    "Expected `{type}` of at least length {least}, got {length}",
    "Expected `{type}` of at most length {most}, got {length}",
    "Expected `{type}` of at most length {most}",
    "Expected `{type}` of length {least} to {most}, got {length}",
    "Expected `{type}` of length {least} to {most}",
    "Expected `{type}` of length <= {most}",
    "Expected `{type}` of length >= {least}",
    "Expected `{type}` of length {wanted}, got {length}",
    "Expected `{type}` of length {wanted}",
    "Expected `{type}` >= {least}",
    "Expected `{type}` <= {most}",
    "Expected `{type}` > {least}",
    "Expected `{type}` < {most}",
    "Expected `{type}`, got `{found}`",
    "Expected `{type}`",
    "Object contains unknown field `{name}`",
    "Object missing required field `{name}`",
    "Invalid enum value {value}",
    "Invalid value {value}",
    "Invalid RFC3339 encoded datetime",
    "Invalid RFC3339 encoded date",
    "Invalid RFC3339 encoded time",
    "Invalid ISO8601 duration",
    "Only units 'D', 'H', 'M', and 'S' are supported when parsing ISO8601 durations",
    "Duration is out of range",
    "Invalid epoch timestamp",
    "Timestamp is out of range",
    "Invalid UUID bytes",
    "Invalid UUID",
    "Invalid base64 encoded string",
    "Invalid decimal string",
    "Integer value out of range",
    "Number out of range",
    "Input data was truncated",
    "JSON is malformed: {fault} (byte {at})",
)
FAULTS = (
    "invalid number",
    "invalid character",
    "invalid escaped character",
    "invalid escape character in string",
    "invalid character in unicode escape",
    "invalid utf-16 surrogate pair",
    "unexpected end of escaped utf-16 surrogate pair",
    "unexpected end of hex escape",
    "expected ',' or ']'",
    "expected ',' or '}}'",
    "expected ':'",
    "trailing comma in array",
    "trailing comma in object",
    "trailing characters",
    "object keys must be strings",
)
"""What follows "JSON is malformed"."""
TOML_FAULTS = (
    "Cannot declare {key} twice",
    "Cannot mutate immutable namespace {key}",
    "Cannot overwrite a value",
    "Cannot redefine namespace {key}",
    "Duplicate inline table key {key}",
    "Escaped character is not a Unicode scalar value",
    "Expected '=' after a key in a key/value pair",
    "Expected ']' at the end of a table declaration",
    "Expected ']]' at the end of an array declaration",
    "Expected newline or end of document after a statement",
    "Expected {wanted}",
    "Found invalid character {character}",
    "Illegal character {character}",
    "Invalid date or datetime",
    "Invalid hex value",
    "Invalid initial character for a key part",
    "Invalid statement",
    "Invalid value",
    "Unclosed array",
    "Unclosed inline table",
    "Unescaped '\\' in a string",
    "Unterminated string",
)
"""What tomllib says before the place."""
_TOML_PLACES = ("{fault} (at line {line}, column {column})", "{fault} (at end of document)")
_PLACES = ("{fault} - at `key` in `{path}`", "{fault} - at `{path}`")


def words_of(error: Exception | str) -> Words | str:
    """Returns why JSON or TOML could not be decoded, or a value converted.

    Args:
        error: what was raised: msgspec's or tomllib's, or what comes instead of it for bytes that are no text and for endless nesting;
            or msgspec's sentence alone.
    """
    if isinstance(error, UnicodeDecodeError):
        return Words("byte {at} is not UTF-8", at=error.start)
    if isinstance(error, RecursionError):
        return Words("it is nested too deeply")
    if isinstance(error, tomllib.TOMLDecodeError):
        return _read_toml(str(error))
    if isinstance(error, str | msgspec.MsgspecError):
        return _read(str(error))
    return str(error)[:_MOST]


def _read(said: str) -> Words | str:
    for template in _PLACES:
        found = _pattern(template).fullmatch(said)
        if found and found["path"].startswith("$"):
            return Words(template, fault=_read(found["fault"]), path=_short(found["path"]))
    for template in (*SENTENCES, *FAULTS):
        found = _pattern(template).fullmatch(said)
        if found:
            return Words(template, **{name: _field(name, value) for name, value in found.groupdict().items()})
    return _short(said)


def _read_toml(said: str) -> Words | str:
    for template in _TOML_PLACES:
        found = _pattern(template).fullmatch(said)
        if found:
            fields: dict[str, object] = dict(found.groupdict())
            return Words(template, **(fields | {"fault": _read_toml(found["fault"])}))
    return read_as(TOML_FAULTS, said) or _short(said)


def read_as(templates: Iterable[str], said: str) -> Words | None:
    """Returns a sentence that somebody else's English template made as words; None when it is none of them."""
    for template in templates:
        found = _pattern(template).fullmatch(said)
        if found:
            return Words(template, **{name: _short(value) for name, value in found.groupdict().items()})
    return None


def _field(name: str, value: str) -> Words | str:
    return _read(value) if name == "fault" else _short(value)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    """Returns what matches a template filled in; a type or a path ends where its quotation does."""
    parts: list[str] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(re.escape(literal))
        if name:
            parts.append(f"(?P<{name}>{'[^`]*' if name in ('type', 'found') else '.*'})")
    return re.compile("".join(parts), re.DOTALL)


def _short(text: str) -> str:
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"
