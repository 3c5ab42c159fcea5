"""What every request body of the model surface shares: how it is read, and what becomes of each of its fields.

A field of a vendor's schema falls into one of three groups: honoured; ``ignored``, since it cannot change the answer;
or refused with ``unsupported_parameter`` unless it has a value that asks for nothing (``neutral``). Any other field is
refused by its name.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, TypeVar, cast

import msgspec
from msgspec import UNSET

from fust.core.decode_words import words_of
from fust.core.errors import FustError, InvalidInput, Unsupported

MAX_DEPTH = 64


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A request's body, or a part of one."""

    ignored: ClassVar[frozenset[str]] = frozenset()
    """Accepted, and without effect: none of them can change the answer."""
    neutral: ClassVar[dict[str, tuple[object, ...]]] = {}
    """Not offered; null and these values ask for nothing and pass."""
    kinds: ClassVar[dict[str, frozenset[str]]] = {}
    """Of a whole request: list in it -> the types of objects that are read there. The vendors have many more."""


Request = TypeVar("Request", bound=Body)

_PATH = re.compile(r" - at `\$\.?(.*)`$")
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`")


def decode_request(decoder: msgspec.json.Decoder[Request], body: bytes) -> Request:
    """Returns the request.

    Raises:
        InvalidInput: not JSON, a field of the wrong type (its path is `param`), or one that nobody knows.
        Unsupported: a field that would change the answer and that Fust does not offer.
    """
    try:
        request = decoder.decode(body)
    except msgspec.ValidationError as error:
        reason = str(error)
        raise _of_another_kind(body, reason, decoder.type.kinds) or _explain(reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            "The body is not valid JSON: {reason}.", reason=words_of(error), code="invalid_json"
        ) from None
    except RecursionError:
        raise _too_deep() from None
    check_neutral(request)
    return request


def check_neutral(body: Body, path: str = "") -> None:
    """Raises Unsupported when a body, or the part of one at ``path``, asks for what is not offered."""
    for name, neutral in body.neutral.items():
        value: Any = getattr(body, name)
        if value is not UNSET and value is not None and value not in neutral:
            shown = dict(zip(body.__struct_fields__, body.__struct_encode_fields__, strict=True))[name]
            raise unsupported(f"{path}.{shown}" if path else shown)


def unsupported(name: str) -> Unsupported:
    """Returns the error for a field that is known and not offered."""
    return Unsupported("{param} is not offered here.", hint="Leave it out.", param=name)


def check_depth(value: object, name: str, depth: int = MAX_DEPTH) -> None:
    """Raises InvalidInput when free-form JSON is nested deeper than engines should be asked to follow."""
    children = _children(value)
    if not children:
        return
    if depth == 0:
        raise _too_deep(name)
    for child in children:
        check_depth(child, name, depth - 1)


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []


def _too_deep(name: str = "") -> InvalidInput:
    return InvalidInput(
        "The JSON of the request is nested too deeply.",
        hint="Keep to {depth} levels.",
        depth=MAX_DEPTH,
        param=name or None,
        code="invalid_json",
    )


def _of_another_kind(body: bytes, reason: str, kinds_of: dict[str, frozenset[str]]) -> Unsupported | None:
    """Returns the error for a fault inside an object of a type that is not offered: its fields are nobody's mistake."""
    match = _PATH.search(reason)
    try:
        here: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    path, kinds = "", frozenset[str]()
    for name, index in _STEP.findall(match[1] if match else ""):
        try:
            here = here[name or int(index)]
        except (KeyError, IndexError, TypeError):
            return None
        path += f"[{index}]" if index else f".{name}" if path else name
        kind = _type_of(here)
        if index and kinds and isinstance(kind, str) and kind not in kinds:
            return unsupported(f"{path}.type")
        kinds = kinds_of.get(name, frozenset[str]()) if name else kinds
    return None


def _type_of(value: object) -> object:
    return cast("dict[str, object]", value).get("type") if isinstance(value, dict) else None


def _explain(reason: str) -> FustError:
    match = _PATH.search(reason)
    path = match[1] if match else ""
    fault = reason[: match.start()] if match else reason
    unknown = _UNKNOWN.match(fault)
    if unknown:
        name = f"{path}.{unknown[1]}" if path else unknown[1]
        return InvalidInput(
            "There is no parameter {param!r}.",
            hint="Check its spelling, or leave it out.",
            param=name,
            code="unknown_parameter",
        )
    missing = re.match(r"Object missing required field `(.*?)`", fault)
    if missing:
        name = f"{path}.{missing[1]}" if path else missing[1]
        return InvalidInput(
            "The parameter {param!r} is missing.", param=name, code="missing_required_parameter"
        )
    return InvalidInput(
        "{param} has a value that is not allowed: {reason}.",
        param=path or "$",
        reason=words_of(fault),
        code="invalid_value",
    )
